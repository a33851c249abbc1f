//! Owns scoring: metrics of text, suites that ask a model, statistics of the numbers; it must not talk to a
//! store or a network.
//!
//! ```text
//! evaluate ── suite ─┬─ perplexity ── window        which tokens condition on which
//!                    └─ generation ── metric        BLEU, chrF, ROUGE
//!              both ask a `subject` (model, tokenizer, template) and give a `table` of statistics
//! ```

pub mod bootstrap;
mod error;
mod evaluate;
pub mod metric;
mod record;
mod sampler;
mod subject;
mod suite;
mod table;
mod text;
pub mod window;

pub use error::Error;
pub use evaluate::{Inputs, Observer, Progress, RESULTS_FILE, evaluate};
pub use record::{Document, Prompt, read_documents, read_prompts};
pub use subject::Subject;

//! Text to datasets, and datasets to batches.
//!
//! Owns sources, extraction, filters, deduplication, tokenizers, shards and the loader. It must not talk to an
//! object store or to Kubernetes: the worker brings files here and takes the finished directory away. Memory is
//! bounded by one document and one encoding batch; the output is a function of the task and the sources' bytes
//! alone, not of threads, file order or interruptions.

mod byte_pair;
mod dedup;
mod document;
mod error;
mod extract;
mod filter;
mod licence;
mod loader;
mod prepare;
mod provenance;
mod record;
mod shard;
mod source;
mod spool;
mod tokenizer;

pub use document::{Document, Subject};
pub use error::DataError;
pub use filter::{RepetitionFilter, RepetitionRule};
pub use loader::{Batch, Loader, Share, ValidationRows};
pub use prepare::{Control, PrepareStage, Prepared, Statistics, prepare};
pub use shard::{Description, Split, TokenStream};
pub use source::{LocalSource, PathFilter};
pub use tokenizer::{END_OF_TEXT, Encoder, SPECIAL_TOKENS, train_texts};

#[cfg(test)]
mod tests;

//! Owns training: pretraining from token shards, supervised tuning of conversations, checkpoints and exact
//! resume; it must not fetch inputs, publish artefacts or talk to the operator.
//!
//! ```text
//! pretrain ─┐                       ┌─ schedule   learning rate of a step
//!           ├─ session (the loop) ──┼─ optimizer  AdamW, clipping
//! tune ─────┘    reads `Batches`    ├─ ranks      sums over data-parallel processes
//!                                   └─ checkpoint exact resume
//! ```

mod batch;
mod checkpoint;
mod conversation;
mod error;
mod observer;
mod optimizer;
mod outcome;
mod pretrain;
mod ranks;
mod schedule;
mod session;
mod tune;

pub use batch::{Batches, Rows};
pub use checkpoint::Point;
pub use conversation::{Conversations, read_conversations};
pub use error::Error;
pub use observer::{Observer, Progress};
pub use outcome::{Finished, Inputs, Outcome};
pub use pretrain::{architecture, pretrain};
pub use ranks::Ranks;
pub use schedule::factor as schedule_factor;
pub use session::{End, Settings, Summary, run};
pub use tune::tune;

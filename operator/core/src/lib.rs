//! The decisions of the operator: from an observed snapshot to a plan, for each of the five kinds.
//!
//! Owns what should happen and how it is told (conditions, reasons, events). It must not read, write or wait:
//! time, caches and answers from the object store come in as values, actions go out as values.

pub mod access;
pub mod action;
pub mod condition;
mod dataset;
pub mod dependency;
mod deployment;
mod evaluation;
mod finetune;
pub mod kind;
pub mod label;
pub mod peer;
pub mod plan;
pub mod pod;
mod pretrainjob;
pub mod query;
pub mod reason;
pub mod run;
pub mod settings;
mod training;
pub mod unimplemented;

pub use action::{Action, ObjectRef, Propagation, StoreOperation};
pub use kind::{CHILD_KINDS, Children, Kind, Object, Observed, World, observe};
pub use peer::{Edge, Key, Peer, Reference, Standing};
pub use plan::{Event, Plan};
pub use query::{Answer, Artefact, Checkpoint, Completion, Facts, Query, Received};
pub use reason::{Halt, Invalid, Reason};
pub use settings::Settings;

//! Effects around the pure decisions of bessemer-core: watches, execution, publishing, the lease, telemetry, the intake
//! of progress. [`run`] is the one wiring that the operator and the command line start; it decides nothing itself.

pub mod backoff;
pub mod bug;
pub mod cache;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod definition;
pub mod event;
mod execute;
mod http;
pub mod intake;
pub mod lease;
pub mod metric;
pub mod outside;
mod packed;
mod publish;
pub mod queue;
pub mod raw;
pub mod reconcile;
pub mod remote;
mod requeue;
mod run;
pub mod telemetry;
pub mod watch;

pub use run::{Config, Error, Parts, listen, run};

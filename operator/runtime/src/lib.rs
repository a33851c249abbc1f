//! Effects around the pure decisions of bessemer-core.

pub mod backoff;
pub mod cache;
pub mod client;
pub mod clock;
pub mod event;
pub mod intake;
pub mod lease;
pub mod metric;
pub mod queue;
pub mod telemetry;
pub mod watch;

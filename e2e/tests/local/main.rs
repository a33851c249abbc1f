//! The whole life of a model on one machine, through the binaries that a user runs. Every test has a control plane of
//! its own over tiny text, so that a chain takes seconds. Run by `make e2e`; the binaries must be built.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // reason: a test says by panicking that it failed, in its helpers too

mod canary;
mod chain;
mod client;
mod column;
mod command;
mod fault;
mod gate;
mod kill;
mod kubectl;
mod metric;
mod plane;
mod process;
mod promotion;
mod ranks;
mod source;
mod trace;

//! The real worker on a tiny chain, prepare to a served completion, over a real S3 server; and everything that can
//! go wrong on the way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // reason: a test fails by panicking

mod disk;
mod fault;
mod gpu;
mod kill;
mod ranks;
mod run;
mod serve;
mod store;

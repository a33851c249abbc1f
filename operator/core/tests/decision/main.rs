//! Tests of the decisions through the public API: an in-memory cluster carries plans out, and what comes of it is judged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy's own exemption covers only the test functions themselves"
)]

mod cluster;
mod deployment;
mod field;
mod fixture;
mod gateway;
mod gitops;
mod hindrance;
mod kstatus;
mod property;
mod refusal;
mod router;
mod run;
mod snapshot;
mod source;
mod worker;

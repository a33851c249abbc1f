//! Tests of the decisions through the public API: an in-memory cluster carries plans out, and what comes of it is judged.

mod cluster;
mod deployment;
mod fixture;
mod kstatus;
mod property;
mod refusal;
mod run;
mod snapshot;
mod worker;

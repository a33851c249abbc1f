//! End-to-end tests by level. `conformance` runs the same scenarios against the embedded API and a real kube-apiserver.

pub mod cluster;
pub mod conformance;
pub mod scale;
pub mod simulation;

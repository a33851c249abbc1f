//! Owns the kernels that libtorch lacks, each with a plain reference and a benchmark; it must not own models.
//!
//! CPU kernels are C++ in cpu/, CUDA kernels are in cuda/ and compiled apart (`make kernels`).

#![allow(unsafe_code)] // reason: this crate is a foreign-function boundary; every block says what it relies on

mod cuda;
mod head_loss;
mod reference;

pub use cuda::{Cuda, Unavailable};
pub use head_loss::{Error, IGNORE, Version, head_loss, head_loss_calls};
pub use reference::head_loss as head_loss_reference;

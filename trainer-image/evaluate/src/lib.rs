//! Owns scoring: metrics of text, suites that ask a model, statistics of the numbers; it must not talk to a
//! store or a network.

pub mod bootstrap;
pub mod metric;
mod text;

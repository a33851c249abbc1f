//! Owns the suites; each scores samples with a subject and names its metrics.

pub(crate) mod generation;
pub(crate) mod perplexity;

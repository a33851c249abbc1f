//! Owns the metrics of text against references, equal to sacrebleu 2.6.0 and rouge-score 0.1.2; it must not
//! know models or files.

pub mod bleu;
pub mod chrf;
mod count;
mod porter;
pub mod rouge;

//! Owns the form of an evaluation's result; the worker writes it into the artefact's statistics
//! (`{"results": [...]}`), the operator copies it into status and gates read it.

use serde::{Deserialize, Serialize};

/// One number of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationResult {
    /// Name of the suite in the spec.
    pub suite: String,
    /// `wordPerplexity`, `bytePerplexity`, `bitsPerByte`, `loss`, `bleu`, `chrf`, `rouge1`, `rouge2`, `rougeL`, `rougeLsum`;
    /// for the baseline the same with the prefix `baseline.`, for the difference `delta.`.
    pub metric: String,
    /// The value; absent when it could not be computed (then it never passes a gate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Lower end of the 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of the 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Documents or prompts scored.
    pub samples: u64,
    /// Direction of better.
    pub higher_is_better: bool,
}

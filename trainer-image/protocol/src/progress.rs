//! Owns the progress report. A report may be lost, repeated or late: it must never carry a result.

use serde::{Deserialize, Serialize};

/// What a worker is doing, in the order in which a run passes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Reading and verifying inputs.
    Fetching,
    /// Reading and cleaning sources.
    Reading,
    /// Training a tokenizer.
    Tokenizer,
    /// Encoding documents into shards.
    Encoding,
    /// Training or tuning.
    Training,
    /// Scoring.
    Evaluating,
    /// Uploading the artefact.
    Publishing,
}

/// One report of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgressReport {
    /// Namespace of the object.
    pub namespace: String,
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object; a report for another is dropped.
    pub uid: String,
    /// Run it belongs to; a report for another is dropped.
    pub run_key: String,
    /// Attempt it comes from.
    pub attempt: u32,
    /// What the worker is doing.
    pub stage: Stage,
    /// Share of the whole run that is done, 0 to 100, never falling within an attempt.
    pub percent: f64,
    /// Optimizer steps (training) or documents/samples done.
    pub step: u64,
    /// Total of the same unit, 0 when not known yet.
    pub total_steps: u64,
    /// Seconds that the rest will take, when it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// Tokens per second over the last few steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Model FLOPs utilisation over the same steps, 0 to 1, where the hardware's peak is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_flops_utilization: Option<f64>,
    /// Training loss, nats per token, mean over the last few steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Validation loss, nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The newest checkpoint in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointReport>,
}

/// A checkpoint that is complete in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointReport {
    /// Optimizer steps done when it was taken.
    pub step: u64,
    /// Its directory in the store.
    pub uri: String,
    /// Digest of its manifest.
    pub digest: String,
}

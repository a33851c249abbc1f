//! Owns the run configuration that the operator renders and the worker reads; it must not hold file
//! system paths or secrets, which reach the worker through its environment.

use serde::{Deserialize, Serialize};

use crate::task::Task;

/// Version of [`RunConfig`]; a worker refuses any other.
pub const SCHEMA_VERSION: u32 = 1;

/// All that a worker has to know about its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunConfig {
    /// Must equal [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Which object this run belongs to.
    pub run: Run,
    /// Where artefacts are read and written.
    pub storage: Storage,
    /// Artefacts the task reads, each pinned by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// What to do.
    pub task: Task,
    /// GPUs of the pod; 0 computes on its CPUs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // reason: serde gives a reference
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Identity of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// Namespace of the object.
    pub namespace: String,
    /// Kind of the object, PascalCase (`Dataset`, `PretrainJob`, ...).
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// Generation of the object's spec that this run was rendered from.
    pub generation: i64,
    /// Content identity of the run, see [`crate::run_key`].
    pub run_key: String,
    /// Counts restarts of the same run, from 0.
    pub attempt: u32,
}

/// Object store that holds the artefacts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// URL of an S3-compatible store; absent means AWS itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region, `us-east-1` where the store has none.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Key prefix below which all artefacts live; may be empty; no leading or trailing slash.
    #[serde(default)]
    pub prefix: String,
}

/// What an input is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InputRole {
    /// Token shards or instruction records to train or evaluate on.
    Dataset,
    /// Another dataset whose tokenizer is used.
    Tokenizer,
    /// Weights to start from, to evaluate or to serve.
    Model,
    /// Weights to compare with.
    Baseline,
}

/// An artefact that a task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// What it is used for.
    pub role: InputRole,
    /// Kind of the object that made it, PascalCase.
    pub kind: String,
    /// Name of that object; also the key by which task parameters refer to the input.
    pub name: String,
    /// Digest of its manifest, 64 hexadecimal digits.
    pub digest: String,
    /// `s3://bucket/key-prefix` of the directory that holds `manifest.json`.
    pub uri: String,
}

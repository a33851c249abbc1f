//! Owns what pretraining and tuning take and give, and the files of their result besides the model; it must
//! not train.

use std::path::{Path, PathBuf};

use bessemer_model::Model;
use bessemer_protocol::task::Precision;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tch::Kind;

use crate::session::Summary;
use crate::{Error, Ranks};

/// Directories of verified inputs.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Datasets by the name that the task's mixture uses, in the run configuration's order.
    pub datasets: Vec<(String, PathBuf)>,
    /// A Hugging Face directory to start from.
    pub model: Option<PathBuf>,
}

/// How a task ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The model is complete.
    Finished(Finished),
    /// The model is complete, and rank 0 has it.
    Contributed,
    /// Stopped on request after a checkpoint of this step; the worker ends with exit code 75.
    Interrupted {
        /// Optimizer steps done.
        step: u64,
    },
}

/// A finished model.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Hugging Face directory with the model, tokenizer and training.json.
    pub directory: PathBuf,
    /// Numbers of the run.
    pub summary: Summary,
    /// Weights of the model.
    pub parameters: i64,
    /// Weights that were trained: all, or those of the adapter.
    pub trainable: i64,
}

/// Refuses a task for another number of ranks than there are.
pub(crate) fn check_ranks(wanted: u32, ranks: &Ranks) -> Result<(), Error> {
    if wanted as usize == ranks.count() {
        return Ok(());
    }
    Err(Error::Config {
        field: "ranks",
        problem: format!("is {wanted}, but {} run", ranks.count()),
    })
}

/// Weights that are trained.
pub(crate) fn trainable(model: &Model) -> i64 {
    let parameters = model.trainable();
    parameters
        .iter()
        .map(|parameter| i64::try_from(parameter.tensor.numel()).unwrap_or(i64::MAX))
        .sum()
}

/// training.json: the curve, for people and plots. No times, so that equal runs give equal bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    schema_version: u32,
    steps: u64,
    parameters: i64,
    tokens: u64,
    training_flops: f64,
    validation_loss: Option<f64>,
    curve: &'a [crate::Point],
}

/// Name of the file with the curve in a model's directory.
pub(crate) const RECORD_FILE: &str = "training.json";

pub(crate) fn write_record(
    finished: &Finished,
    steps: u64,
    flops_per_token: f64,
) -> Result<(), Error> {
    let record = Record {
        schema_version: 1,
        steps,
        parameters: finished.parameters,
        tokens: finished.summary.tokens,
        training_flops: flops_per_token * finished.summary.tokens as f64,
        validation_loss: finished.summary.validation_loss,
        curve: &finished.summary.curve,
    };
    let path = finished.directory.join(RECORD_FILE);
    let mut text =
        serde_json::to_string_pretty(&record).map_err(|error| Error::file(&path)(error.into()))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(Error::file(&path))
}

/// Identity of a task and the names of its inputs, which a checkpoint carries. Their digests are in the run key, by
/// which the worker keeps work directories and checkpoints apart.
pub(crate) fn fingerprint(task: &impl Serialize, inputs: &Inputs) -> Result<String, Error> {
    let problem = |error: serde_json::Error| Error::Config {
        field: "task",
        problem: error.to_string(),
    };
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(task).map_err(problem)?);
    for (name, _) in &inputs.datasets {
        hash.update(name);
    }
    Ok(hex::encode(hash.finalize()))
}

/// Kind of the matrices' arithmetic.
pub(crate) fn compute(precision: Precision) -> Kind {
    match precision {
        Precision::FP32 => Kind::Float,
        Precision::BF16 => Kind::BFloat16,
    }
}

/// Where a run keeps its checkpoints and its result below its work directory.
pub(crate) fn checkpoints(work: &Path) -> PathBuf {
    work.join("checkpoints")
}

pub(crate) fn result(work: &Path) -> PathBuf {
    work.join("model")
}

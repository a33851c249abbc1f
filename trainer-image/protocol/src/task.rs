//! Owns the parameters of every task. They are complete: the operator resolves every default before it
//! renders them, so the run key covers all that decides the result.

mod evaluate;
mod prepare;
mod train;

use serde::{Deserialize, Serialize};

pub use evaluate::{
    Aggregation, EvaluateTask, GenerationMetric, GenerationSuite, PerplexitySuite, Suite, SuiteKind,
};
pub use prepare::{
    Clean, Format, LANGUAGES, Language, LicensePolicy, PrepareTask, Purpose, Repetition, Source,
    Split, TokenizerSource, Unicode,
};
pub use train::{
    Adapter, Batch, CheckpointPolicy, Family, Mixture, ModelShape, Optimizer, OptimizerKind,
    Phases, Positions, Precision, Schedule, ScheduleKind, TrainTask, TuneTask,
};

/// What a worker does; the tag is the worker's subcommand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "command")]
pub enum Task {
    /// Sources to token shards.
    Prepare(PrepareTask),
    /// Token shards to a model.
    Train(TrainTask),
    /// A model and instruction records to a model.
    Tune(TuneTask),
    /// A model and records to numbers.
    Evaluate(EvaluateTask),
    /// A model to an HTTP server.
    Serve(ServeTask),
}

impl Task {
    /// Processes that do it together.
    pub fn ranks(&self) -> u32 {
        match self {
            Self::Train(task) => task.ranks,
            Self::Tune(task) => task.ranks,
            Self::Prepare(_) | Self::Evaluate(_) | Self::Serve(_) => 1,
        }
    }

    /// The worker's subcommand.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Train(_) => "train",
            Self::Tune(_) => "tune",
            Self::Evaluate(_) => "evaluate",
            Self::Serve(_) => "serve",
        }
    }
}

/// Parameters of a model server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServeTask {
    /// Name under which the model is offered (`model` of requests).
    pub model_name: String,
    /// Sequences decoded together at most.
    pub max_concurrency: u32,
    /// Requests that may wait; one more gets 429.
    pub max_queue: u32,
    /// Whether requests need an API key; the router checks too, the server when reached directly.
    #[serde(default)]
    pub require_api_key: bool,
    /// Seconds that a drain may take.
    pub drain_seconds: u32,
}

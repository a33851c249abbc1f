//! Owns the errors of training and how a worker ends because of each.

use std::path::PathBuf;

use bessemer_protocol::ExitCode;

/// Why training stopped without a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter that cannot be.
    #[error("training: {field} {problem}")]
    Config {
        /// Name of the field, as in the task.
        field: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An input that the task needs and did not get.
    #[error("input {0} is missing; the run configuration must list it")]
    MissingInput(String),
    /// Data that cannot be trained on.
    #[error("{path}: {problem}")]
    Data {
        /// File or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The loss is no number any more.
    #[error(
        "{what} became {value} at step {step}, in {batch}; {kept}. Lower the learning rate or look at these sequences"
    )]
    Diverged {
        /// Loss or gradient norm.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Optimizer step, from 1.
        step: u64,
        /// Which sequences.
        batch: String,
        /// Which checkpoint is the last good one.
        kept: String,
    },
    /// A checkpoint with wrong content.
    #[error(
        "checkpoint {path} is damaged: {problem}; delete this checkpoint to continue from an older one"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A dataset that cannot be read.
    #[error(transparent)]
    Dataset(#[from] bessemer_data::DataError),
    /// A model that cannot be built, read or written.
    #[error(transparent)]
    Model(#[from] bessemer_model::Error),
    /// The fused head refused its input.
    #[error(transparent)]
    Kernel(#[from] bessemer_kernels::Error),
    /// libtorch refused an operation of the shim.
    #[error(transparent)]
    Torch(#[from] bessemer_torch::Error),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(#[from] tch::TchError),
    /// The ranks cannot work together any more.
    #[error(transparent)]
    Ranks(#[from] bessemer_torch::distributed::Error),
    /// Whoever takes the checkpoints could not.
    #[error("the checkpoint of step {step} could not be kept: {problem}")]
    Checkpoint {
        /// Optimizer step.
        step: u64,
        /// In the callback's words.
        problem: String,
    },
}

impl Error {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Config { .. } => "InvalidTraining",
            Self::MissingInput(_) => "MissingInput",
            Self::Data { .. } => "InvalidData",
            Self::Diverged { .. } => "LossDiverged",
            Self::Damaged { .. } => "CheckpointDamaged",
            Self::File { .. } => "FileFailed",
            Self::Dataset(error) => error.category(),
            Self::Model(error) => error.category(),
            Self::Kernel(error) => error.category(),
            Self::Torch(error) => error.category(),
            Self::Libtorch(_) => "LibtorchError",
            Self::Ranks(error) => error.category(),
            Self::Checkpoint { .. } => "CheckpointNotKept",
        }
    }

    /// How the worker ends.
    pub fn exit_code(&self) -> ExitCode {
        use bessemer_data::DataError;
        use bessemer_model::Error as Model;
        match self {
            Self::Dataset(DataError::Config { .. }) => ExitCode::BadConfig,
            Self::Dataset(DataError::Corrupt { .. } | DataError::Io { .. }) => {
                ExitCode::MissingInput
            }
            Self::Dataset(_) => ExitCode::BadData,
            Self::Config { .. } | Self::Model(Model::Config { .. } | Model::Adapter(_)) => {
                ExitCode::BadConfig
            }
            Self::Data { .. } | Self::Diverged { .. } => ExitCode::BadData,
            Self::MissingInput(_) | Self::Damaged { .. } | Self::Model(Model::Content { .. }) => {
                ExitCode::MissingInput
            }
            Self::Model(Model::DiskFull { .. }) => ExitCode::Environment,
            Self::File { source, .. } | Self::Model(Model::File { source, .. }) => {
                match source.kind() {
                    std::io::ErrorKind::NotFound => ExitCode::MissingInput,
                    _ => ExitCode::TryAgain,
                }
            }
            Self::Checkpoint { .. } | Self::Ranks(_) => ExitCode::TryAgain,
            Self::Model(_) | Self::Kernel(_) | Self::Torch(_) | Self::Libtorch(_) => ExitCode::Bug,
        }
    }

    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let wrap = bessemer_model::Error::io(path);
        move |source| match wrap(source) {
            bessemer_model::Error::File { path, source } => Self::File { path, source },
            full => Self::Model(full),
        }
    }
}

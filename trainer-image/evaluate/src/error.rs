//! Owns the errors of evaluation and how a worker ends because of each.

use std::path::{Path, PathBuf};

use bessemer_protocol::ExitCode;

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter that cannot be.
    #[error("evaluation: {field} {problem}")]
    Config {
        /// Name of the field, as in the task.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An input that the task needs and did not get.
    #[error("input {0} is missing; the run configuration must list it")]
    MissingInput(String),
    /// Records that cannot be scored.
    #[error("{path}: {problem}")]
    Data {
        /// File.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A log-probability that is none: the model is broken, a score from it would mislead.
    #[error(
        "suite {suite}, sample {sample}: the model gives a log-probability of {value}; no score is published. Check the weights"
    )]
    NoProbability {
        /// Suite.
        suite: String,
        /// Index of the sample.
        sample: usize,
        /// NaN, infinite or above 0.
        value: f64,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A model that cannot be read or asked.
    #[error(transparent)]
    Model(#[from] bessemer_model::Error),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(#[from] tch::TchError),
    /// Stopped on request; nothing is kept, evaluation starts again.
    #[error("evaluation was interrupted")]
    Interrupted,
}

impl Error {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Config { .. } => "InvalidEvaluation",
            Self::MissingInput(_) => "MissingInput",
            Self::Data { .. } => "InvalidData",
            Self::NoProbability { .. } => "InvalidProbability",
            Self::File { .. } => "FileFailed",
            Self::Model(error) => error.category(),
            Self::Libtorch(_) => "LibtorchError",
            Self::Interrupted => "Interrupted",
        }
    }

    /// How the worker ends.
    pub fn exit_code(&self) -> ExitCode {
        use bessemer_model::Error as Model;
        match self {
            Self::Config { .. } => ExitCode::BadConfig,
            Self::Data { .. } | Self::NoProbability { .. } | Self::Model(Model::Chat(_)) => {
                ExitCode::BadData
            }
            Self::MissingInput(_) | Self::Model(Model::Content { .. }) => ExitCode::MissingInput,
            Self::Model(Model::DiskFull { .. }) => ExitCode::Environment,
            Self::File { source, .. } | Self::Model(Model::File { source, .. }) => {
                match source.kind() {
                    std::io::ErrorKind::NotFound => ExitCode::MissingInput,
                    _ => ExitCode::TryAgain,
                }
            }
            Self::Interrupted => ExitCode::TryAgain,
            Self::Model(_) | Self::Libtorch(_) => ExitCode::Bug,
        }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let wrap = bessemer_model::Error::io(path);
        move |source| match wrap(source) {
            bessemer_model::Error::File { path, source } => Self::File { path, source },
            full => Self::Model(full),
        }
    }

    pub(crate) fn config(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

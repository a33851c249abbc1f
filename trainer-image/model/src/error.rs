//! Owns the errors of this crate; each names the file or field it is about.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a model cannot be built, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shape that no model can have.
    #[error("model configuration: {field} {problem}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// What is wrong and what to do.
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
    /// The disk is full.
    #[error("no space left on the disk of {path}; free some or raise resources.scratch")]
    DiskFull {
        /// What was written.
        path: PathBuf,
    },
    /// A file whose content is not what it must be.
    #[error("{path} is damaged or not supported: {problem}; fetch or export it again")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An adapter that does not fit the model.
    #[error("adapter: {0}")]
    Adapter(String),
    /// A chat template that cannot be parsed, or that refuses the messages.
    #[error("chat template: {0}")]
    Chat(String),
    /// A sequence longer than the model's context.
    #[error("{wanted} tokens do not fit into the model's context of {limit}; shorten the sequence")]
    Context {
        /// Tokens asked for.
        wanted: i64,
        /// Tokens that fit.
        limit: i64,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(#[from] tch::TchError),
}

impl Error {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Config { .. } => "InvalidModel",
            Self::File { .. } => "ModelFile",
            Self::DiskFull { .. } => "DiskFull",
            Self::Content { .. } => "ModelDamaged",
            Self::Adapter(_) => "InvalidAdapter",
            Self::Chat(_) => "InvalidChatTemplate",
            Self::Context { .. } => "ContextTooLong",
            Self::Libtorch(_) => "LibtorchError",
        }
    }

    /// Wraps an error of the file system, a full disk under its own name.
    pub fn io(path: impl AsRef<Path>) -> impl Fn(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::DiskFull { path: path.clone() }
            }
            _ => Self::File {
                path: path.clone(),
                source,
            },
        }
    }
}

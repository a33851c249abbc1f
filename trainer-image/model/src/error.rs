//! Owns the errors of this crate; each names the file or field it is about.

use std::path::PathBuf;

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
            Self::Content { .. } => "ModelDamaged",
            Self::Adapter(_) => "InvalidAdapter",
            Self::Chat(_) => "InvalidChatTemplate",
            Self::Context { .. } => "ContextTooLong",
            Self::Libtorch(_) => "LibtorchError",
        }
    }
}

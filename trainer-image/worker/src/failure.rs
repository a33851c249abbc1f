//! Owns how every error of the libraries ends the worker: exit code, category, sentence, hint. It must not write.

use std::io::ErrorKind;

use bessemer_data::DataError;
use bessemer_protocol::{ExitCode, Termination};
use bessemer_store::StoreError;

/// Why the worker ends without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub exit: ExitCode,
    /// What is told to the operator.
    pub termination: Termination,
}

impl Failure {
    /// A failure in our own words.
    pub fn new(exit: ExitCode, category: &str, message: impl Into<String>, hint: &str) -> Self {
        let termination = Termination {
            category: category.into(),
            message: message.into(),
            hint: hint.into(),
        };
        Self { exit, termination }
    }

    /// A run configuration that is refused.
    pub fn config(message: impl Into<String>) -> Self {
        let hint = "The operator and the worker are of different versions, or the spec holds a value that the schema cannot check.";
        Self::new(ExitCode::BadConfig, "InvalidConfig", message, hint)
    }

    /// The run was told to stop.
    pub fn interrupted(detail: impl std::fmt::Display) -> Self {
        let message = format!("stopped on SIGTERM; {detail}");
        Self::new(
            ExitCode::TryAgain,
            "Interrupted",
            message,
            "The next attempt continues.",
        )
    }

    /// The operating system refuses what the worker needs.
    pub fn system(error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied => ExitCode::Environment,
            _ => ExitCode::TryAgain,
        };
        Self::new(
            exit,
            "SystemError",
            error.to_string(),
            "Look at the pod's volumes and limits.",
        )
    }

    /// A library's error; its own sentence says what to do.
    fn of(exit: ExitCode, category: &str, error: &dyn std::error::Error) -> Self {
        Self::new(exit, category, error.to_string(), "")
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::NotFound { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Invalid { .. } => ExitCode::MissingInput,
            StoreError::BadUri { .. } => ExitCode::BadConfig,
            StoreError::NoBucket { .. }
            | StoreError::Denied { .. }
            | StoreError::DiskFull { .. } => ExitCode::Environment,
            StoreError::Unavailable { .. } => ExitCode::TryAgain,
            StoreError::Conflict { .. } => ExitCode::Bug,
            StoreError::Io { source, .. } => Self::system(source).exit,
        };
        Self::of(exit, error.category(), &error)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let exit = match &error {
            DataError::Config { .. } => ExitCode::BadConfig,
            DataError::Cancelled => return Self::interrupted(error),
            DataError::DiskFull { .. } => ExitCode::Environment,
            DataError::Corrupt { .. } => ExitCode::MissingInput,
            DataError::Io { source, .. } => match source.kind() {
                ErrorKind::NotFound => ExitCode::MissingInput,
                _ => Self::system(source).exit,
            },
            DataError::Vanished { .. } => ExitCode::TryAgain,
            DataError::Tokenizer(_) => ExitCode::Bug,
            DataError::EmptySource { .. }
            | DataError::NothingLeft { .. }
            | DataError::NotText { .. }
            | DataError::Compressed { .. }
            | DataError::Record { .. } => ExitCode::BadData,
        };
        Self::of(exit, error.category(), &error)
    }
}

impl From<bessemer_torch::NoGpu> for Failure {
    fn from(error: bessemer_torch::NoGpu) -> Self {
        Self::of(ExitCode::Environment, error.category(), &error)
    }
}

impl From<bessemer_train::Error> for Failure {
    fn from(error: bessemer_train::Error) -> Self {
        use bessemer_torch::distributed::Error as Ranks;
        match error {
            bessemer_train::Error::Ranks(Ranks::Stopped) => Self::interrupted("nothing had begun"),
            error => Self::of(error.exit_code(), error.category(), &error),
        }
    }
}

impl From<bessemer_evaluate::Error> for Failure {
    fn from(error: bessemer_evaluate::Error) -> Self {
        match error {
            bessemer_evaluate::Error::Interrupted => {
                Self::interrupted("nothing is kept of a half evaluation")
            }
            error => Self::of(error.exit_code(), error.category(), &error),
        }
    }
}

impl From<bessemer_serve::ServeError> for Failure {
    fn from(error: bessemer_serve::ServeError) -> Self {
        use bessemer_serve::ServeError;
        let exit = match &error {
            ServeError::Load(_) | ServeError::Vocabulary(_) => ExitCode::MissingInput,
            ServeError::Start(_) | ServeError::Listen(_) => ExitCode::Environment,
            ServeError::EngineStopped => ExitCode::Bug,
        };
        Self::of(exit, error.category(), &error)
    }
}

impl From<bessemer_route::RouteError> for Failure {
    fn from(error: bessemer_route::RouteError) -> Self {
        let exit = match &error {
            bessemer_route::RouteError::Config(_) => ExitCode::BadConfig,
            bessemer_route::RouteError::Listen(_) => ExitCode::Environment,
        };
        Self::of(exit, error.category(), &error)
    }
}

impl From<bessemer_route::drain::ListenError> for Failure {
    fn from(error: bessemer_route::drain::ListenError) -> Self {
        Self::of(ExitCode::Environment, error.category(), &error)
    }
}

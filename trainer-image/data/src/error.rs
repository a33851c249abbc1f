//! Owns the errors of data work; each names the file and says what to do.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// What can be wrong with data.
#[derive(Debug, Error)]
pub enum DataError {
    /// A source has no file that matches.
    #[error(
        "source {name} has no file that matches its include and exclude globs; correct the uri or the globs"
    )]
    EmptySource {
        /// Source.
        name: String,
    },
    /// Nothing was left after the filters.
    #[error("no document is left: {removed}; loosen the filters or add sources")]
    NothingLeft {
        /// Counts per reason.
        removed: String,
    },
    /// A file that should be text is not.
    #[error("{path} is not text ({reason}); exclude it or give the right format")]
    NotText {
        /// File.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A compressed file ends early or is damaged.
    #[error("{path} cannot be decompressed: {reason}; copy it again")]
    Compressed {
        /// File.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// A record is not what the format says.
    #[error("{path} line {line}: {reason}")]
    Record {
        /// File.
        path: PathBuf,
        /// Line from 1.
        line: u64,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// A glob or parameter is invalid.
    #[error("{field}: {reason}")]
    Config {
        /// Field of the task.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A shard, index, tokenizer or description is not what it should be.
    #[error("{path} is damaged: {reason}; fetch or prepare the dataset again")]
    Corrupt {
        /// File.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The tokenizer library refused.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A source's file vanished while it was read.
    #[error(
        "{path} was removed while the sources were read; keep the sources unchanged during a run"
    )]
    Vanished {
        /// File.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no space left on the disk of {path}; free some or raise resources.scratch")]
    DiskFull {
        /// File being written.
        path: PathBuf,
    },
    /// Another error of the file system.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped on request; the run starts again from the sources")]
    Cancelled,
}

impl DataError {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::EmptySource { .. } => "SourceEmpty",
            Self::NothingLeft { .. } => "NothingLeft",
            Self::NotText { .. } => "NotText",
            Self::Compressed { .. } => "DamagedArchive",
            Self::Record { .. } => "BadRecord",
            Self::Config { .. } => "BadConfig",
            Self::Corrupt { .. } => "DatasetCorrupt",
            Self::Tokenizer(_) => "TokenizerFailed",
            Self::Vanished { .. } => "SourceVanished",
            Self::DiskFull { .. } => "DiskFull",
            Self::Io { .. } => "LocalIo",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Wraps an error of the file system, the ones that users meet under their own names.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }
}

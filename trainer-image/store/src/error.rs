//! Owns the errors of the store; each says what to do.

use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong between a worker and the object store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("{key} is not in the store; the artefact was deleted or the reference is wrong")]
    NotFound {
        /// Key asked for.
        key: String,
    },
    /// The bucket does not exist.
    #[error("bucket {bucket} does not exist; create it or correct the storage configuration")]
    NoBucket {
        /// Bucket asked for.
        bucket: String,
    },
    /// The credentials are wrong or lack a permission.
    #[error(
        "the object store refuses access to {key}: {reason}; check the keys (Secret bessemer-storage, or the one that the source names) and the bucket's policy"
    )]
    Denied {
        /// Key asked for.
        key: String,
        /// What the store said.
        reason: String,
    },
    /// The store is away or too slow; trying again may help.
    #[error("the object store does not answer for {key}: {reason}; it is tried again")]
    Unavailable {
        /// Key asked for.
        key: String,
        /// What happened.
        reason: String,
    },
    /// Bytes are not what their digest says.
    #[error("{file} is damaged: {reason}; restore it or make the artefact again")]
    Corrupt {
        /// File by its path in the artefact.
        file: String,
        /// Expected and found.
        reason: String,
    },
    /// A manifest or pointer cannot be read.
    #[error("{key} is no valid {what}: {reason}; it was written by another version or is damaged")]
    Invalid {
        /// Key of the object.
        key: String,
        /// `manifest` or `run pointer`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Another run with the same identity committed a different result.
    #[error(
        "run {run_key} was already committed with digest {committed}, this attempt made {ours}: the run is not deterministic; report this with both manifests"
    )]
    Conflict {
        /// Identity of the run.
        run_key: String,
        /// Digest that won.
        committed: String,
        /// Digest of this attempt.
        ours: String,
    },
    /// The local disk is full.
    #[error("no space left on the disk of {path}; free some or raise resources.scratch")]
    DiskFull {
        /// File being written.
        path: PathBuf,
    },
    /// A local file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A URI is not of the form `s3://bucket/key`.
    #[error("`{uri}` is no s3://bucket/key; correct the reference")]
    BadUri {
        /// What was given.
        uri: String,
    },
}

impl StoreError {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ArtifactMissing",
            Self::NoBucket { .. } => "BucketMissing",
            Self::Denied { .. } => "StorageDenied",
            Self::Unavailable { .. } => "StorageUnavailable",
            Self::Corrupt { .. } => "ArtifactCorrupt",
            Self::Invalid { .. } => "ArtifactInvalid",
            Self::Conflict { .. } => "RunConflict",
            Self::DiskFull { .. } => "DiskFull",
            Self::Io { .. } => "LocalIo",
            Self::BadUri { .. } => "BadUri",
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Wraps an error of the file system, a full disk under its own name.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        if matches!(
            source.kind(),
            std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge
        ) {
            Self::DiskFull { path }
        } else {
            Self::Io { path, source }
        }
    }
}

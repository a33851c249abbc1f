//! Owns what the command line can fail with; every sentence says what to do.

use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A manifest cannot be read.
    #[error("{path}: {reason}")]
    Manifest {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The API refused an object.
    #[error("{object} was refused: {reason}")]
    Refused {
        /// Kind and name.
        object: String,
        /// The API's sentence.
        reason: String,
    },
    /// The API cannot be reached.
    #[error("the API does not answer: {0}; is `bessemer local up` running, or KUBECONFIG right?")]
    Unreachable(String),
    /// Something else the API said.
    #[error("{0}")]
    Api(String),
    /// Nothing runs in this directory.
    #[error("nothing runs in {0}; start it with `bessemer local up`")]
    NotRunning(PathBuf),
    /// Somebody else holds the directory.
    #[error(
        "{0} is already used by a running `bessemer local up`; stop it with `bessemer local down`, or give another --dir"
    )]
    AlreadyRunning(PathBuf),
    /// The daemon did not come up.
    #[error("the local control plane did not start: {reason} (log: {log})")]
    Daemon {
        /// Last line of its log.
        reason: String,
        /// The log.
        log: PathBuf,
        /// Its exit code, 1 when it has none.
        code: u8,
    },
    /// A port is taken.
    #[error(
        "port {port} on 127.0.0.1 is in use; stop what uses it, or remove {file} to take another"
    )]
    PortInUse {
        /// Port.
        port: u16,
        /// File that remembers it.
        file: PathBuf,
    },
    /// Another control plane gives away the addresses that this one's Services have.
    #[error(
        "the service network {0}/16 is held by another local control plane on this machine; stop that one first (`bessemer local --dir DIR down`)"
    )]
    NetworkInUse(std::net::Ipv4Addr),
    /// A program that is needed is missing.
    #[error("{what} is missing: {path}; {hint}")]
    Missing {
        /// What.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The worker does not run on this machine; its own sentence.
    #[error("{0}")]
    Worker(String),
    /// Too little disk.
    #[error("{path} has {free} MB free, {needed} MB are needed; free some or give another --dir")]
    NoSpace {
        /// Directory.
        path: PathBuf,
        /// Free.
        free: u64,
        /// Needed.
        needed: u64,
    },
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// An object failed while it was followed.
    #[error("{object} failed: {reason}")]
    Failed {
        /// Kind and name.
        object: String,
        /// Its own sentence.
        reason: String,
    },
    /// A reference that is none.
    #[error("`{0}` is no KIND/NAME; write for example pj/docs-base")]
    BadReference(String),
    /// Nothing to mine.
    #[error("{0}")]
    Mine(String),
}

impl Error {
    /// sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Manifest { .. } | Self::Refused { .. } | Self::BadReference(_) => 64,
            Self::Mine(_) => 66,
            Self::Unreachable(_) | Self::NotRunning(_) => 69,
            Self::Missing { .. }
            | Self::NoSpace { .. }
            | Self::PortInUse { .. }
            | Self::NetworkInUse(_)
            | Self::Worker(_) => 78,
            Self::AlreadyRunning(_) => 75,
            Self::Daemon { code, .. } => *code,
            _ => 1,
        }
    }

    /// Wraps an error of the file system.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api(status.message.clone()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

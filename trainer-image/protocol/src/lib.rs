//! The contract between the operator and its workers: run configuration, progress, termination, exit codes.
//!
//! Owns the wire types only. It must not read files, talk to a network or know Kubernetes types.
//! Everything is JSON in camelCase; unknown fields are refused on both sides, so a worker of another
//! version says so at once instead of ignoring a request.

mod config;
mod exit;
mod identity;
mod progress;
mod result;
pub mod route;
pub mod task;

pub use config::{Input, InputRole, Run, RunConfig, SCHEMA_VERSION, Storage};
pub use exit::{ExitCode, Termination};
pub use identity::{IdentityError, run_key};
pub use progress::{CheckpointReport, ProgressReport, Stage};
pub use result::EvaluationResult;
pub use task::Task;

/// Audience of the projected token that a worker sends with its progress.
pub const PROGRESS_AUDIENCE: &str = "bessemer-operator";

/// Port on which the first of several ranks serves the store by which they meet.
pub const RENDEZVOUS_PORT: u16 = 29500;

/// Names of the environment variables through which paths and addresses reach a worker.
pub mod env {
    /// Base URL of the operator's progress intake; absent means: report nowhere.
    pub const PROGRESS_URL: &str = "BESSEMER_PROGRESS_URL";
    /// File with the projected service-account token.
    pub const TOKEN_FILE: &str = "BESSEMER_TOKEN_FILE";
    /// Scratch directory of the run.
    pub const WORK_DIR: &str = "BESSEMER_WORK_DIR";
    /// File that receives the termination message.
    pub const TERMINATION_LOG: &str = "BESSEMER_TERMINATION_LOG";
    /// Directory with API keys, one file per key (its content), mounted from a Secret.
    pub const API_KEYS_DIR: &str = "BESSEMER_API_KEYS_DIR";
    /// Address to listen on, from the downward API.
    pub const POD_IP: &str = "POD_IP";
    /// Name of the pod, from the downward API.
    pub const POD_NAME: &str = "POD_NAME";

    /// Number of this rank, from 0; Kubernetes sets it in the pods of an Indexed Job.
    pub const RANK: &str = "JOB_COMPLETION_INDEX";
    /// Host and port at which rank 0 is to be found; needed by a task of several ranks.
    pub const RENDEZVOUS: &str = "BESSEMER_RENDEZVOUS";

    /// Keys of a Secret that a foreign store needs.
    pub const STORE_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    /// Keys of that Secret that may be left out.
    pub const OPTIONAL_STORE_KEYS: [&str; 3] =
        ["AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"];

    /// The variable that holds `key` of the Secret of the source named `source`.
    pub fn source_key(source: &str, key: &str) -> String {
        let source = source.to_ascii_uppercase().replace('-', "_");
        format!("BESSEMER_SOURCE_{source}_{key}")
    }
}

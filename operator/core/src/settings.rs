//! Owns the operator's configuration as far as decisions need it. It must not hold secrets.

use bessemer_protocol::Storage;
use serde::{Deserialize, Serialize};

/// What the installer of the operator decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Default object store, as workers see it.
    pub storage: Storage,
    /// Secret in each namespace whose keys become the worker's environment (`AWS_ACCESS_KEY_ID`, ...); optional there.
    pub credentials_secret: String,
    /// Worker image for new runs and revisions; running ones keep theirs.
    pub image: String,
    /// Base URL of the progress intake as pods reach it; absent means workers report nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_url: Option<String>,
    /// What pods get where their object says nothing.
    #[serde(default)]
    pub pod_defaults: PodDefaults,
    /// OTLP endpoint handed to workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Threads of a worker whose object asks for no CPU.
    pub threads: u32,
    /// `bessemer local`: sources may be files of this machine.
    pub local: bool,
    /// Seconds after which a finalizer gives up.
    pub finalizer_deadline_seconds: u64,
    /// Seconds that a new revision may take until it answers.
    pub candidate_deadline_seconds: u64,
    /// Seconds that an old revision may take to finish its answers.
    pub drain_deadline_seconds: u64,
}

/// What pods get where their object says nothing. Running Jobs keep what they have; a change rolls servers, one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDefaults {
    /// Runtime class of pods with GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_runtime_class: Option<String>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
}

impl Settings {
    /// Settings for the given store and image, with the defaults of the rest.
    pub fn new(storage: Storage, image: impl Into<String>) -> Self {
        Self {
            storage,
            credentials_secret: "bessemer-storage".into(),
            image: image.into(),
            progress_url: None,
            pod_defaults: PodDefaults::default(),
            otlp_endpoint: None,
            threads: 1,
            local: false,
            finalizer_deadline_seconds: 600,
            candidate_deadline_seconds: 900,
            drain_deadline_seconds: 300,
        }
    }
}

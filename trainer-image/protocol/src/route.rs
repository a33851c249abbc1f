//! Owns the router's configuration file (a ConfigMap that the operator renders) and its status answer.

use serde::{Deserialize, Serialize};

/// Configuration of a router; re-read whenever the file changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteConfig {
    /// Name of the Deployment, also the `model` that clients ask for.
    pub deployment: String,
    /// Hash of the rest, echoed by the status answer so that the operator knows what is in force.
    pub revision: String,
    /// Backends in order; weights are percent and sum to 100, or all are 0 and every request gets a 503.
    pub backends: Vec<Backend>,
    /// Whether requests need an API key (files below `BESSEMER_API_KEYS_DIR`).
    #[serde(default)]
    pub require_api_key: bool,
}

/// One revision of the served model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Name of the revision.
    pub name: String,
    /// Digest of the weights, sent to clients as `x-bessemer-digest`.
    pub digest: String,
    /// `http://host:port` of the revision's Service.
    pub url: String,
    /// Percent of requests.
    pub weight: u32,
}

/// Answer of `GET /-/status` of a router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// `revision` of the configuration in force.
    pub revision: String,
    /// Seconds since it came into force; `None` from routers that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_in_force: Option<u64>,
    /// One entry per backend in force or still draining.
    pub backends: Vec<BackendStatus>,
}

/// Counters of one backend since the router started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// Name of the revision.
    pub name: String,
    /// Digest of its weights.
    pub digest: String,
    /// Requests begun.
    pub requests: u64,
    /// Requests that ended in a 5xx, a refused connection or a cut stream.
    pub errors: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Median time to the first byte of the answer's body over the last 5 minutes, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p50_ms: Option<f64>,
    /// 99th percentile of the same, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p99_ms: Option<f64>,
    /// Completion tokens per second over the last 5 minutes, when streams told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

//! Owns the kind Deployment (Rust name `ModelDeployment`): a model to a served model, through gates.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{ModelRef, NamedRef, SecretRef};
use crate::status::CommonStatus;
use crate::training::ObjectPolicy;

/// A served model: candidates pass gates, start beside the old revision, then take the traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bessemer.dev", version = "v1alpha1", kind = "Deployment", root = "ModelDeployment", plural = "deployments",
    namespaced, status = "ModelDeploymentStatus", shortname = "mdeploy", category = "bessemer", derive = "PartialEq",
    doc = "A model served behind gates. Full name: deployments.bessemer.dev.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Traffic", type_ = "string", json_path = ".status.trafficSummary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name has at most 40 characters, so that the names of children fit")
)]
#[x_kube(validation = Rule::new("!has(self.route) || !has(self.rollout) || !has(self.rollout.abort)").message("rollout.abort judges the requests of the router, which sees none of a Gateway's: give either route or rollout.abort"))]
#[x_kube(validation = Rule::new("!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas").message("minReplicas must not exceed maxReplicas"))]
pub struct ModelDeploymentSpec {
    /// Model that is served.
    pub model_ref: ModelRef,
    /// Conditions that a candidate must meet; all must pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub gates: Vec<Gate>,
    /// Inference engine.
    #[serde(default)]
    pub engine: Engine,
    /// Weights' number format.
    #[serde(default)]
    pub quantization: Quantization,
    /// Pods of a revision.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Replicas by load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Sequences that one pod decodes together.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: i32,
    /// Gateways that reach the revisions by an HTTPRoute with the router's weights, beside the router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// How traffic moves to a new revision.
    #[serde(default)]
    pub rollout: Rollout,
    /// Content filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalSource>,
    /// Who may ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Collect votes and texts as a source of datasets.
    #[serde(default)]
    pub feedback: Feedback,
    /// Adapters offered beside the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub adapters: Vec<ServedAdapter>,
    /// Longest wait in seconds for a candidate to become ready and answer; then it is CandidateUnhealthy.
    #[serde(default = "progress_deadline")]
    #[schemars(range(min = 1, max = 86400))]
    pub progress_deadline_seconds: i64,
    /// Fields of every kind.
    #[serde(flatten)]
    pub policy: ObjectPolicy,
}

fn one() -> i32 {
    1
}
fn concurrency() -> i32 {
    8
}
fn progress_deadline() -> i64 {
    600
}

/// A gate: an expression over an evaluation's results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Evaluation of the same model.
    pub evaluation_ref: NamedRef,
    /// CEL; `results` maps suite to metric to {value, low, high, samples} (`results["chat"]["bleu"].value > 10.0`).
    #[schemars(length(min = 1, max = 1024))]
    pub expression: String,
}

/// Inference engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    /// Bessemer's own.
    #[default]
    Native,
    /// vLLM.
    VLLM,
    /// TensorRT-LLM.
    TensorRTLLM,
}

/// Weights' number format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantization {
    /// As trained.
    #[default]
    None,
    /// 8-bit integers.
    INT8,
    /// 8-bit floats.
    FP8,
}

/// Replicas by load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest.
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Most.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Requests per pod, running and waiting.
    #[serde(default = "target")]
    #[schemars(range(min = 1, max = 10000))]
    pub target_requests: i32,
}

fn target() -> i32 {
    8
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Gateways.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub hostnames: Vec<String>,
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// How traffic moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.steps) || (self.steps.map(s, s.percent).isSorted() && self.steps.all(s, self.steps.filter(t, t.percent == s.percent).size() == 1))").message("the percents of steps must rise"))]
pub struct Rollout {
    /// Canary steps; all at once when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub steps: Vec<RolloutStep>,
    /// When a canary is abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// Copy requests to the candidate without using its answers.
    #[serde(default)]
    pub shadow: bool,
}

/// A canary step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStep {
    /// Share of the candidate.
    #[schemars(range(min = 1, max = 99))]
    pub percent: i32,
    /// How long it is held.
    #[serde(default)]
    #[schemars(range(min = 0, max = 604800))]
    pub hold_seconds: i64,
}

/// When a canary is abandoned; judged from the router's measurements of the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.errorRate) || has(self.p99TimeToFirstTokenMs)").message("give errorRate or p99TimeToFirstTokenMs"))]
pub struct Abort {
    /// Highest share of failed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub error_rate: Option<f64>,
    /// Highest 99th percentile of the time to the first token.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "p99TimeToFirstTokenMs"
    )]
    #[schemars(range(min = 1, max = 3600000))]
    pub p99_time_to_first_token_ms: Option<i64>,
    /// Requests before a judgement.
    #[serde(default = "min_requests")]
    #[schemars(range(min = 1, max = 1000000))]
    pub min_requests: i64,
}

fn min_requests() -> i64 {
    20
}

/// Content filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Words that never leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 128)))]
    pub keywords: Vec<String>,
    /// Classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_ref: Option<ModelRef>,
}

/// Retrieval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalSource {
    /// Dataset with purpose Retrieval.
    pub dataset_ref: NamedRef,
    /// Passages per request.
    #[serde(default = "top_k")]
    #[schemars(range(min = 1, max = 100))]
    pub top_k: i32,
}

fn top_k() -> i32 {
    4
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Secret whose values are API keys.
    pub api_keys_secret_ref: SecretRef,
}

/// Feedback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feedback {
    /// Whether votes and texts are kept.
    #[serde(default)]
    pub enabled: bool,
}

/// An adapter offered under its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedAdapter {
    /// Name under which it is asked for.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// FineTune with an adapter.
    pub fine_tune_ref: NamedRef,
}

/// Status of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// Common fields.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Revision that has the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Revision before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision: Option<String>,
    /// Candidate that is being checked or rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// Share of each revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub traffic: Vec<TrafficShare>,
    /// Traffic in words (`100% 3f2a…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_summary: Option<String>,
    /// Where the model answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Measured speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Verdict of each gate about the newest candidate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub gates: Vec<GateVerdict>,
}

/// A candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Revision name.
    pub revision: String,
    /// Digest of its weights.
    pub digest: String,
    /// Canary step it is in, from 0; absent before the first traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    /// When the step (or the check) began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    /// Why it was refused; absent while it has a chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Share of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficShare {
    /// Revision.
    pub revision: String,
    /// Digest of its weights.
    pub digest: String,
    /// Percent of requests.
    pub percent: i32,
}

/// Measured speed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// Completion tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Median time to the first token.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "p50TimeToFirstTokenMs"
    )]
    pub p50_time_to_first_token_ms: Option<f64>,
    /// 99th percentile.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "p99TimeToFirstTokenMs"
    )]
    pub p99_time_to_first_token_ms: Option<f64>,
}

/// Verdict of a gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateVerdict {
    /// Evaluation.
    pub evaluation: String,
    /// Expression.
    pub expression: String,
    /// Pending, Passed or Failed.
    pub verdict: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Digest that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

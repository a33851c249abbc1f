//! Owns the kind FineTune: a model and a dataset to a tuned model.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{ModelRef, NamedRef};
use crate::status::{CheckpointStatus, CommonStatus};
use crate::training::{
    Checkpoint, Losses, ObjectPolicy, Parallelism, RunPolicy, Training, Workers,
};

/// A model tuned by exactly one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bessemer.dev", version = "v1alpha1", kind = "FineTune", namespaced, status = "FineTuneStatus",
    shortname = "ft", category = "bessemer", derive = "PartialEq",
    doc = "A model tuned on a dataset.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.headline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name has at most 40 characters, so that the names of children fit"),
    validation = Rule::new("!has(self.spec.baseRef.name) || self.spec.baseRef.kind != 'FineTune' || self.spec.baseRef.name != self.metadata.name").message("baseRef must not be the object itself")
)]
#[x_kube(validation = Rule::new("[has(self.supervised), has(self.rewardModel), has(self.ppo), has(self.dpo), has(self.grpo), has(self.distillation)].filter(x, x).size() == 1").message("give exactly one of supervised, rewardModel, ppo, dpo, grpo and distillation"))]
#[x_kube(validation = Rule::new("has(self.supervised) == has(oldSelf.supervised) && has(self.rewardModel) == has(oldSelf.rewardModel) && has(self.ppo) == has(oldSelf.ppo) && has(self.dpo) == has(oldSelf.dpo) && has(self.grpo) == has(oldSelf.grpo) && has(self.distillation) == has(oldSelf.distillation)").message("the method is immutable; create another FineTune"))]
#[x_kube(validation = Rule::new("self.parallelism.data * self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.context == self.workers.replicas * (self.workers.gpus > 0 ? self.workers.gpus : 1)").message("the product of parallelism must equal workers.replicas times gpus of each"))]
pub struct FineTuneSpec {
    /// Weights to start from.
    pub base_ref: ModelRef,
    /// Records to learn from.
    pub dataset_ref: NamedRef,
    /// Supervised tuning: loss on answers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervised: Option<Supervised>,
    /// Reward model from preferences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModel>,
    /// Proximal policy optimisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Direct preference optimisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
    /// Group-relative policy optimisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpo: Option<Grpo>,
    /// Distillation from a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// Low-rank adapter; absent tunes all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<LowRankAdapter>,
    /// How it is trained.
    #[serde(default)]
    pub training: Training,
    /// Division among workers.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// Pods.
    #[serde(default)]
    pub workers: Workers,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// When it is tuned again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrain: Option<Retrain>,
    /// Fields of every kind.
    #[serde(flatten)]
    pub policy: ObjectPolicy,
    /// Fields of every run-to-completion kind.
    #[serde(flatten)]
    pub run: RunPolicy,
}

/// Supervised tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Supervised {
    /// Longest conversation in tokens; the model's context when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 65536))]
    pub sequence_length: Option<i32>,
}

/// Reward model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewardModel {
    /// Longest conversation in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 65536))]
    pub sequence_length: Option<i32>,
}

/// Proximal policy optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ppo {
    /// FineTune with rewardModel.
    pub reward_model_ref: NamedRef,
    /// Weight of the divergence from the base.
    #[serde(default = "kl")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub kl_coefficient: f64,
}

fn kl() -> f64 {
    0.05
}

/// Direct preference optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dpo {
    /// Inverse temperature.
    #[serde(default = "dpo_beta")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub beta: f64,
}

fn dpo_beta() -> f64 {
    0.1
}

/// Group-relative policy optimisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grpo {
    /// Name of the reward.
    #[schemars(length(min = 1, max = 63))]
    pub reward: String,
    /// Answers per prompt.
    #[serde(default = "group")]
    #[schemars(range(min = 2, max = 128))]
    pub group_size: i32,
}

fn group() -> i32 {
    8
}

/// Distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Distillation {
    /// Teacher.
    pub teacher_ref: ModelRef,
    /// Softmax temperature.
    #[serde(default = "temperature")]
    #[schemars(range(min = 0.1, max = 100.0))]
    pub temperature: f64,
}

fn temperature() -> f64 {
    2.0
}

/// A projection that an adapter changes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AdapterTarget {
    /// Query.
    Query,
    /// Key.
    Key,
    /// Value.
    Value,
    /// Output of attention.
    Output,
    /// Gate of the feed-forward layer.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
}

/// Low-rank adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LowRankAdapter {
    /// Rank.
    #[serde(default = "rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub rank: i32,
    /// Scale is alpha / rank.
    #[serde(default = "alpha")]
    #[schemars(range(min = 0.001, max = 4096.0))]
    pub alpha: f64,
    /// Projections; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub targets: Vec<AdapterTarget>,
}

fn rank() -> i32 {
    8
}
fn alpha() -> f64 {
    16.0
}

/// When a model is tuned again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retrain {
    /// When the dataset has a new digest.
    #[serde(default)]
    pub on_dataset_change: bool,
    /// Cron schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 64))]
    pub schedule: Option<String>,
}

/// Status of a FineTune.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FineTuneStatus {
    /// Common fields.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Newest loss, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
    /// Newest checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<CheckpointStatus>,
    /// Losses on answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
    /// Parameters that are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable_parameters: Option<i64>,
}

//! Owns the kind PretrainJob: token shards to a model.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::ModelRef;
use crate::status::{CheckpointStatus, CommonStatus};
use crate::training::{
    Checkpoint, Losses, ObjectPolicy, Parallelism, RunPolicy, Training, Workers,
};

/// A model trained from scratch, or from another model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bessemer.dev", version = "v1alpha1", kind = "PretrainJob", namespaced, status = "PretrainJobStatus",
    shortname = "pj", category = "bessemer", derive = "PartialEq",
    doc = "A language model trained on datasets.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.headline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name has at most 40 characters, so that the names of children fit")
)]
#[x_kube(validation = Rule::new("self.parallelism.data * self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.context == self.workers.replicas * (self.workers.gpus > 0 ? self.workers.gpus : 1)").message("the product of parallelism must equal workers.replicas times gpus of each"))]
pub struct PretrainJobSpec {
    /// Datasets and their shares.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub datasets: Vec<DatasetShare>,
    /// Architecture.
    pub model: Model,
    /// What is predicted.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("objective is immutable; create another PretrainJob"))]
    pub objective: Objective,
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
    /// Limits of what may be spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Weights to start from (continued pretraining).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_model_ref: Option<ModelRef>,
    /// Fields of every kind.
    #[serde(flatten)]
    pub policy: ObjectPolicy,
    /// Fields of every run-to-completion kind.
    #[serde(flatten)]
    pub run: RunPolicy,
}

/// A dataset of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetShare {
    /// Name of the Dataset.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Relative share of tokens.
    #[serde(default = "weight")]
    #[schemars(range(min = 0.0001, max = 10000.0))]
    pub weight: f64,
}

fn weight() -> f64 {
    1.0
}

/// Model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelFamily {
    /// GPT-2.
    GPT2,
    /// Llama.
    Llama,
    /// Mixtral (mixture of experts).
    Mixtral,
    /// MPT (ALiBi).
    MPT,
    /// BERT (masked).
    BERT,
}

/// Named sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Preset {
    /// About 1 million parameters without embeddings.
    #[serde(rename = "1M")]
    M1,
    /// About 10 million.
    #[serde(rename = "10M")]
    M10,
    /// About 30 million.
    #[serde(rename = "30M")]
    M30,
    /// GPT-2 small's shape.
    #[serde(rename = "124M")]
    M124,
    /// GPT-2 medium's shape.
    #[serde(rename = "350M")]
    M350,
    /// GPT-2 large's shape.
    #[serde(rename = "774M")]
    M774,
    /// About 1 billion.
    #[serde(rename = "1B")]
    B1,
    /// About 7 billion.
    #[serde(rename = "7B")]
    B7,
    /// About 70 billion.
    #[serde(rename = "70B")]
    B70,
    /// About 175 billion.
    #[serde(rename = "175B")]
    B175,
}

/// Position encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PositionEncoding {
    /// Learned embeddings (GPT2's default).
    Learned,
    /// Rotary (Llama's default).
    RoPE,
    /// Linear biases.
    ALiBi,
}

/// Architecture: a preset, explicit numbers, or a preset with numbers that override it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.preset) || (has(self.layers) && has(self.heads) && has(self.hiddenSize))").message("give a preset, or layers, heads and hiddenSize"))]
#[x_kube(validation = Rule::new("!has(self.heads) || !has(self.hiddenSize) || self.hiddenSize % self.heads == 0").message("hiddenSize must be a multiple of heads"))]
#[x_kube(validation = Rule::new("!has(self.keyValueHeads) || !has(self.heads) || self.heads % self.keyValueHeads == 0").message("heads must be a multiple of keyValueHeads"))]
#[x_kube(validation = Rule::new("!has(self.positions) || (self.family == 'GPT2' ? self.positions == 'Learned' : self.family == 'MPT' ? self.positions == 'ALiBi' : self.family == 'BERT' ? self.positions == 'Learned' : self.positions == 'RoPE')").message("positions do not fit the family: GPT2 and BERT use Learned, Llama and Mixtral RoPE, MPT ALiBi"))]
#[x_kube(validation = Rule::new("!has(self.attentionWindow) || self.family in ['Llama', 'Mixtral']").message("attentionWindow goes with Llama and Mixtral: no other family can be exported with one"))]
pub struct Model {
    /// Family.
    #[x_kube(validation = Rule::new("self == oldSelf").message("family is immutable; create another PretrainJob"))]
    pub family: ModelFamily,
    /// Named size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub layers: Option<i32>,
    /// Query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub heads: Option<i32>,
    /// Key and value heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub key_value_heads: Option<i32>,
    /// Width of the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 65536))]
    pub hidden_size: Option<i32>,
    /// Width of the feed-forward layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 262144))]
    pub feed_forward_size: Option<i32>,
    /// Longest sequence in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 65536))]
    pub context_length: Option<i32>,
    /// Position encoding; the family's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<PositionEncoding>,
    /// Tokens that attention looks back, the own one included; the model is exported as Hugging Face's Mistral.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub attention_window: Option<i32>,
    /// Sparse pattern of attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub sparse_pattern: Option<String>,
    /// Mixture of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture_of_experts: Option<MixtureOfExperts>,
}

/// Mixture of experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.active <= self.experts").message("active must not exceed experts"))]
pub struct MixtureOfExperts {
    /// Experts of each block.
    #[schemars(range(min = 2, max = 1024))]
    pub experts: i32,
    /// Experts per token.
    #[schemars(range(min = 1, max = 64))]
    pub active: i32,
}

/// What is predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Objective {
    /// The next token.
    #[default]
    Autoregressive,
    /// Masked tokens.
    MaskedLanguageModel,
}

/// Limits of what may be spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// GPU-hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1e9))]
    pub max_gpu_hours: Option<f64>,
    /// Cost in the currency of the operator's `prices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1e12))]
    pub max_cost: Option<f64>,
}

/// Status of a PretrainJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PretrainJobStatus {
    /// Common fields.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Size and work of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSize>,
    /// Newest loss, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
    /// Newest checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<CheckpointStatus>,
    /// Losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
    /// GPU-hours of the run that has ended, from startTime to completionTime; 0 on CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_hours: Option<f64>,
    /// Cost so far; prices come with `spec.budget`, and nothing writes it before that is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

/// Size and work of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSize {
    /// Parameters.
    pub parameters: i64,
    /// Work by the rule of thumb 6 N D.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_flops: Option<f64>,
    /// Work done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_flops: Option<f64>,
}

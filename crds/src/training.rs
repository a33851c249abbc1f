//! Owns the blocks that training kinds share: training, parallelism, workers, checkpoints, run policy.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::count::Count;
use crate::pod::{PodOverlay, Resources};

/// What happens to artefacts when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ArtifactPolicy {
    /// They stay; the same manifest applied again finds them.
    #[default]
    Retain,
    /// They go, unless a living object refers to the digest.
    Delete,
}

/// Fields of every kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectPolicy {
    /// Stop the work; a training run writes a checkpoint first.
    #[serde(default)]
    pub suspend: bool,
    /// Resources of each pod.
    #[serde(default)]
    pub resources: Resources,
    /// Overlay over the pods.
    #[serde(default)]
    pub pod: PodOverlay,
    /// Kueue queue; then suspension of the Job belongs to Kueue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub queue_name: Option<String>,
    /// What happens to artefacts when the object is deleted.
    #[serde(default)]
    pub artifact_policy: ArtifactPolicy,
}

/// Fields of every run-to-completion kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunPolicy {
    /// Seconds after which Jobs, pods and ConfigMaps of a finished run are removed; never the object itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31536000))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Longest duration of a run over all attempts, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31536000))]
    pub active_deadline_seconds: Option<i64>,
    /// How often a failed attempt is repeated; disruptions do not count.
    #[serde(default = "retry_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub retry_limit: i32,
    /// A new value runs again after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub restart_nonce: Option<String>,
}

fn retry_limit() -> i32 {
    3
}

impl Default for RunPolicy {
    fn default() -> Self {
        Self {
            ttl_seconds_after_finished: None,
            active_deadline_seconds: None,
            retry_limit: retry_limit(),
            restart_nonce: None,
        }
    }
}

/// Optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// Orthogonalised momentum for matrices.
    Muon,
}

/// Learning-rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScheduleName {
    /// Half a cosine.
    #[default]
    Cosine,
    /// Warmup, stable, decay (last fifth).
    WSD,
    /// Linear.
    Linear,
    /// Constant after warmup.
    Constant,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrecisionName {
    /// 32-bit floats.
    #[default]
    FP32,
    /// bfloat16 over FP32 master weights.
    BF16,
    /// 16-bit floats with loss scaling.
    FP16,
    /// 8-bit floats for matrix products.
    FP8,
}

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.tokens), has(self.steps), has(self.epochs)].filter(x, x).size() <= 1").message("give at most one of tokens, steps and epochs"))]
pub struct Training {
    /// Tokens to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Count>,
    /// Optimizer steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Count>,
    /// Passes over the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: Option<i32>,
    /// Tokens per optimizer step (global batch); default 16 sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<Count>,
    /// Sequences per forward pass of a worker; default its whole share of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub micro_batch: Option<i32>,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: OptimizerName,
    /// Peak learning rate.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 1e-9, max = 100.0))]
    pub learning_rate: f64,
    /// Learning rate at the end as a share of the peak.
    #[serde(default = "final_share")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_learning_rate_share: f64,
    /// Schedule after warmup.
    #[serde(default)]
    pub schedule: ScheduleName,
    /// Steps of linear warmup; default 2 % of the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000000))]
    pub warmup_steps: Option<i64>,
    /// Decoupled decay of matrices.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// First moment's decay.
    #[serde(default = "beta1")]
    #[schemars(range(min = 0.0, max = 0.9999))]
    pub beta1: f64,
    /// Second moment's decay.
    #[serde(default = "beta2")]
    #[schemars(range(min = 0.0, max = 0.99999))]
    pub beta2: f64,
    /// Largest global gradient norm; 0 turns clipping off.
    #[serde(default = "clip")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub gradient_clip_norm: f64,
    /// Arithmetic.
    #[serde(default)]
    pub precision: PrecisionName,
    /// Recompute activations in the backward pass.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Dropout probability.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub dropout: f64,
    /// Seed of initialisation, data order and dropout.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9007199254740991i64))]
    pub seed: i64,
    /// Refuse operations without a deterministic implementation.
    #[serde(default = "yes")]
    pub deterministic: bool,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            tokens: None,
            steps: None,
            epochs: None,
            batch_tokens: None,
            micro_batch: None,
            optimizer: OptimizerName::AdamW,
            learning_rate: learning_rate(),
            final_learning_rate_share: final_share(),
            schedule: ScheduleName::Cosine,
            warmup_steps: None,
            weight_decay: weight_decay(),
            beta1: beta1(),
            beta2: beta2(),
            gradient_clip_norm: clip(),
            precision: PrecisionName::FP32,
            activation_checkpointing: false,
            dropout: 0.0,
            seed: 0,
            deterministic: yes(),
        }
    }
}

fn learning_rate() -> f64 {
    1e-3
}
fn final_share() -> f64 {
    0.1
}
fn weight_decay() -> f64 {
    0.1
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn clip() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}

/// Sharding of weights, gradients and moments over data-parallel ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sharding {
    /// Replicated.
    #[default]
    None,
    /// Moments sharded.
    Optimizer,
    /// Everything sharded.
    Full,
}

/// How work is divided among workers; the product is the number of ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parallelism {
    /// Data-parallel ranks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub data: i32,
    /// Tensor-parallel ranks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub tensor: i32,
    /// Pipeline stages.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub pipeline: i32,
    /// Context-parallel ranks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub context: i32,
    /// Expert-parallel ranks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub expert: i32,
    /// Sharding over data-parallel ranks.
    #[serde(default)]
    pub sharding: Sharding,
}

fn one() -> i32 {
    1
}

impl Default for Parallelism {
    fn default() -> Self {
        Self {
            data: 1,
            tensor: 1,
            pipeline: 1,
            context: 1,
            expert: 1,
            sharding: Sharding::None,
        }
    }
}

/// Pods of a training run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.replicas").message("minReplicas must not exceed replicas"))]
#[x_kube(validation = Rule::new("!has(self.maxReplicas) || self.maxReplicas >= self.replicas").message("maxReplicas must not be below replicas"))]
pub struct Workers {
    /// Pods.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub replicas: i32,
    /// GPUs of each pod.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub gpus: i32,
    /// Fewest pods to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub min_replicas: Option<i32>,
    /// Most pods to grow to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_replicas: Option<i32>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: 1,
            gpus: 0,
            min_replicas: None,
            max_replicas: None,
        }
    }
}

/// Checkpoints of a training run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.everySteps) && has(self.everySeconds))").message("give everySteps or everySeconds, not both"))]
pub struct Checkpoint {
    /// Every so many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub every_steps: Option<i64>,
    /// Every so many seconds; 60 when neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub every_seconds: Option<i64>,
    /// How many are kept.
    #[serde(default = "keep")]
    #[schemars(range(min = 1, max = 100))]
    pub keep: i32,
}

fn keep() -> i32 {
    2
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            every_steps: None,
            every_seconds: None,
            keep: keep(),
        }
    }
}

/// Losses of a training run, nats per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Losses {
    /// Training loss at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<f64>,
    /// Validation loss at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Validation loss before the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_validation: Option<f64>,
}

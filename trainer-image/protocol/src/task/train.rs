//! Owns the parameters of pretraining and tuning.

use serde::{Deserialize, Serialize};

/// Autoregressive pretraining from token shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainTask {
    /// Shares of the inputs with role Dataset, by name; weights are normalised.
    pub mixture: Vec<Mixture>,
    /// Architecture. The vocabulary size comes from the dataset's tokenizer.
    pub model: ModelShape,
    /// Optimizer steps.
    pub steps: u64,
    /// Batch.
    pub batch: Batch,
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Arithmetic.
    pub precision: Precision,
    /// Seed of initialisation, data order and dropout.
    pub seed: u64,
    /// Refuse operations without a deterministic implementation.
    pub deterministic: bool,
    /// Threads; part of the result's identity, since sums depend on it.
    pub threads: u32,
    /// Processes that divide every batch; part of the result's identity, since sums depend on it.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: u32,
    /// Checkpoints.
    pub checkpoint: CheckpointPolicy,
}

/// Supervised tuning on instruction records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TuneTask {
    /// Low-rank adapter; absent tunes all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// Longest rendered conversation in tokens; longer ones are cut at the end. At most the model's context.
    pub sequence_length: u32,
    /// Passes over the records; used when `steps` is absent.
    pub epochs: u32,
    /// Optimizer steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Batch; `sequence_length` of the batch equals the task's.
    pub batch: Batch,
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Its phases where `steps` is absent and only the data tells their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Dropout of residual branches and embeddings.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Arithmetic.
    pub precision: Precision,
    /// Seed of data order, adapter and dropout.
    pub seed: u64,
    /// Refuse operations without a deterministic implementation.
    pub deterministic: bool,
    /// Threads.
    pub threads: u32,
    /// Processes that divide every batch.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: u32,
    /// Checkpoints.
    pub checkpoint: CheckpointPolicy,
}

/// Phases of a schedule as shares of all steps, beside the steps it gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Phases {
    /// Share of warmup; the schedule's own steps count when it is 0.
    pub warmup: f64,
    /// Share of decay at the end (WSD only, else 0).
    pub decay: f64,
}

impl Phases {
    /// The schedule over `steps`, rounded down to whole steps.
    #[must_use]
    pub fn over(&self, schedule: &Schedule, steps: u64) -> Schedule {
        let share = |share: f64| (share * steps as f64) as u64;
        let warmup_steps = if self.warmup > 0.0 {
            share(self.warmup)
        } else {
            schedule.warmup_steps
        };
        Schedule {
            warmup_steps,
            decay_steps: share(self.decay).min(steps.saturating_sub(warmup_steps)),
            ..schedule.clone()
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // reason: serde gives a reference
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn one() -> u32 {
    1
}

/// A run of one process is named as it was before there were several.
#[allow(clippy::trivially_copy_pass_by_ref)] // reason: serde gives a reference
fn is_one(ranks: &u32) -> bool {
    *ranks == 1
}

/// Weight of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mixture {
    /// Name of the input.
    pub name: String,
    /// Relative share of tokens.
    pub weight: f64,
}

/// Model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// GPT-2: LayerNorm, GELU, learned positions, tied embeddings.
    GPT2,
    /// Llama: RMSNorm, SwiGLU, rotary positions.
    Llama,
}

/// Position encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Positions {
    /// Learned embeddings.
    Learned,
    /// Rotary (Su et al. 2021), Hugging Face's half-rotation layout, base 10,000.
    RoPE,
}

/// Shape of a Transformer, all numbers explicit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelShape {
    /// Family.
    pub family: Family,
    /// Blocks.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub key_value_heads: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the feed-forward layer.
    pub feed_forward_size: u32,
    /// Longest sequence in tokens.
    pub context_length: u32,
    /// Position encoding.
    pub positions: Positions,
    /// Tokens that attention looks back, the own one included; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_window: Option<u32>,
    /// Input embedding and head share weights.
    pub tied_embeddings: bool,
    /// Dropout probability while training.
    pub dropout: f64,
}

/// Batch of an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// Sequences per optimizer step (global batch).
    pub sequences: u32,
    /// Sequences per forward pass; divides each rank's share of `sequences`.
    pub micro_batch: u32,
    /// Tokens per sequence.
    pub sequence_length: u32,
}

/// Which optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
}

/// Optimizer parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Optimizer {
    /// Which.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// First moment's decay.
    pub beta1: f64,
    /// Second moment's decay.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of matrices; vectors are never decayed.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub gradient_clip_norm: f64,
}

/// Form of the schedule after warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduleKind {
    /// Half a cosine down to the final share.
    Cosine,
    /// Warmup, stable, decay: constant, then linear over the last `decay_steps`.
    WSD,
    /// Linear down to the final share.
    Linear,
    /// Constant.
    Constant,
}

/// Learning-rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// Form.
    pub kind: ScheduleKind,
    /// Steps of linear warmup from 0.
    pub warmup_steps: u64,
    /// Steps of decay at the end (WSD only, else 0).
    pub decay_steps: u64,
    /// Learning rate at the end as a share of the peak.
    pub final_share: f64,
}

/// Arithmetic of the forward and backward pass; weights and moments stay FP32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32-bit floats.
    FP32,
    /// bfloat16 activations over FP32 master weights.
    BF16,
}

/// Low-rank adapter (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adapter {
    /// Rank.
    pub rank: u32,
    /// Scale is alpha / rank.
    pub alpha: f64,
    /// Projections adapted: `q`, `k`, `v`, `o`, `gate`, `up`, `down`.
    pub targets: Vec<String>,
}

/// When checkpoints are taken and how many stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointPolicy {
    /// Every so many steps; 0 means only on SIGTERM and at the end.
    pub every_steps: u64,
    /// Or every so many seconds; 0 means never by time.
    pub every_seconds: u64,
    /// How many stay in the store.
    pub keep: u32,
}

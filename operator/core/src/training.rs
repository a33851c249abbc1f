//! Owns the resolution of the blocks that training kinds share: batch, optimizer, schedule, checkpoints. It must fill in
//! every default that decides the result, since the run key covers what is rendered.

use bessemer_api::{
    Checkpoint, ObjectPolicy, OptimizerName, PrecisionName, ScheduleName, Training,
};
use bessemer_protocol::task::{
    Batch, CheckpointPolicy, Optimizer, OptimizerKind, Phases, Precision, Schedule, ScheduleKind,
};

use crate::reason::{self, Invalid};
use crate::settings::Settings;

/// Sequences of a global batch when the spec does not say.
const SEQUENCES: u32 = 16;
/// Added to the root of AdamW's second moment (PyTorch's default).
const EPSILON: f64 = 1e-8;

/// The batch of an optimizer step, divided among `ranks`.
///
/// # Errors
/// When `batchTokens` is less than one sequence, the ranks do not divide the batch, or `microBatch` does not divide a
/// rank's share.
pub fn batch(training: &Training, sequence_length: u32, ranks: u32) -> Result<Batch, Invalid> {
    let length = u64::from(sequence_length.max(1));
    let sequences = match training.batch_tokens {
        None => SEQUENCES,
        Some(tokens) if tokens.0 < length => {
            return Err(invalid(format!(
                "spec.training.batchTokens ({tokens}) is less than one sequence of {length} tokens"
            )));
        }
        Some(tokens) => u32::try_from(tokens.0 / length)
            .map_err(|_| invalid(format!("spec.training.batchTokens ({tokens}) is too large")))?,
    };
    if !sequences.is_multiple_of(ranks) {
        return Err(invalid(format!(
            "spec.parallelism.data ({ranks}) must divide the {sequences} sequences of a batch; change spec.training.batchTokens"
        )));
    }
    let share = sequences / ranks;
    let micro_batch = training.micro_batch.map_or(share, number);
    if micro_batch == 0 || !share.is_multiple_of(micro_batch) {
        let of = if ranks == 1 {
            "a batch"
        } else {
            "each rank's share of a batch"
        };
        return Err(invalid(format!(
            "spec.training.microBatch ({micro_batch}) must divide the {share} sequences of {of}"
        )));
    }
    Ok(Batch {
        sequences,
        micro_batch,
        sequence_length,
    })
}

/// The optimizer.
pub fn optimizer(training: &Training) -> Optimizer {
    let kind = match training.optimizer {
        OptimizerName::AdamW | OptimizerName::Muon => OptimizerKind::AdamW, // Muon is refused before
    };
    Optimizer {
        kind,
        learning_rate: training.learning_rate,
        beta1: training.beta1,
        beta2: training.beta2,
        epsilon: EPSILON,
        weight_decay: training.weight_decay,
        gradient_clip_norm: training.gradient_clip_norm,
    }
}

/// Share of the steps that warm up when the spec does not say.
const WARMUP: f64 = 0.02;
/// Share of the steps over which WSD decays.
const DECAY: f64 = 0.2;

/// The phases of a schedule whose number of steps only the data tells; `None` when the schedule alone says all.
pub fn phases(training: &Training, steps: Option<u64>) -> Option<Phases> {
    let warmup = if training.warmup_steps.is_none() {
        WARMUP
    } else {
        0.0
    };
    let decays = matches!(training.schedule, ScheduleName::WSD);
    let decay = if decays { DECAY } else { 0.0 };
    (steps.is_none() && warmup + decay > 0.0).then_some(Phases { warmup, decay })
}

/// GPUs of each pod: what the workers block or the resources block asks for.
///
/// # Errors
/// When several ranks would have to sum on GPUs.
pub fn gpus(policy: &ObjectPolicy, workers: i32, ranks: u32) -> Result<i32, Invalid> {
    let gpus = policy.resources.gpus.unwrap_or(0).max(workers);
    if gpus > 0 && ranks > 1 {
        let message = "spec.parallelism.data above 1 with GPUs is not built yet; give one worker with a GPU, or workers without";
        return Err(Invalid::terminal(reason::NOT_IMPLEMENTED, message));
    }
    Ok(gpus)
}

/// The schedule over `steps` optimizer steps; `None` when the worker learns their number only from the data and
/// takes the rest from [`phases`].
///
/// # Errors
/// When the warmup is longer than the run.
pub fn schedule(training: &Training, steps: Option<u64>) -> Result<Schedule, Invalid> {
    let kind = match training.schedule {
        ScheduleName::Cosine => ScheduleKind::Cosine,
        ScheduleName::WSD => ScheduleKind::WSD,
        ScheduleName::Linear => ScheduleKind::Linear,
        ScheduleName::Constant => ScheduleKind::Constant,
    };
    let given = training
        .warmup_steps
        .map(|steps| u64::try_from(steps).unwrap_or(0));
    let warmup_steps = given.unwrap_or_else(|| steps.map_or(0, |steps| steps / 50));
    if steps.is_some_and(|steps| warmup_steps > steps) {
        return Err(invalid(format!(
            "spec.training.warmupSteps ({warmup_steps}) exceeds the {} steps of the run",
            steps.unwrap_or_default()
        )));
    }
    let decay_steps = match (kind, steps) {
        (ScheduleKind::WSD, Some(steps)) => (steps / 5).min(steps - warmup_steps),
        _ => 0,
    };
    Ok(Schedule {
        kind,
        warmup_steps,
        decay_steps,
        final_share: training.final_learning_rate_share,
    })
}

/// The arithmetic.
pub fn precision(training: &Training) -> Precision {
    match training.precision {
        PrecisionName::BF16 => Precision::BF16,
        PrecisionName::FP32 | PrecisionName::FP16 | PrecisionName::FP8 => Precision::FP32, // refused before
    }
}

/// Checkpoints: every minute when the spec does not say.
pub fn checkpoint(checkpoint: &Checkpoint) -> CheckpointPolicy {
    let every_steps = checkpoint
        .every_steps
        .and_then(|steps| u64::try_from(steps).ok())
        .unwrap_or(0);
    let every_seconds = checkpoint
        .every_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    CheckpointPolicy {
        every_steps,
        every_seconds: every_seconds.unwrap_or(if every_steps == 0 { 60 } else { 0 }),
        keep: number(checkpoint.keep),
    }
}

/// Threads of a worker: its CPUs, rounded up, or the operator's default.
pub fn threads(policy: &ObjectPolicy, settings: &Settings) -> u32 {
    let cpu = policy
        .resources
        .cpu
        .as_deref()
        .and_then(|text| match text.strip_suffix('m') {
            Some(milli) => milli.parse::<f64>().ok().map(|milli| milli / 1000.0),
            None => text.parse::<f64>().ok(),
        });
    cpu.filter(|cpu| *cpu > 0.0)
        .map_or(settings.threads, |cpu| cpu.ceil().min(1024.0) as u32)
        .max(1)
}

/// A bounded integer of a spec.
pub fn number(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// A bounded integer of a spec.
pub fn long(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn invalid(message: impl Into<String>) -> Invalid {
    Invalid::terminal(reason::INVALID_SPEC, message)
}

//! What the training benchmarks share: nanoGPT's recipe as settings, a clock, and the call of a peer.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bessemer_protocol::task::{
    Batch, CheckpointPolicy, Optimizer, OptimizerKind, Schedule, ScheduleKind,
};
use bessemer_train::{Observer, Progress, Settings};

/// nanoGPT's optimizer and schedule (config/train_shakespeare_char.py), nothing saved and nothing validated.
pub fn settings(steps: u64, batch: Batch, threads: u32) -> Settings {
    Settings {
        steps,
        batch,
        optimizer: Optimizer {
            kind: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_clip_norm: 1.0,
        },
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: 100,
            decay_steps: 0,
            final_share: 0.1,
        },
        checkpoint: CheckpointPolicy {
            every_steps: 0,
            every_seconds: 0,
            keep: 1,
        },
        seed: 1337,
        threads,
        deterministic: false,
        validation_sequences: 0,
        fingerprint: String::new(),
    }
}

/// Tells the time, and a line every so many steps.
pub struct Clock {
    start: Instant,
    every: u64,
    /// When each step ended.
    pub ends: Vec<Duration>,
}

impl Clock {
    pub fn new(every: u64) -> Self {
        Self {
            start: Instant::now(),
            every,
            ends: Vec::new(),
        }
    }
}

impl Observer for Clock {
    fn progress(&mut self, progress: &Progress) {
        self.ends.push(self.start.elapsed());
        if progress.step.is_multiple_of(self.every) {
            eprintln!(
                "step {} loss {:.3} {:.0} tokens/s, {:.3} of the peak",
                progress.step,
                progress.smooth_loss,
                progress.tokens_per_second,
                progress.model_flops_utilization.unwrap_or(f64::NAN)
            );
        }
    }
    fn checkpoint(&mut self, _: u64, _: &Path) -> Result<(), String> {
        Ok(())
    }
    fn stopping(&self) -> bool {
        false
    }
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Runs a script beside this file with the Python that `BESSEMER_PEER_PYTHON` names; its one line of JSON, or a printed
/// reason.
pub fn ask(script: &str, arguments: &[&OsStr]) -> Option<serde_json::Value> {
    let Some(python) = std::env::var_os("BESSEMER_PEER_PYTHON") else {
        println!("peer skipped: BESSEMER_PEER_PYTHON names no Python with torch==2.11.0");
        return None;
    };
    // The directory of the sources may be away where the program runs.
    let directory = std::env::var_os("BESSEMER_PEER_SCRIPTS")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/bench").into());
    let output = Command::new(&python)
        .arg(Path::new(&directory).join(script))
        .args(arguments)
        // Its own libraries and defaults, not ours.
        .env_remove("LD_LIBRARY_PATH")
        .env_remove(bessemer_torch::WAIT_POLICY)
        .output();
    match output {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout).ok(),
        Ok(output) => {
            println!("peer skipped: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            println!("peer skipped: {}: {error}", python.to_string_lossy());
            None
        }
    }
}

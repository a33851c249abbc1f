//! Owns what a running training tells the outside and hears from it; it must not decide anything.

use std::path::Path;
use std::time::Duration;

/// State of a run after an optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Training loss of this step, nats per token.
    pub loss: f64,
    /// Training loss, exponential mean over about ten steps.
    pub smooth_loss: f64,
    /// Last validation loss, nats per token.
    pub validation_loss: Option<f64>,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Tokens per second over the last steps, checkpoints and validation included.
    pub tokens_per_second: f64,
    /// Model FLOPs utilisation at this rate, 0 to 1, where the hardware's peak is known.
    pub model_flops_utilization: Option<f64>,
    /// Seconds that the rest will take at this rate.
    pub eta_seconds: f64,
}

/// Listener of a run, called on the training thread. Nothing it does changes the numbers.
pub trait Observer {
    /// After every optimizer step; keep it short.
    fn progress(&mut self, progress: &Progress);

    /// A checkpoint is complete in `directory`, which stays until enough newer ones exist. An error stops the
    /// run; the checkpoint stays.
    ///
    /// # Errors
    /// Why the checkpoint could not be kept, in words.
    fn checkpoint(&mut self, step: u64, directory: &Path) -> Result<(), String>;

    /// Whether to stop after this step (SIGTERM): a checkpoint is then written and the run ends as interrupted.
    fn stopping(&self) -> bool;

    /// Monotonic time; used for rates and checkpoints by time only.
    fn now(&self) -> Duration;
}

//! Owns the engine's sign of life: when it last made progress and whether its thread still
//! exists. It must not decide what follows from silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Progress of one thread, read by others.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the latest beat.
    latest: AtomicU64,
    stopped: AtomicBool,
}

impl Pulse {
    /// A pulse that has just beaten.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            latest: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Notes progress.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.latest.store(now, Ordering::Release);
    }

    /// Time since the latest beat.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.latest.load(Ordering::Acquire)))
    }

    /// Whether the thread has ended, by itself or by a panic.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

/// Marks the pulse stopped when the thread ends, also by unwinding.
#[derive(Debug)]
pub struct StopGuard(pub Arc<Pulse>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

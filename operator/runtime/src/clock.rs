//! Owns the sources of time and randomness; everything else in the runtime asks here, so that a simulation can set both.
//! It must not read anything but the clock and the generator.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

/// Wall-clock time as the API server's objects use it.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that may read the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The machine's clock, which after some time of the process jumps: how a test moves an operator's clock and nobody
/// else's. Written `SECONDS@AFTER`, as in `-7200@30`.
#[derive(Debug, Clone, Copy)]
pub struct SteppedClock {
    start: Instant,
    after: Duration,
    step: SignedDuration,
}

impl FromStr for SteppedClock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (step, after) = text.split_once('@')?;
            Some((step.parse().ok()?, after.parse().ok()?))
        };
        let (step, after) = parse().ok_or_else(|| {
            format!("{text} is not SECONDS@AFTER in whole seconds, such as -7200@30")
        })?;
        Ok(Self {
            start: Instant::now(),
            after: Duration::from_secs(after),
            step: SignedDuration::from_secs(step),
        })
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now();
        let jumped = self.start.elapsed() >= self.after;
        let moved = jumped.then(|| now.checked_add(self.step).ok()).flatten();
        moved.unwrap_or(now)
    }
}

/// A clock that follows tokio's time from a fixed start: with paused time it is wholly simulated.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    epoch: Timestamp,
    start: Instant,
}

impl TokioClock {
    /// A clock that shows `epoch` now and advances with tokio's time.
    #[must_use]
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self {
            epoch,
            start: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed =
            SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::ZERO);
        self.epoch.checked_add(elapsed).unwrap_or(self.epoch)
    }
}

/// A shared, seedable source of jitter. It decides delays only, never outcomes.
#[derive(Clone)]
pub struct Random(Arc<Mutex<ChaCha8Rng>>);

impl Random {
    /// A generator seeded from the operating system.
    #[must_use]
    pub fn from_system() -> Self {
        Self::seeded(rand::rng().random())
    }

    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// `base` plus up to `share` of it.
    #[must_use]
    pub fn jitter(&self, base: Duration, share: f64) -> Duration {
        base + base.mul_f64(share.clamp(0.0, 1.0) * self.0.lock().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_paused_time() {
        let clock = TokioClock::starting_at(Timestamp::UNIX_EPOCH);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().as_second(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn jumps_once_its_time_has_come() {
        let clock: SteppedClock = "-7200@30".parse().unwrap();
        let off = || (clock.now().as_second() - SystemClock.now().as_second() + 7200).abs();
        assert!(off() > 7190);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(off() < 10);
        assert!("7200".parse::<SteppedClock>().is_err());
    }

    #[test]
    fn jitter_stays_in_range_and_follows_the_seed() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        for _ in 0..100 {
            let (x, y) = (
                a.jitter(Duration::from_secs(10), 0.2),
                b.jitter(Duration::from_secs(10), 0.2),
            );
            assert_eq!(x, y);
            assert!(x >= Duration::from_secs(10) && x <= Duration::from_secs(12));
        }
    }
}

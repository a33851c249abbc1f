//! Owns how long an object, or a watch, that failed must wait before the next try.
//! It must not decide whether something failed.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Random;

/// The shape of the delays: exponential from `base` to `cap`, with up to a fifth of jitter on top.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// First delay.
    pub base: Duration,
    /// Longest delay before jitter.
    pub cap: Duration,
}

impl Policy {
    /// For objects: half a second to five minutes.
    pub const OBJECT: Self = Self {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(300),
    };
    /// For watches: a fifth of a second to thirty seconds.
    pub const WATCH: Self = Self {
        base: Duration::from_millis(200),
        cap: Duration::from_secs(30),
    };

    /// The delay before try `attempt` (0 = first retry).
    #[must_use]
    pub fn delay(&self, attempt: u32, random: &Random) -> Duration {
        let factor = 1_u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX);
        random.jitter(self.base.saturating_mul(factor).min(self.cap), 0.2)
    }
}

/// Failures in a row of each object. Success or a new generation of the object starts again at the first delay.
pub struct Failures<K> {
    policy: Policy,
    random: Random,
    counts: Mutex<BTreeMap<K, (u32, i64)>>,
}

impl<K: Ord + Clone> Failures<K> {
    /// No failures yet.
    #[must_use]
    pub fn new(policy: Policy, random: Random) -> Self {
        Self {
            policy,
            random,
            counts: Mutex::new(BTreeMap::new()),
        }
    }

    /// Counts a failure of `key` at `generation` and returns the delay before the next try.
    pub fn failed(&self, key: &K, generation: i64) -> Duration {
        let mut counts = self.counts.lock();
        let entry = counts.entry(key.clone()).or_insert((0, generation));
        if entry.1 != generation {
            *entry = (0, generation);
        }
        let delay = self.policy.delay(entry.0, &self.random);
        entry.0 = entry.0.saturating_add(1);
        delay
    }

    /// Forgets the failures of `key`: it succeeded or is gone.
    pub fn reset(&self, key: &K) {
        self.counts.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_resets() {
        let failures = Failures::new(Policy::OBJECT, Random::seeded(1));
        let mut last = Duration::ZERO;
        for _ in 0..9 {
            let delay = failures.failed(&"a", 1);
            assert!(delay > last);
            last = delay;
        }
        for _ in 0..40 {
            assert!(failures.failed(&"a", 1) <= Duration::from_secs(360));
        }
        assert!(
            failures.failed(&"b", 1) < Duration::from_secs(1),
            "one object's failures do not touch another"
        );
        assert!(
            failures.failed(&"a", 2) < Duration::from_secs(1),
            "a new generation starts again"
        );
        failures.reset(&"a");
        assert!(failures.failed(&"a", 2) < Duration::from_secs(1));
    }
}

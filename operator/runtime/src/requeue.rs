//! Owns when an object comes back after work on it. It must not know what the work was.

use std::sync::Arc;
use std::time::Duration;

use bessemer_core::Key;

use crate::backoff::{Failures, Policy};
use crate::bug::{Bug, planted};
use crate::clock::Random;
use crate::queue::Queue;
use crate::reconcile::{Error, Outcome};

/// Decides when objects come back.
pub(crate) struct Requeue {
    queue: Arc<Queue<Key>>,
    failures: Failures<Key>,
    changes: Failures<Key>,
    random: Random,
    resync: Duration,
}

impl Requeue {
    /// Objects come back to `queue`, at the latest after `resync` and up to a fifth of it.
    pub(crate) fn new(queue: Arc<Queue<Key>>, random: Random, resync: Duration) -> Self {
        Self {
            queue,
            failures: Failures::new(Policy::OBJECT, random.clone()),
            changes: Failures::new(Policy::OBJECT, random.clone()),
            random,
            resync,
        }
    }

    /// Decides when the object comes back; returns the result's word for metrics.
    pub(crate) fn settle(
        &self,
        key: &Key,
        generation: i64,
        result: Result<Outcome, Error>,
    ) -> &'static str {
        let resync = self.random.jitter(self.resync, 0.2);
        let result = match result {
            Ok(Outcome::Settled { .. } | Outcome::Changed { .. })
                if planted(Bug::MissedRequeue) =>
            {
                Ok(Outcome::Settled { again: None })
            }
            result => result,
        };
        if result.is_ok() {
            self.failures.reset(key);
        }
        match result {
            Ok(Outcome::Gone) => {
                self.changes.reset(key);
                "success"
            }
            Ok(Outcome::Settled { again }) => {
                self.changes.reset(key);
                self.queue
                    .add_after(key.clone(), again.map_or(resync, |again| again.min(resync)));
                if again.is_some() {
                    "requeue_after"
                } else {
                    "success"
                }
            }
            // A write that had an effect has come back through the caches and has asked for the next look already. One
            // without effect would be repeated: it must not be at once.
            Ok(Outcome::Changed { again }) => {
                let delay = self.changes.failed(key, generation);
                let delay = again.map_or(delay, |again| again.min(delay));
                self.queue.add_after(key.clone(), delay.min(resync));
                "requeue"
            }
            Err(error) => {
                let delay = self.failures.failed(key, generation);
                if error.is_stale() {
                    tracing::debug!(object = %key, %error, "snapshot was stale");
                } else {
                    let (category, retry) = (error.category(), delay.as_millis());
                    tracing::warn!(object = %key, namespace = key.namespace, category, %error, retry_in_ms = retry, "reconcile failed");
                }
                if !planted(Bug::MissedRetry) {
                    self.queue.add_after(key.clone(), delay);
                }
                "error"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn key() -> Key {
        Key {
            kind: bessemer_api::Kind::Dataset,
            namespace: "ns".into(),
            name: "a".into(),
        }
    }

    /// Seconds until the object is handed out again after `outcome`; whether something touched it during the work.
    async fn pause(requeue: &Requeue, outcome: Outcome, touched: bool) -> f64 {
        requeue.queue.add(key());
        let taken = requeue.queue.next().await;
        assert_eq!(taken.map(|taken| taken.key), Some(key()));
        if touched {
            requeue.queue.add(key());
        }
        requeue.settle(&key(), 1, Ok(outcome));
        requeue.queue.done(&key());
        let start = Instant::now();
        requeue.queue.next().await;
        requeue.queue.done(&key());
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn writes_without_effect_come_back_later_each_time_and_those_with_effect_at_once() {
        let queue = Arc::new(Queue::new());
        let requeue = Requeue::new(queue, Random::seeded(1), Duration::from_secs(600));
        let changed = Outcome::Changed { again: None };
        let mut last = 0.0;
        for _ in 0..9 {
            let pause = pause(&requeue, changed, false).await;
            assert!(pause > last, "{pause} after {last}");
            last = pause;
        }
        assert!(pause(&requeue, changed, true).await < 0.01);
        assert!(pause(&requeue, Outcome::Settled { again: None }, false).await >= 600.0);
        let again = pause(&requeue, changed, false).await;
        assert!((0.5..1.0).contains(&again), "rest starts anew: {again}");
        let soon = Some(Duration::from_millis(100));
        assert!(pause(&requeue, Outcome::Changed { again: soon }, false).await < 0.2);
    }
}

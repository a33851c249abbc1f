//! A work queue: owns which key is due when, with one backoff per key.
//! It must not know what the work is.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::Key;

#[derive(Default)]
struct State {
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

/// Keys waiting for work; a key added twice is worked on once.
#[derive(Clone, Default)]
pub struct Queue {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);

impl Queue {
    /// Makes `key` due now.
    pub fn add(&self, key: Key) {
        self.add_after(key, Duration::ZERO);
    }

    /// Makes `key` due after `delay`, or earlier if it already is.
    pub fn add_after(&self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.state.lock();
        let due = state.due.entry(key).or_insert(at);
        *due = (*due).min(at);
        drop(state);
        self.wake.notify_one();
    }

    fn failed(&self, key: Key) {
        let mut state = self.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let delay = BACKOFF_FIRST
            .saturating_mul(1 << (*failures).min(10))
            .min(BACKOFF_LIMIT);
        *failures += 1;
        drop(state);
        self.add_after(key, delay);
    }

    fn take(&self) -> Result<Key, Option<Instant>> {
        let mut state = self.state.lock();
        // Ties are broken by key, so a simulated run takes the same order each time.
        let first = state
            .due
            .iter()
            .min_by_key(|(key, at)| (**at, (*key).clone()));
        let Some((key, at)) = first.map(|(key, at)| (key.clone(), *at)) else {
            return Err(None);
        };
        if at > Instant::now() {
            return Err(Some(at));
        }
        state.due.remove(&key);
        Ok(key)
    }

    async fn next(&self) -> Key {
        loop {
            match self.take() {
                Ok(key) => return key,
                Err(Some(at)) => {
                    let _ = tokio::time::timeout_at(at, self.wake.notified()).await;
                }
                Err(None) => self.wake.notified().await,
            }
        }
    }

    /// Works on due keys one after the other until `shutdown`. `work` returns when to come back.
    pub async fn run<F, E>(
        self,
        name: &'static str,
        shutdown: CancellationToken,
        mut work: impl FnMut(Key) -> F,
    ) where
        F: Future<Output = Result<Option<Duration>, E>>,
        E: std::fmt::Display,
    {
        loop {
            let key = tokio::select! {
                () = shutdown.cancelled() => return,
                key = self.next() => key,
            };
            match work(key.clone()).await {
                Ok(again) => {
                    self.state.lock().failures.remove(&key);
                    if let Some(delay) = again {
                        self.add_after(key, delay);
                    }
                }
                Err(error) => {
                    tracing::debug!(controller = name, %key, %error, "reconcile failed; trying again");
                    self.failed(key);
                }
            }
        }
    }
}

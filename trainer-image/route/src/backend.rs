//! Owns what is known about one backend: its readiness, its counters and its recent speed. It must
//! not send anything.

use bessemer_protocol::route::{Backend as Configured, BackendStatus};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Over which time speeds are told.
const WINDOW: Duration = Duration::from_secs(300);
/// Samples kept at most; more requests than this in a window are told by their newest.
const SAMPLES: usize = 20_000;
/// Probes in a row that must fail before a ready backend counts as not ready.
const FAILURES: u32 = 2;

/// Whether a backend can take requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not probed yet; requests may try.
    Unknown,
    /// The last probe said yes, or fewer than two in a row failed.
    Ready,
    /// It cannot, and why.
    Unready(String),
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// As configured, with the weight of the configuration it was first seen in.
    pub configured: Configured,
    readiness: Mutex<(Readiness, u32)>,
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
    first_bytes: Mutex<VecDeque<(Instant, f64)>>,
    speeds: Mutex<VecDeque<(Instant, f64, f64)>>,
}

impl Backend {
    /// A backend nothing is known about.
    #[must_use]
    pub fn new(configured: Configured) -> Self {
        Self {
            configured,
            readiness: Mutex::new((Readiness::Unknown, 0)),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            first_bytes: Mutex::new(VecDeque::new()),
            speeds: Mutex::new(VecDeque::new()),
        }
    }

    /// Whether `other` is the same server with the same weights.
    #[must_use]
    pub fn is(&self, other: &Configured) -> bool {
        let own = &self.configured;
        own.name == other.name && own.digest == other.digest && own.url == other.url
    }

    /// Its readiness.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.lock().0.clone()
    }

    /// Takes the result of a probe.
    pub fn probed(&self, result: Result<(), String>) {
        let mut state = self.readiness.lock();
        match result {
            Ok(()) => *state = (Readiness::Ready, 0),
            Err(reason) => {
                state.1 += 1;
                if state.0 != Readiness::Ready || state.1 >= FAILURES {
                    state.0 = Readiness::Unready(reason);
                }
            }
        }
    }

    /// A request begins; it is in flight until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// A request ended in a 5xx, a refused connection or a cut stream.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The first byte of a body came after `delay`.
    pub fn first_byte(&self, now: Instant, delay: Duration) {
        let mut samples = self.first_bytes.lock();
        samples.push_back((now, delay.as_secs_f64() * 1e3));
        trim(&mut samples, now, |sample| sample.0);
    }

    /// An answer told that it took `seconds` for `tokens` completion tokens.
    pub fn completed(&self, now: Instant, tokens: f64, seconds: f64) {
        let mut samples = self.speeds.lock();
        samples.push_back((now, tokens, seconds));
        trim(&mut samples, now, |sample| sample.0);
    }

    /// Requests being answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The counters as the operator reads them.
    #[must_use]
    pub fn status(&self, now: Instant) -> BackendStatus {
        let mut delays: Vec<f64> = {
            let mut samples = self.first_bytes.lock();
            trim(&mut samples, now, |sample| sample.0);
            samples.iter().map(|(_, delay)| *delay).collect()
        };
        delays.sort_by(f64::total_cmp);
        let mut speeds = self.speeds.lock();
        trim(&mut speeds, now, |sample| sample.0);
        let (tokens, seconds) = speeds.iter().fold((0.0, 0.0), |sum, (_, tokens, seconds)| {
            (sum.0 + tokens, sum.1 + seconds)
        });
        BackendStatus {
            name: self.configured.name.clone(),
            digest: self.configured.digest.clone(),
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            in_flight: self.in_flight(),
            ttft_p50_ms: percentile(&delays, 0.5),
            ttft_p99_ms: percentile(&delays, 0.99),
            tokens_per_second: (seconds > 0.0).then(|| tokens / seconds),
        }
    }
}

fn trim<T>(samples: &mut VecDeque<T>, now: Instant, at: impl Fn(&T) -> Instant) {
    while samples.len() > SAMPLES
        || samples
            .front()
            .is_some_and(|sample| now.saturating_duration_since(at(sample)) > WINDOW)
    {
        samples.pop_front();
    }
}

/// The smallest value that at least `share` of the ascending `values` do not exceed.
fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Keeps a request counted as in flight.
#[derive(Debug)]
pub struct InFlight(pub Arc<Backend>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Arc<Backend> {
        let configured = Configured {
            name: "a".into(),
            digest: "d".into(),
            url: "http://x".into(),
            weight: 1,
        };
        Arc::new(Backend::new(configured))
    }

    #[test]
    fn one_lost_probe_does_not_take_a_ready_backend_out() {
        let backend = backend();
        assert_eq!(backend.readiness(), Readiness::Unknown);
        backend.probed(Err("loading".into()));
        assert_eq!(backend.readiness(), Readiness::Unready("loading".into()));
        backend.probed(Ok(()));
        backend.probed(Err("timeout".into()));
        assert_eq!(backend.readiness(), Readiness::Ready);
        backend.probed(Err("refused".into()));
        assert_eq!(backend.readiness(), Readiness::Unready("refused".into()));
    }

    #[test]
    fn status_tells_counts_percentiles_and_forgets_after_the_window() {
        let backend = backend();
        let now = Instant::now();
        for delay in 1..=200 {
            backend.first_byte(now, Duration::from_millis(delay));
        }
        backend.completed(now, 30.0, 2.0);
        backend.completed(now, 10.0, 2.0);
        let guard = backend.begin();
        backend.failed();
        let status = backend.status(now);
        assert_eq!(
            (status.requests, status.errors, status.in_flight),
            (1, 1, 1)
        );
        assert_eq!(
            (status.ttft_p50_ms, status.ttft_p99_ms),
            (Some(100.0), Some(198.0))
        );
        assert_eq!(status.tokens_per_second, Some(10.0));
        drop(guard);
        let later = backend.status(now + WINDOW + Duration::from_secs(1));
        assert_eq!(
            (later.in_flight, later.ttft_p50_ms, later.tokens_per_second),
            (0, None, None)
        );
    }
}

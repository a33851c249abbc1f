//! Owns the router's metrics in Prometheus text. It must not keep what `backend` already counts.

use crate::table::Table;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// Which backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Target {
    /// Revision's name.
    pub backend: String,
    /// Digest of its weights.
    pub digest: String,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Caused {
    /// Revision's name; empty when none was reached.
    pub backend: String,
    /// Stable word.
    pub cause: &'static str,
}

/// Metrics that are events rather than state.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests that failed, by backend and cause.
    pub errors: Family<Caused, Counter>,
    /// Times a request was tried again before its first byte.
    pub retries: Counter,
    /// Arrival to the first byte of the body, seconds.
    pub first_byte: Family<Target, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || {
            Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ])
        };
        Self {
            errors: Family::default(),
            retries: Counter::default(),
            first_byte: Family::new_with_constructor(buckets),
        }
    }
}

impl Metrics {
    /// Counts a failure.
    pub fn failed(&self, backend: &str, cause: &'static str) {
        self.errors
            .get_or_create(&Caused {
                backend: backend.to_owned(),
                cause,
            })
            .inc();
    }

    /// All metrics in OpenMetrics text.
    #[must_use]
    pub fn text(&self, table: &Table) -> String {
        let mut registry = Registry::with_prefix("bessemer_route");
        let requests: Family<Target, Counter> = Family::default();
        let in_flight: Family<Target, Gauge> = Family::default();
        for backend in table.status(Instant::now()).backends {
            let target = Target {
                backend: backend.name,
                digest: backend.digest,
            };
            requests.get_or_create(&target).inc_by(backend.requests);
            in_flight
                .get_or_create(&target)
                .set(i64::try_from(backend.in_flight).unwrap_or(i64::MAX));
        }
        registry.register("requests", "Requests begun", requests);
        registry.register("requests_in_flight", "Requests being answered", in_flight);
        registry.register(
            "errors",
            "Requests that failed, by cause",
            self.errors.clone(),
        );
        registry.register(
            "retries",
            "Attempts repeated before the first byte",
            self.retries.clone(),
        );
        registry.register(
            "first_byte_seconds",
            "Arrival to the first byte of the answer's body",
            self.first_byte.clone(),
        );
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

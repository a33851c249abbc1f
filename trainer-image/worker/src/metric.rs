//! Owns the Prometheus metrics of tasks that end, on the pod's metrics port; servers and routers have their own.
//! It must not slow the work: a scrape reads atomics.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use bessemer_protocol::ProgressReport;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::environment::METRICS_PORT;

type Real = Gauge<f64, AtomicU64>;

/// What a scrape reads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    percent: Real,
    steps: Gauge,
    total_steps: Gauge,
    loss: Real,
    validation_loss: Real,
    tokens_per_second: Real,
    /// Tokens trained on in this attempt.
    pub tokens: Counter,
    /// Checkpoints committed in this attempt.
    pub checkpoints: Counter,
    /// Checkpoints that the store did not take.
    pub checkpoint_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bessemer_worker");
        let mut real = |name: &str, help: &str| {
            let gauge = Real::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let percent = real("progress_percent", "Share of the run that is done");
        let loss = real("loss", "Training loss, nats per token");
        let validation_loss = real("validation_loss", "Validation loss, nats per token");
        let tokens_per_second = real("tokens_per_second", "Tokens per second over the last steps");
        let (steps, total_steps) = (Gauge::default(), Gauge::default());
        registry.register("steps", "Steps, documents or samples done", steps.clone());
        registry.register(
            "steps_planned",
            "Steps, documents or samples in all",
            total_steps.clone(),
        );
        let mut count = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let tokens = count("tokens", "Tokens trained on in this attempt");
        let checkpoints = count("checkpoints", "Checkpoints committed in this attempt");
        let checkpoint_failures = count(
            "checkpoint_failures",
            "Checkpoints that the store did not take",
        );
        Self {
            registry,
            percent,
            steps,
            total_steps,
            loss,
            validation_loss,
            tokens_per_second,
            tokens,
            checkpoints,
            checkpoint_failures,
        }
    }
}

impl Metrics {
    /// Takes over the numbers of a report.
    pub fn observe(&self, report: &ProgressReport) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.percent.set(report.percent);
        self.steps.set(whole(report.step));
        self.total_steps.set(whole(report.total_steps));
        for (gauge, number) in [
            (&self.loss, report.loss),
            (&self.validation_loss, report.validation_loss),
            (&self.tokens_per_second, report.tokens_per_second),
        ] {
            if let Some(number) = number {
                gauge.set(number);
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Serves `/metrics` and `/health` until the process ends. A taken port is no reason not to work.
pub async fn serve(metrics: Arc<Metrics>, ip: IpAddr) {
    let address = SocketAddr::new(ip, METRICS_PORT);
    let listener = match bessemer_route::drain::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "no metrics"),
    };
    let kind = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move { (kind, metrics.text()) }),
        )
        .route("/health", get(|| async { "ok" }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "metrics ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_the_counters() {
        let metrics = Metrics::default();
        metrics.tokens.inc_by(4096);
        metrics.checkpoints.inc();
        metrics.steps.set(12);
        metrics.loss.set(2.5);
        let text = metrics.text();
        for line in [
            "bessemer_worker_tokens_total 4096",
            "bessemer_worker_checkpoints_total 1",
            "bessemer_worker_steps 12",
            "bessemer_worker_loss 2.5",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}

//! Owns the operator's own HTTP endpoints: `/metrics`, `/healthz`, `/readyz`. It must not offer anything that changes state.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metric::{self, Metrics};
use crate::watch::{Pulse, TIMEOUT_SECONDS};

/// What the endpoints tell of.
pub struct Health {
    /// Counters.
    pub metrics: Metrics,
    /// Signs of life of the watches.
    pub pulse: Pulse,
    /// Brings gauges up to date before they are read.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// Names of the kinds whose first list is not complete.
    pub unsynced: Box<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// Age of the oldest reconcile in progress.
    pub longest: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl Health {
    /// Why the process should be started again, if it should.
    ///
    /// Liveness is the process's own: a silent watch or a reconcile far past its deadline. It is not whether the API
    /// server answers, or one outage there would restart every operator.
    fn ill(&self) -> Option<String> {
        let limit = Duration::from_secs(u64::from(TIMEOUT_SECONDS) * 2);
        if let Some((kind, age)) = self.pulse.ages().into_iter().find(|(_, age)| *age > limit) {
            return Some(format!("watch of {kind} silent for {} s", age.as_secs()));
        }
        let longest = (self.longest)();
        (longest > crate::reconcile::DEADLINE * 2)
            .then(|| format!("a reconcile runs for {} s", longest.as_secs()))
    }

    /// The routes.
    pub fn routes(self: Arc<Self>) -> axum::Router {
        axum::Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    (health.refresh)();
    for (kind, age) in health.pulse.ages() {
        let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        health
            .metrics
            .watch_age
            .get_or_create(&metric::Kind { kind })
            .set(seconds);
    }
    match health.metrics.render() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(health): State<Arc<Health>>) -> Response {
    match health.ill() {
        None => "ok".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

/// Ready means: the caches are complete, so a decision here would rest on all there is.
async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let unsynced = (health.unsynced)();
    if unsynced.is_empty() {
        return "ok".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not listed yet: {}", unsynced.join(", ")),
    )
        .into_response()
}

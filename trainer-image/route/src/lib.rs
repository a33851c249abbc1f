//! Owns the traffic between the revisions of a served model: the split by weight, keys, the digest
//! header, counters that a rollout can abort on, and draining. It must not know models; it builds
//! without libtorch.
//!
//! `fault`, `key` and `drain` are the edge of every HTTP server of this project and also used by
//! bessemer-serve.

mod backend;
pub mod drain;
pub mod fault;
pub mod key;
mod metric;
mod proxy;
mod share;
mod table;

pub use proxy::{DIGEST, DRAINING};
pub use table::ConfigError;

use axum::Json;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bessemer_protocol::route::RouteStatus;
use drain::{Drain, ListenError};
use fault::Fault;
use key::Keys;
use metric::Metrics;
use proxy::Proxy;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use table::Table;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Largest request body, bytes.
pub const BODY_LIMIT: usize = 8 << 20;
/// How often the configuration file is looked at.
const RELOAD: Duration = Duration::from_millis(250);
/// How often backends are probed.
const PROBE: Duration = Duration::from_secs(1);

/// How a router runs.
#[derive(Clone, Debug)]
pub struct RouteOptions {
    /// Configuration file (a mounted ConfigMap), see [`bessemer_protocol::route::RouteConfig`].
    pub config: PathBuf,
    /// Directory of API keys (a mounted Secret).
    pub keys: Option<PathBuf>,
    /// How long requests in flight may take after the shutdown.
    pub drain: Duration,
}

/// Why a router ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Its first configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its listener failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl RouteError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Config(error) => error.category(),
            Self::Listen(error) => error.category(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    table: Table,
    keys: Keys,
    proxy: Proxy,
    metrics: Metrics,
    drain: Drain,
}

/// Routes on `listener` (see [`drain::bind`]) until `shutdown`, then drains and returns.
///
/// # Errors
/// When the first configuration is refused or the listener fails.
pub async fn route(
    listener: TcpListener,
    options: RouteOptions,
    shutdown: CancellationToken,
) -> Result<(), RouteError> {
    let metrics = Metrics::default();
    let shared = Arc::new(Shared {
        table: Table::open(&options.config)?,
        keys: Keys::new(options.keys),
        proxy: Proxy::new(metrics.clone()),
        metrics,
        drain: Drain::default(),
    });
    let stop = shutdown.child_token();
    let reloading = tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(reload(shared.clone())),
    );
    let probing = tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(probe(shared.clone())),
    );
    let router = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .route("/-/status", get(status))
        .route("/v1/{*path}", any(forward))
        .fallback(|| async {
            Fault::not_found("PathNotFound", "No such path; the API lies below /v1.")
        })
        .with_state(shared.clone());
    let result = shared
        .drain
        .serve(listener, router, shutdown, options.drain)
        .await;
    stop.cancel();
    let _ = tokio::join!(reloading, probing);
    Ok(result?)
}

async fn reload(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(RELOAD).await;
        if let Err(error) = shared.table.reload() {
            shared.metrics.failed("", error.category());
            tracing::warn!(%error, "the configuration in force stays");
        }
    }
}

async fn probe(shared: Arc<Shared>) {
    let mut next = Instant::now();
    loop {
        // A new configuration may bring new backends: those are probed at once.
        let all = Instant::now() >= next;
        if all {
            next = Instant::now() + PROBE;
        }
        let chosen = shared
            .table
            .backends()
            .into_iter()
            .filter(|b| all || b.readiness() == backend::Readiness::Unknown);
        let probes = chosen.map(|backend| {
            let proxy = &shared.proxy;
            async move { backend.probed(proxy.probe(&backend).await) }
        });
        futures::future::join_all(probes).await;
        tokio::time::sleep(RELOAD).await;
    }
}

/// Ready means: the router itself works. Whether a revision does is told by each request and by
/// the status, so that clients get a 503 with the reason instead of a refused connection.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.drain.begun() {
        return draining().into_response();
    }
    "ready".into_response()
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        shared.metrics.text(&shared.table),
    )
        .into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<RouteStatus> {
    Json(shared.table.status(Instant::now()))
}

fn draining() -> Fault {
    Fault::unavailable("Draining", "The router is shutting down. Try again.")
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match forward_checked(&shared, request).await {
        Ok(response) => response,
        Err(fault) => {
            if fault.status != StatusCode::SERVICE_UNAVAILABLE {
                shared.metrics.failed("", fault.category);
            }
            let mut response = fault.into_response();
            if shared.drain.begun() {
                response
                    .headers_mut()
                    .insert(DRAINING, axum::http::HeaderValue::from_static("1"));
            }
            response
        }
    }
}

async fn forward_checked(shared: &Shared, request: Request) -> Result<Response, Fault> {
    // Entered first: a drain that begins now waits for this request.
    let token = shared.drain.enter();
    if shared.drain.begun() {
        return Err(draining());
    }
    if shared.table.requires_key() {
        shared.keys.check(request.headers())?;
    }
    let (parts, body) = request.into_parts();
    let counted = parts.method == Method::POST;
    let body = to_bytes(body, BODY_LIMIT)
        .await
        .map_err(|_| Fault::too_large(BODY_LIMIT))?;
    let response = shared
        .proxy
        .forward(&shared.table, parts, body, counted, token)
        .await?;
    Ok(response.map(Body::new))
}

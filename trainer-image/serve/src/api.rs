//! Owns the HTTP surface of a model server: paths, keys, states of the server, the digest header
//! and error counting. It must not compute tokens.

mod answer;
mod chat;
mod choice;
mod completion;
mod field;
mod setting;

use crate::engine::Engine;
use crate::metric::Metrics;
use crate::vocabulary::Vocabulary;
use answer::{Job, Shape};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bessemer_model::ChatTemplate;
use bessemer_route::drain::Drain;
use bessemer_route::fault::{Cause, Fault};
use bessemer_route::key::Keys;
use bessemer_route::{BODY_LIMIT, DIGEST, DRAINING};
use field::Fields;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// A loaded model and all that requests need of it.
#[derive(Debug)]
pub struct Served {
    /// Name under which it is offered.
    pub model: String,
    /// Tokenizer.
    pub vocabulary: Arc<Vocabulary>,
    /// Chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// Positions that prompt and answer share.
    pub context: usize,
    /// Ids below this may be sent as prompts.
    pub vocabulary_size: usize,
    /// Engine.
    pub engine: Engine,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// The server's state.
#[derive(Debug)]
pub struct Server {
    /// Set once the model is loaded.
    pub served: OnceLock<Arc<Served>>,
    /// Digest of the weights.
    pub digest: String,
    /// Keys, when they are required.
    pub keys: Option<Keys>,
    /// Requests in flight.
    pub drain: Drain,
    /// Silence of the engine after which it counts as stuck.
    pub stuck_after: Duration,
    /// The run's span, taken by the first request: one trace leads from the manifest to the first
    /// served token.
    pub span: Mutex<Option<Span>>,
}

impl Server {
    /// The model, when requests can be taken now.
    fn ready(&self) -> Result<&Arc<Served>, Fault> {
        if self.drain.begun() {
            return Err(Fault::unavailable(
                "Draining",
                "The server is shutting down. Try again; another will answer.",
            ));
        }
        let served = self.served.get().ok_or_else(|| {
            Fault::unavailable("Loading", "The model is being loaded. Try again shortly.")
        })?;
        let pulse = served.engine.pulse();
        if pulse.stopped() || pulse.silence() > self.stuck_after {
            return Err(Fault::unavailable(
                "EngineStuck",
                "The engine makes no progress. Try again; another server may answer.",
            ));
        }
        Ok(served)
    }
}

/// All paths.
pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(|| async {
            Fault::not_found("PathNotFound", "No such path; the API lies below /v1.")
        })
        .method_not_allowed_fallback(|| async { Fault::method_not_allowed() })
        .layer(middleware::from_fn_with_state(server.clone(), seal))
        .with_state(server)
}

/// Puts the digest on every answer and counts errors by cause.
async fn seal(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let (method, path, start) = (
        request.method().clone(),
        request.uri().path().to_owned(),
        Instant::now(),
    );
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&server.digest) {
        response.headers_mut().insert(DIGEST, value);
    }
    if let Some(Cause(cause)) = response.extensions().get().copied() {
        if cause == "Draining" {
            response
                .headers_mut()
                .insert(DRAINING, HeaderValue::from_static("1"));
        }
        if path.starts_with("/v1")
            && let Some(served) = server.served.get()
        {
            served.metrics.failed(cause);
        }
    }
    if path.starts_with("/v1") {
        let (status, milliseconds) = (
            response.status().as_u16(),
            start.elapsed().as_millis() as u64,
        );
        tracing::info!(%method, path, status, milliseconds, "answered");
    }
    response
}

/// Whether the process works; a restart helps when it does not.
async fn health(State(server): State<Arc<Server>>) -> Response {
    match server.served.get() {
        Some(served) if served.engine.pulse().stopped() => {
            Fault::internal("EngineStopped", "The engine has stopped.").into_response()
        }
        _ => "ok".into_response(),
    }
}

/// Whether requests can be taken now: the model is loaded, the engine makes progress, no drain.
async fn ready(State(server): State<Arc<Server>>) -> Result<&'static str, Fault> {
    server.ready().map(|_| "ready")
}

async fn metrics(State(server): State<Arc<Server>>) -> Result<Response, Fault> {
    let served = server
        .served
        .get()
        .ok_or_else(|| Fault::unavailable("Loading", "The model is being loaded."))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], served.metrics.text()).into_response())
}

fn authorize(server: &Server, headers: &HeaderMap) -> Result<(), Fault> {
    server
        .keys
        .as_ref()
        .map_or(Ok(()), |keys| keys.check(headers))
}

fn describe(server: &Server, served: &Served) -> Value {
    json!({"id": served.model, "object": "model", "created": 0, "owned_by": "bessemer", "max_model_len": served.context, "digest": server.digest})
}

async fn models(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
) -> Result<axum::Json<Value>, Fault> {
    authorize(&server, &headers)?;
    let served = server.ready()?;
    Ok(axum::Json(
        json!({"object": "list", "data": [describe(&server, served)]}),
    ))
}

async fn model(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<axum::Json<Value>, Fault> {
    authorize(&server, &headers)?;
    let served = server.ready()?;
    check_model(served, &name)?;
    Ok(axum::Json(describe(&server, served)))
}

fn check_model(served: &Served, name: &str) -> Result<(), Fault> {
    if name == served.model {
        return Ok(());
    }
    Err(Fault::not_found(
        "ModelNotFound",
        format!(
            "The model {name:?} is not served here; {:?} is.",
            served.model
        ),
    ))
}

async fn completions(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response, Fault> {
    run(&server, request, completion::read).await
}

async fn chat_completions(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response, Fault> {
    run(&server, request, chat::read).await
}

async fn run<S: Shape>(
    server: &Arc<Server>,
    request: Request,
    read: impl FnOnce(&Served, Fields) -> Result<Job<S>, Fault>,
) -> Result<Response, Fault> {
    let arrived = Instant::now();
    // Entered first: a drain that begins now waits for this request.
    let token = server.drain.enter();
    authorize(server, request.headers())?;
    let served = server.ready()?;
    let body = to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|_| Fault::too_large(BODY_LIMIT))?;
    let mut fields = Fields::parse(&body)?;
    match fields.take::<String>("model")? {
        Some(name) => check_model(served, &name)?,
        None => {
            return Err(Fault::invalid(
                "model",
                format!("model is missing. Send {:?}.", served.model),
            ));
        }
    }
    let job = read(served, fields)?;
    let parent = server.span.lock().ok().and_then(|mut span| span.take());
    let span = tracing::info_span!(parent: parent.as_ref().and_then(Span::id), "completion", model = served.model, digest = server.digest);
    answer::answer(served, job, arrived, token)
        .instrument(span)
        .await
}

#[cfg(test)]
mod tests;

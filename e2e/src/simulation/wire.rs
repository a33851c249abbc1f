//! Owns the operator's connection to the API server: where requests and answers are lost, where the operator dies, and
//! where every write is checked for its precondition. It must not change what a request says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bessemer_api::Kind;
use bessemer_embedded::Api;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{BoxError, ServiceExt};

use super::fault::{Fault, Plan, Step};
use super::server::text;

/// What all connections of a simulation share.
pub struct Wire {
    /// The API server.
    pub api: Api,
    /// Faults.
    pub plan: Plan,
    /// Told when the operator must die.
    pub crash: Notify,
    /// Broken rules of single requests.
    pub broken: Mutex<Vec<String>>,
    /// Writes by the operator, leases apart.
    pub writes: AtomicU64,
    /// Requests by the operator.
    pub requests: AtomicU64,
    /// The newest observedGeneration written per UID.
    observed: Mutex<BTreeMap<String, i64>>,
}

impl Wire {
    /// A wire to `api`.
    #[must_use]
    pub fn new(api: Api, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            api,
            plan,
            crash: Notify::new(),
            broken: Mutex::default(),
            writes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            observed: Mutex::default(),
        })
    }

    /// A client over this wire.
    pub fn client(self: &Arc<Self>) -> kube::Client {
        let wire = self.clone();
        kube::Client::new(
            tower::service_fn(move |request| wire.clone().carry(request)),
            "default",
        )
    }

    async fn carry(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<bessemer_embedded::api::Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await?;
        let lease = parts.uri.path().contains("/leases");
        self.requests.fetch_add(1, Ordering::Relaxed);
        let write = parts.method != Method::GET && !lease;
        if write {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.check(&parts.method, parts.uri.path(), &bytes);
        }
        let fault = if write {
            concerns(parts.uri.path(), &bytes).and_then(|(kind, step)| self.plan.draw(kind, step))
        } else {
            None
        };
        if parts
            .uri
            .query()
            .is_some_and(|query| query.contains("watch=true"))
            && self.plan.take_expired()
        {
            self.api.compact();
        }
        let pass = |bytes: Bytes| {
            let request = Request::from_parts(parts, http_body_util::Full::new(bytes));
            self.api.clone().oneshot(request)
        };
        match fault {
            Some(Fault::LostRequest) => Err(lost()),
            Some(Fault::LostAnswer) => {
                pass(bytes).await?;
                Err(lost())
            }
            Some(Fault::Conflict) => Ok(refuse(StatusCode::CONFLICT, "Conflict")),
            Some(Fault::TooMany) => Ok(refuse(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")),
            Some(Fault::ServerError) if self.plan.coin() => {
                Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            Some(Fault::ServerError) => Ok(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
            )),
            Some(Fault::Slow) => {
                tokio::time::sleep(self.plan.delay(100, 25_000)).await;
                pass(bytes).await
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                pass(bytes).await?;
                self.die().await
            }
            _ => pass(bytes).await,
        }
    }

    async fn die<T>(&self) -> T {
        self.crash.notify_one();
        std::future::pending().await
    }

    fn complain(&self, what: String) {
        let mut broken = self.broken.lock();
        if broken.len() < 20 {
            broken.push(what);
        }
    }

    /// Every mutation carries its precondition; what is told never goes back.
    fn check(&self, method: &Method, path: &str, bytes: &[u8]) {
        let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if *method == Method::DELETE && text(&body, "/preconditions/uid").is_empty() {
            self.complain(format!("P3: DELETE {path} without uid"));
        }
        if *method == Method::POST
            && !path.ends_with("/events")
            && text(&body, "/metadata/name").is_empty()
        {
            self.complain(format!("C10: POST {path} without a name of its own"));
        }
        if *method == Method::PATCH && path.ends_with("/status") {
            let uid = text(&body, "/metadata/uid");
            if uid.is_empty() || text(&body, "/metadata/resourceVersion").is_empty() {
                self.complain(format!(
                    "P3: status of {path} without uid and resourceVersion"
                ));
            }
            let generation = body
                .pointer("/status/observedGeneration")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            let mut observed = self.observed.lock();
            let known = observed.entry(uid.to_owned()).or_default();
            if generation < *known {
                self.complain(format!(
                    "P7: observedGeneration of {path} fell from {known} to {generation}"
                ));
            }
            *known = generation.max(*known);
        }
    }
}

fn lost() -> BoxError {
    Box::new(std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "connection lost (injected)",
    ))
}

fn refuse(code: StatusCode, reason: &str) -> Response<bessemer_embedded::api::Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": "injected", "code": code.as_u16()});
    let mut response = Response::new(bessemer_embedded::api::Body::whole(body.to_string()));
    *response.status_mut() = code;
    response
}

/// Which of our kinds a write concerns, and at which step it happens.
fn concerns(path: &str, bytes: &[u8]) -> Option<(Kind, Step)> {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    if path.contains("/events") {
        let word = text(&body, "/regarding/kind");
        return Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == word)
            .map(|kind| (kind, Step::Publish));
    }
    if path.starts_with("/apis/bessemer.dev/") {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| parts.contains(&kind.plural()))?;
        let step = if path.ends_with("/status") {
            Step::Publish
        } else {
            Step::Execute
        };
        return Some((kind, step));
    }
    let name = match text(&body, "/metadata/name") {
        "" => *parts.last()?,
        name => name,
    };
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| name.starts_with(&format!("{}-", kind.short())))?;
    Some((kind, Step::Execute))
}

//! Owns the operator's connection to the API server: where requests and answers are lost, where the operator dies, and
//! where every write is checked for its precondition. It must not change what a request says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bessemer_api::Kind;
use bessemer_embedded::Api;
use bessemer_runtime::client::Counting;
use bessemer_runtime::metric::Metrics;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{BoxError, Layer, ServiceExt};

use super::fault::{Fault, Plan, Step};
use super::server::{call, text};

/// No life of 12 objects takes nearly as many requests: who makes more is in a loop, in which virtual time may stand still.
const ENDLESS: u64 = 30_000;

/// A partition between one operator and the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Requests are refused at once.
    Refused,
    /// Requests are never answered.
    Silent,
    /// Requests are carried out, answers are lost.
    Deaf,
}

/// What all connections of one operator share.
pub struct Wire {
    /// Name of the operator.
    pub name: &'static str,
    /// Name of its present incarnation.
    pub identity: Mutex<String>,
    /// The present partition.
    pub cut: Mutex<Option<Cut>>,
    /// Whether nobody but the holder of the Lease may write.
    pub exclusive: AtomicBool,
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
    /// Writes of leases.
    pub lease_writes: AtomicU64,
    /// Requests by the operator, leases apart.
    pub requests: AtomicU64,
    /// More requests are a loop.
    pub most: AtomicU64,
    /// The newest observedGeneration written per UID.
    observed: Mutex<BTreeMap<String, i64>>,
}

impl Wire {
    /// A wire to `api`.
    #[must_use]
    pub fn new(name: &'static str, api: Api, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            name,
            identity: Mutex::default(),
            cut: Mutex::new(None),
            exclusive: AtomicBool::new(false),
            api,
            plan,
            crash: Notify::new(),
            broken: Mutex::default(),
            writes: AtomicU64::new(0),
            lease_writes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            most: AtomicU64::new(ENDLESS),
            observed: Mutex::default(),
        })
    }

    /// A client over this wire.
    pub fn client(self: &Arc<Self>) -> kube::Client {
        let wire = self.clone();
        let service = tower::service_fn(move |request| wire.clone().carry(request));
        // The operator's own layer: it bounds the wait for an answer.
        kube::Client::new(Counting(Metrics::new()).layer(service), "default")
    }

    async fn carry(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<bessemer_embedded::api::Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await?;
        let path = parts.uri.path().to_owned();
        let lease = path.contains("/leases");
        let most = self.most.load(Ordering::Relaxed);
        if !lease && self.requests.fetch_add(1, Ordering::Relaxed) > most {
            self.complain(format!("O8: more than {most} requests, now {path}"));
            return std::future::pending().await;
        }
        let cut = *self.cut.lock();
        match cut {
            Some(Cut::Refused) => return Err(lost()),
            Some(Cut::Silent) => return std::future::pending().await,
            Some(Cut::Deaf) | None => {}
        }
        let write = parts.method != Method::GET && !lease;
        if lease && parts.method != Method::GET {
            self.lease_writes.fetch_add(1, Ordering::Relaxed);
        }
        if write {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        let fault = if write {
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            self.check(&parts.method, &path, &body);
            let creates = parts.method == Method::POST;
            concerns(&path, &body).and_then(|(kind, step)| self.plan.draw(kind, step, creates))
        } else if lease {
            None
        } else {
            let kind = concerns(&path, &Value::Null).map(|(kind, _)| kind);
            self.plan.draw_read(kind)
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
            Some(Fault::NameTaken) => {
                self.squat(&path, &bytes);
                pass(bytes).await
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                pass(bytes).await?;
                self.die().await
            }
            _ if cut == Some(Cut::Deaf) => {
                pass(bytes).await?;
                Err(lost())
            }
            _ => pass(bytes).await,
        }
    }

    /// Somebody else makes an object of the same name, and removes it again after a while.
    fn squat(self: &Arc<Self>, path: &str, bytes: &[u8]) {
        let mut body: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.retain(|field, _| field == "name" || field == "namespace");
        }
        let name = text(&body, "/metadata/name").to_owned();
        let (code, made) = call(&self.api, Method::POST, path, "application/json", &body);
        if code != 201 {
            return; // it exists already
        }
        let (wire, place) = (self.clone(), format!("{path}/{name}"));
        tokio::spawn(async move {
            tokio::time::sleep(wire.plan.delay(20_000, 90_000)).await;
            let none = Value::Null;
            let (_, now) = call(&wire.api, Method::GET, &place, "application/json", &none);
            if now != made {
                wire.complain(format!("P5: {place} of somebody else was touched: {now}"));
            }
            let place = format!("{place}?propagationPolicy=Background");
            call(&wire.api, Method::DELETE, &place, "application/json", &none);
        });
    }

    async fn die<T>(&self) -> T {
        self.crash.notify_one();
        std::future::pending().await
    }

    pub(super) fn complain(&self, what: String) {
        let mut broken = self.broken.lock();
        if broken.len() < 20 {
            broken.push(what);
        }
    }

    /// Every mutation carries its precondition; what is told never goes back.
    fn check(&self, method: &Method, path: &str, body: &Value) {
        if self.exclusive.load(Ordering::Relaxed) {
            let leases = self.api.objects("leases.coordination.k8s.io");
            let holder = leases
                .first()
                .map_or("", |lease| text(lease, "/spec/holderIdentity"));
            let me = self.identity.lock().clone();
            if holder != me {
                self.complain(format!("{me} writes {path} while {holder:?} leads"));
            }
        }
        if *method == Method::DELETE && text(body, "/preconditions/uid").is_empty() {
            self.complain(format!("P3: DELETE {path} without uid"));
        }
        if *method == Method::POST
            && !path.ends_with("/events")
            && text(body, "/metadata/name").is_empty()
        {
            self.complain(format!("C10: POST {path} without a name of its own"));
        }
        if *method == Method::PATCH && path.ends_with("/status") {
            let uid = text(body, "/metadata/uid");
            if uid.is_empty() || text(body, "/metadata/resourceVersion").is_empty() {
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

/// Which of our kinds a request concerns, and at which step a write happens.
fn concerns(path: &str, body: &Value) -> Option<(Kind, Step)> {
    let parts: Vec<&str> = path.split('/').collect();
    if path.contains("/events") {
        let word = text(body, "/regarding/kind");
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
    let name = match text(body, "/metadata/name") {
        "" => *parts.last()?,
        name => name,
    };
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| name.starts_with(&format!("{}-", kind.short())))?;
    Some((kind, Step::Execute))
}

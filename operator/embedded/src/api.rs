//! Owns the API server of one process: a tower service over committed state. Must not listen on sockets (`server` does).

mod body;

pub use body::{Body, BoxError};

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::custom;
use crate::discovery;
use crate::encode::{self, Form};
use crate::fault::{After, Before, Fault, View};
use crate::handler::{Call, Core, Reply};
use crate::log::LogSource;
use crate::registry::Registry;
use crate::request::{Address, Query, User, Verb, address};
use crate::state::State;
use crate::status::Failure;
use crate::storage::{Key, Memory, Storage, StorageError};
use crate::token::Issuer;

/// How an API server is set up.
pub struct Options {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Seed of uids and generated names.
    pub seed: u64,
    /// Where objects are kept.
    pub storage: Box<dyn Storage>,
    /// Disturbances, for simulation.
    pub fault: Option<Arc<dyn Fault>>,
    /// Logs of pods.
    pub logs: Option<Arc<dyn LogSource>>,
    /// Signs service-account tokens.
    pub issuer: Option<Arc<Issuer>>,
    /// Services get addresses of this network's first 16 bits.
    pub service_network: Ipv4Addr,
}

impl Options {
    /// In memory, without faults.
    #[must_use]
    pub fn memory(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            clock,
            seed,
            storage: Box::new(Memory),
            fault: None,
            logs: None,
            issuer: None,
            service_network: Ipv4Addr::new(127, 96, 0, 0),
        }
    }
}

struct Inner {
    core: Mutex<Core>,
    clock: Arc<dyn Clock>,
    fault: Option<Arc<dyn Fault>>,
    logs: Option<Arc<dyn LogSource>>,
    issuer: Option<Arc<Issuer>>,
    requests: AtomicU64,
}

/// The API server. Clones share everything; use one with `kube::Client::new(api, "default")`.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Opens the store and serves what is in it; makes the namespaces every cluster has.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub fn open(options: Options) -> Result<Self, StorageError> {
        let state = State::open(options.storage)?;
        let mut registry = Registry::builtin();
        let definitions: Vec<Arc<Value>> = state.list(custom::TABLE, "").cloned().collect();
        for definition in definitions {
            custom::register(&mut registry, &definition);
        }
        let core = Core {
            state,
            registry,
            entropy: ChaCha8Rng::seed_from_u64(options.seed),
            service_network: options.service_network,
            warnings: Vec::new(),
        };
        let api = Self::with_core(
            core,
            options.clock,
            options.fault,
            options.logs,
            options.issuer,
        );
        for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            api.seed_namespace(namespace);
        }
        Ok(api)
    }

    fn with_core(
        core: Core,
        clock: Arc<dyn Clock>,
        fault: Option<Arc<dyn Fault>>,
        logs: Option<Arc<dyn LogSource>>,
        issuer: Option<Arc<Issuer>>,
    ) -> Self {
        Self(Arc::new(Inner {
            core: Mutex::new(core),
            clock,
            fault,
            logs,
            issuer,
            requests: AtomicU64::new(0),
        }))
    }

    /// Another API in memory that begins with the objects and the compiled schemas of this one; of `options` all but
    /// the storage counts.
    #[must_use]
    pub fn fork(&self, options: Options) -> Self {
        let core = {
            let core = self.0.core.lock();
            Core {
                state: core.state.fork(),
                registry: core.registry.clone(),
                entropy: ChaCha8Rng::seed_from_u64(options.seed),
                service_network: options.service_network,
                warnings: Vec::new(),
            }
        };
        Self::with_core(
            core,
            options.clock,
            options.fault,
            options.logs,
            options.issuer,
        )
    }

    fn seed_namespace(&self, name: &str) {
        let key = Key {
            table: "namespaces".into(),
            namespace: String::new(),
            name: name.into(),
        };
        if self.0.core.lock().state.get(&key).is_some() {
            return;
        }
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            .to_string();
        let made = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/namespaces")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "bessemer")
            .body(())
            .map(|request| request.into_parts().0);
        if let Ok(parts) = made {
            let _ = self.answer(&parts, body.into());
        }
    }

    /// Forgets history: watches and pages from earlier resourceVersions expire (410).
    pub fn compact(&self) {
        self.0.core.lock().state.compact();
    }

    /// The last resourceVersion given out.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.core.lock().state.revision()
    }

    /// All objects of a table (`configmaps`, `jobs.batch`), for oracles and tests.
    #[must_use]
    pub fn objects(&self, table: &str) -> Vec<Arc<Value>> {
        self.0.core.lock().state.list(table, "").cloned().collect()
    }

    /// One object of a table.
    #[must_use]
    pub fn object(&self, table: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = Key {
            table: table.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.0.core.lock().state.get(&key)
    }

    /// How many requests to resources were made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// The signer of service-account tokens.
    #[must_use]
    pub fn issuer(&self) -> Option<&Arc<Issuer>> {
        self.0.issuer.as_ref()
    }

    /// The API server's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Answers at once, without faults: the whole request is in memory.
    pub fn answer(&self, parts: &Parts, body: Bytes) -> Response<Body> {
        let form = Form::of(parts);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let found = address(&self.0.core.lock().registry, parts.uri.path());
        let answered = match found {
            Ok(Address::Resource(target)) => match Verb::of(&parts.method, &target, &query) {
                Some(verb) => {
                    return self.carry_out(
                        &Self::call(parts, verb, target, query, body, self.0.clock.now()),
                        &form,
                    );
                }
                None => Err(Failure::method_not_allowed()),
            },
            Ok(Address::Other(path)) => {
                let words: Vec<&str> = path.iter().map(String::as_str).collect();
                discovery::serve(
                    &self.0.core.lock().registry,
                    &words,
                    &form,
                    self.0.issuer.as_deref(),
                )
            }
            Err(failure) => Err(failure),
        };
        answered.unwrap_or_else(|failure| encode::failure(&failure))
    }

    fn call(
        parts: &Parts,
        verb: Verb,
        target: crate::request::Target,
        query: Query,
        body: Bytes,
        now: jiff::Timestamp,
    ) -> Call {
        let text = |name: header::HeaderName| {
            parts
                .headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        Call {
            verb,
            target,
            query,
            user: parts
                .extensions
                .get::<User>()
                .cloned()
                .unwrap_or_else(User::admin),
            content_type: text(header::CONTENT_TYPE)
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            user_agent: text(header::USER_AGENT),
            body,
            now,
        }
    }

    fn carry_out(&self, call: &Call, form: &Form) -> Response<Body> {
        let (reply, warnings) = {
            let mut core = self.0.core.lock();
            let reply = core.handle(call);
            (reply, std::mem::take(&mut core.warnings))
        };
        let resource = &call.target.resource;
        let mut response = match reply {
            Err(failure) => encode::failure(&failure),
            Ok(Reply::Object { code, object }) => {
                encode::object(code, &object, resource, &call.target, form, call.now)
            }
            Ok(Reply::List(list)) => encode::list(&list, resource, form, call.now),
            Ok(Reply::Watch(cursor)) => Response::new(Body::watch(
                self.clone(),
                cursor,
                form.clone(),
                self.0.fault.clone(),
            )),
            Ok(Reply::Log { namespace, pod }) => match &self.0.logs {
                Some(logs) => crate::log::respond(logs.as_ref(), &namespace, &pod, &call.query),
                None => encode::failure(&Failure::no_such_path()),
            },
            Ok(Reply::Token { account, request }) => match &self.0.issuer {
                Some(issuer) => match issuer.request(&account, &request, call, &self.0.core.lock())
                {
                    Ok(token) => {
                        encode::object(201, &token, resource, &call.target, form, call.now)
                    }
                    Err(failure) => encode::failure(&failure),
                },
                None => encode::failure(&Failure::no_such_path()),
            },
        };
        encode::warn(&mut response, &warnings);
        response
    }

    /// Runs `read` on the state under its lock.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&mut Core) -> T) -> T {
        read(&mut self.0.core.lock())
    }

    async fn serve<B>(self, request: Request<B>) -> Result<Response<Body>, BoxError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let target = match address(&self.0.core.lock().registry, parts.uri.path()) {
            Ok(Address::Resource(target)) => {
                Verb::of(&parts.method, &target, &query).map(|verb| (target, verb))
            }
            _ => None,
        };
        let Some((target, verb)) = target else {
            return Ok(self.answer(&parts, bytes));
        };
        let index = self.0.requests.fetch_add(1, Ordering::Relaxed);
        let Some(fault) = self.0.fault.clone() else {
            return Ok(self.answer(&parts, bytes));
        };
        let agent = parts
            .headers
            .get(header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let view = View {
            index,
            verb,
            table: &target.resource.table,
            namespace: &target.namespace,
            name: &target.name,
            subresource: &target.subresource,
            agent,
        };
        match fault.before(&view) {
            Before::Proceed => {}
            Before::Delay(time) => tokio::time::sleep(time).await,
            Before::Drop => return Err(lost()),
            Before::Refuse(code) => return Ok(encode::failure(&Failure::injected(code))),
            Before::Compact => self.compact(),
        }
        let response = self.answer(&parts, bytes);
        match fault.after(&view, response.status().as_u16()) {
            After::Deliver => {}
            After::Delay(time) => tokio::time::sleep(time).await,
            After::Drop => return Err(lost()),
            After::Refuse(code) => return Ok(encode::failure(&Failure::injected(code))),
        }
        Ok(response)
    }
}

fn lost() -> BoxError {
    Box::new(std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "connection lost (injected)",
    ))
}

impl<B> tower::Service<Request<B>> for Api
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().serve(request))
    }
}

#[cfg(test)]
mod tests;

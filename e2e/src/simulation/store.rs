//! Owns the simulated world outside the API server: artefacts in memory, routers and servers that answer from what the
//! API server holds. Its faults come from the plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bessemer_api::Kind;
use bessemer_core::{Artefact, Checkpoint, Completion, Key};
use bessemer_embedded::Api;
use bessemer_protocol::RunConfig;
use bessemer_protocol::route::{BackendStatus, RouteConfig, RouteStatus};
use bessemer_runtime::outside::{Artefacts, Outside, Trouble};
use bessemer_store::{Layout, MemoryStore};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::fault::{Fault, Plan, Step};
use super::object::NAMESPACE;
use super::oracle;
use super::server::text;

/// Bucket of the simulation.
pub const BUCKET: &str = "simulation";

/// What all operators of a simulation find outside.
#[derive(Default)]
pub struct Store {
    /// Artefacts.
    pub objects: Arc<MemoryStore>,
    /// Broken rules of single calls.
    pub broken: Mutex<Vec<String>>,
    /// Revision that the router behind a URL has in force, and since when.
    routed: Mutex<BTreeMap<String, (String, Instant)>>,
    /// Service by address, as last seen.
    addresses: Mutex<BTreeMap<String, String>>,
}

/// The world outside, as the operator reaches it.
pub struct World {
    artefacts: Artefacts,
    store: Arc<Store>,
    api: Api,
    plan: Plan,
}

impl World {
    /// Artefacts in `store`, routers and servers out of `api`, faults from `plan`.
    #[must_use]
    pub fn new(store: Arc<Store>, api: Api, plan: Plan) -> Self {
        Self {
            artefacts: Artefacts::new(store.objects.clone(), Layout::new(BUCKET, "")),
            store,
            api,
            plan,
        }
    }

    async fn disturb(&self, kind: Kind) -> Result<(), Trouble> {
        match self.plan.draw(kind, Step::Ask, false) {
            Some(Fault::OutsideError) => {
                Err(Trouble::Unavailable("connection refused (injected)".into()))
            }
            Some(Fault::OutsideSlow) => {
                tokio::time::sleep(self.plan.delay(500, 5000)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Name of the Service with this address.
    fn service(&self, address: &str) -> Option<String> {
        let has = |service: &Value| {
            service.pointer("/spec/clusterIP").and_then(Value::as_str) == Some(address)
        };
        let mut known = self.store.addresses.lock();
        let name = known.get(address).cloned();
        if let Some(name) = name
            && let Some(service) = self.api.object("services", NAMESPACE, &name)
            && has(&service)
        {
            return Some(name);
        }
        let services = self.api.objects("services");
        let service = services.iter().find(|service| has(service))?;
        let name = text(service, "/metadata/name").to_owned();
        known.insert(address.to_owned(), name.clone());
        Some(name)
    }

    /// The Service with the address in `url`, its children of the same name: (ready, data of the ConfigMap).
    fn behind(&self, url: &str) -> Option<(bool, Value)> {
        let address = url.strip_prefix("http://")?.split(':').next()?;
        let name = self.service(address)?;
        let named = |table: &str| self.api.object(table, NAMESPACE, &name);
        let ready = named("deployments.apps")?
            .pointer("/status/readyReplicas")
            .and_then(Value::as_i64)
            .unwrap_or(0)
            > 0;
        Some((ready, named("configmaps")?.get("data")?.clone()))
    }
}

#[async_trait]
impl Outside for World {
    async fn run(&self, object: &Key, run_key: &str) -> Result<Option<Artefact>, Trouble> {
        self.disturb(object.kind).await?;
        self.artefacts.run(object, run_key).await
    }

    async fn checkpoint(&self, object: &Key, run_key: &str) -> Result<Option<Checkpoint>, Trouble> {
        self.disturb(object.kind).await?;
        self.artefacts.checkpoint(object, run_key).await
    }

    async fn manifest(&self, uri: &str) -> Result<Option<Artefact>, Trouble> {
        self.artefacts.manifest(uri).await
    }

    async fn route(&self, url: &str) -> Result<RouteStatus, Trouble> {
        self.disturb(Kind::Deployment).await?;
        let away = || Trouble::Unavailable(format!("no router behind {url}"));
        let (ready, data) = self.behind(url).ok_or_else(away)?;
        let text = data
            .get("route.json")
            .and_then(Value::as_str)
            .filter(|_| ready)
            .ok_or_else(away)?;
        let config: RouteConfig =
            serde_json::from_str(text).map_err(|e| Trouble::Refused(e.to_string()))?;
        let backends = config.backends.iter().map(|backend| BackendStatus {
            name: backend.name.clone(),
            digest: backend.digest.clone(),
            requests: 100,
            errors: 0,
            in_flight: 0,
            ttft_p50_ms: None,
            ttft_p99_ms: None,
            tokens_per_second: None,
        });
        // In force from the first question on: nothing else can tell the difference.
        let now = (config.revision.clone(), Instant::now());
        let mut routed = self.store.routed.lock();
        let known = routed.entry(url.to_owned()).or_insert_with(|| now.clone());
        if known.0 != now.0 {
            *known = now;
        }
        Ok(RouteStatus {
            revision: config.revision.clone(),
            seconds_in_force: Some(known.1.elapsed().as_secs()),
            backends: backends.collect(),
        })
    }

    async fn complete(&self, url: &str, _model: &str, _api_key: Option<&str>) -> Completion {
        let failed = |message: &str| Completion {
            status: 0,
            digest: None,
            complete: false,
            message: message.into(),
        };
        if self.disturb(Kind::Deployment).await.is_err() {
            return failed("connection refused (injected)");
        }
        let Some((true, data)) = self.behind(url) else {
            return failed("connection refused");
        };
        let config = data
            .get("run.json")
            .and_then(Value::as_str)
            .and_then(|t| serde_json::from_str::<RunConfig>(t).ok());
        let Some(config) = config else {
            return failed("no configuration");
        };
        let digest = config.inputs.first().map(|input| input.digest.clone());
        Completion {
            status: 200,
            digest,
            complete: true,
            message: String::new(),
        }
    }

    /// O9: nothing is deleted of an object that lives, and no artefact that another object refers to.
    async fn delete_artefacts(&self, path: &str, keep: &[String]) -> Result<(), Trouble> {
        let mut wrong = Vec::new();
        if oracle::lives(&self.api, path) {
            wrong.push(format!(
                "O9: artefacts below {path} of a living object are deleted"
            ));
        }
        let digests = oracle::artefacts(&self.store.objects.keys(), path);
        for digest in digests.iter().filter(|digest| !keep.contains(digest)) {
            if let Some(holder) = oracle::holder(&self.api, path, digest) {
                wrong.push(format!(
                    "O9: {path}{digest} is deleted although {holder} refers to it"
                ));
            }
        }
        self.store.broken.lock().extend(wrong);
        self.artefacts.delete_artefacts(path, keep).await
    }
}

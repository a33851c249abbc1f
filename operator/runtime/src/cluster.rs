//! Owns the caches of every watched kind and tells which objects a change concerns.
//! It must not talk to the API server and must not decide what a change means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bessemer_api::{Dataset, Evaluation, FineTune, Kind, ModelDeployment, PretrainJob};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cache::{Cache, Place};
use crate::watch::Change;

/// Label with the kind of the object that a child belongs to.
pub const KIND_LABEL: &str = "bessemer.dev/kind";
/// Label with the name of the object that a child belongs to.
pub const NAME_LABEL: &str = "bessemer.dev/name";

/// One of our objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The object's place within its kind.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    fn owner(&self) -> String {
        owner(self.kind.name(), &self.namespace, &self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

fn owner(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind}/{namespace}/{name}")
}

/// The object that `child` belongs to by its labels.
pub fn owner_key(child: &impl Resource) -> Option<Key> {
    let labels = child.meta().labels.as_ref()?;
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.name()) == labels.get(KIND_LABEL).map(String::as_str))?;
    Some(Key { kind, namespace: child.meta().namespace.clone()?, name: labels.get(NAME_LABEL)?.clone() })
}

fn owned<K: Resource>(child: &K) -> Option<String> {
    owner_key(child).map(|key| key.owner())
}

fn unowned<K>(_object: &K) -> Option<String> {
    None
}

/// The caches.
pub struct Cluster {
    /// Datasets.
    pub datasets: Arc<Cache<Dataset>>,
    /// Pretraining runs.
    pub pretrain_jobs: Arc<Cache<PretrainJob>>,
    /// Tuning runs.
    pub fine_tunes: Arc<Cache<FineTune>>,
    /// Evaluations.
    pub evaluations: Arc<Cache<Evaluation>>,
    /// Served models.
    pub model_deployments: Arc<Cache<ModelDeployment>>,
    /// Children: batch work.
    pub jobs: Arc<Cache<Job>>,
    /// Children: pods of jobs and servers.
    pub pods: Arc<Cache<Pod>>,
    /// Children: run and route configurations.
    pub config_maps: Arc<Cache<ConfigMap>>,
    /// Children: servers and routers.
    pub deployments: Arc<Cache<Deployment>>,
    /// Children: addresses.
    pub services: Arc<Cache<Service>>,
    /// Children: identities of workers.
    pub service_accounts: Arc<Cache<ServiceAccount>>,
    references: RwLock<References>,
    touched: RwLock<Option<Arc<dyn Fn(Key) + Send + Sync>>>,
}

/// Who refers to whom, both ways.
#[derive(Default)]
struct References {
    up: BTreeMap<Key, BTreeSet<Key>>,
    down: BTreeMap<Key, BTreeSet<Key>>,
}

impl References {
    fn set(&mut self, key: &Key, upstream: BTreeSet<Key>) {
        if let Some(before) = self.up.remove(key) {
            for up in before {
                if let Some(down) = self.down.get_mut(&up) {
                    down.remove(key);
                    if down.is_empty() {
                        self.down.remove(&up);
                    }
                }
            }
        }
        for up in &upstream {
            self.down.entry(up.clone()).or_default().insert(key.clone());
        }
        if !upstream.is_empty() {
            self.up.insert(key.clone(), upstream);
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// Empty caches.
    #[must_use]
    pub fn new() -> Self {
        Self {
            datasets: Arc::new(Cache::new(unowned)),
            pretrain_jobs: Arc::new(Cache::new(unowned)),
            fine_tunes: Arc::new(Cache::new(unowned)),
            evaluations: Arc::new(Cache::new(unowned)),
            model_deployments: Arc::new(Cache::new(unowned)),
            jobs: Arc::new(Cache::new(owned)),
            pods: Arc::new(Cache::new(owned)),
            config_maps: Arc::new(Cache::new(owned)),
            deployments: Arc::new(Cache::new(owned)),
            services: Arc::new(Cache::new(owned)),
            service_accounts: Arc::new(Cache::new(owned)),
            references: RwLock::default(),
            touched: RwLock::default(),
        }
    }

    /// Records what `key` refers to; an empty set for an object that is gone.
    pub fn refer(&self, key: &Key, upstream: BTreeSet<Key>) {
        self.references.write().set(key, upstream);
    }

    /// The objects that refer to `key`.
    pub fn downstream(&self, key: &Key) -> Vec<Key> {
        self.references.read().down.get(key).into_iter().flatten().cloned().collect()
    }

    /// The children of `key` in `cache`, by name.
    pub fn children<K: Resource + Clone>(&self, cache: &Cache<K>, key: &Key) -> Vec<Arc<K>> {
        cache.owned_by(&key.owner())
    }

    /// Sets who is told which objects a change concerns. Called once, before any watch runs.
    pub fn on_touch(&self, touched: impl Fn(Key) + Send + Sync + 'static) {
        *self.touched.write() = Some(Arc::new(touched));
    }

    fn touch(&self, key: Key) {
        let touched = self.touched.read().clone();
        if let Some(touched) = touched {
            touched(key);
        }
    }

    /// A child has changed: its owner must look.
    pub fn child_changed<K: Resource>(&self, (before, after): Change<K>) {
        let keys: BTreeSet<Key> = [before, after].iter().flatten().filter_map(|child| owner_key(child.as_ref())).collect();
        for key in keys {
            self.touch(key);
        }
    }

    /// One of our objects has changed: it must look, and so must those that refer to it if they can tell the difference.
    pub fn object_changed<K: Ours>(&self, (before, after): Change<K>) {
        let Some(meta) = after.as_deref().or(before.as_deref()).map(Resource::meta) else { return };
        let key = Key {
            kind: K::KIND,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        if after.as_deref().map(Resource::meta).map(|m| m.generation) != before.as_deref().map(Resource::meta).map(|m| m.generation) {
            self.refer(&key, after.as_deref().map(Ours::upstream).unwrap_or_default());
        }
        let visible = before.as_deref().map(Ours::face) != after.as_deref().map(Ours::face);
        if visible {
            for downstream in self.downstream(&key) {
                self.touch(downstream);
            }
        }
        self.touch(key);
    }

    /// Folds the answer to our own write into the cache of its kind.
    pub fn written(&self, api_version: &str, kind: &str, object: Value) {
        self.dispatch(api_version, kind, Written(object));
    }

    /// Removes an object that is known to be gone.
    pub fn gone(&self, api_version: &str, kind: &str, namespace: &str, name: &str, uid: Option<&str>) {
        let place = Place { namespace: namespace.to_owned(), name: name.to_owned() };
        self.dispatch(api_version, kind, Gone { place, uid });
    }

    fn dispatch(&self, api_version: &str, kind: &str, fold: impl Fold) {
        match (api_version, kind) {
            ("batch/v1", "Job") => self.child(&self.jobs, fold),
            ("apps/v1", "Deployment") => self.child(&self.deployments, fold),
            ("v1", "ConfigMap") => self.child(&self.config_maps, fold),
            ("v1", "Pod") => self.child(&self.pods, fold),
            ("v1", "Service") => self.child(&self.services, fold),
            ("v1", "ServiceAccount") => self.child(&self.service_accounts, fold),
            (_, "Dataset") => self.object(&self.datasets, fold),
            (_, "PretrainJob") => self.object(&self.pretrain_jobs, fold),
            (_, "FineTune") => self.object(&self.fine_tunes, fold),
            (_, "Evaluation") => self.object(&self.evaluations, fold),
            (_, "Deployment") => self.object(&self.model_deployments, fold),
            // Nothing is kept of other kinds.
            _ => {}
        }
    }

    fn child<K: Kept>(&self, cache: &Cache<K>, fold: impl Fold) {
        if let Some(change) = fold.into(cache) {
            self.child_changed(change);
        }
    }

    fn object<K: Ours + Kept>(&self, cache: &Cache<K>, fold: impl Fold) {
        if let Some(change) = fold.into(cache) {
            self.object_changed(change);
        }
    }
}

/// What is kept of an object of a watched kind.
pub trait Kept: Resource + Clone + DeserializeOwned {
    /// Drops what nobody reads, so that memory stays small.
    fn prune(&mut self) {}
}

trait Fold {
    fn into<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>>;
}

struct Written(Value);

impl Fold for Written {
    fn into<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>> {
        let mut object: K = match serde_json::from_value(self.0) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(%error, "the answer to a write cannot be read");
                return None;
            }
        };
        object.meta_mut().managed_fields = None;
        object.prune();
        let place = Place::of(&object);
        let before = cache.written(object)?;
        Some((before, cache.get(&place)))
    }
}

struct Gone<'a> {
    place: Place,
    uid: Option<&'a str>,
}

impl Fold for Gone<'_> {
    fn into<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>> {
        cache.remove(&self.place, self.uid, 0).map(|before| (Some(before), None))
    }
}

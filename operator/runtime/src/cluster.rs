//! Owns the caches of every watched kind and tells which objects a change concerns.
//! It must not talk to the API server and must not decide what a change means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bessemer_api::{Dataset, Evaluation, FineTune, Kind as KindName, ModelDeployment, PretrainJob};
use bessemer_core::{Children, Key, Kind, Object, Peer, World, label};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, Pod, PodStatus, PodTemplateSpec, Service,
};
use kube::Resource;
use parking_lot::RwLock;

use crate::bug::{Bug, planted};
use crate::cache::{Cache, Change, Place};
use crate::raw::Raw;

/// The place of `key` within its kind.
#[must_use]
pub fn place(key: &Key) -> Place {
    Place::new(&key.namespace, &key.name)
}

/// The object of `kind` at `place`.
pub fn key(kind: KindName, place: &Place) -> Key {
    Key {
        kind,
        namespace: place.namespace().to_owned(),
        name: place.name().to_owned(),
    }
}

/// The object that `child` belongs to by its labels.
pub fn owner_key(child: &impl Resource) -> Option<Key> {
    let labels = child.meta().labels.as_ref()?;
    let word = labels.get(label::KIND)?;
    let kind = KindName::ALL.into_iter().find(|kind| kind.name() == word)?;
    Some(Key {
        kind,
        namespace: child.meta().namespace.clone()?,
        name: labels.get(label::NAME)?.clone(),
    })
}

/// What the index of children says of those of the object `key`.
fn by_labels(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

fn labelled<K: Resource>(child: &K) -> Option<String> {
    owner_key(child).map(|key| by_labels(&key))
}

/// UID of the controller of `child`.
fn controlled<K: Resource>(child: &K) -> Option<String> {
    let owners = child.meta().owner_references.as_ref()?;
    owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
}

fn unowned<K>(_object: &K) -> Option<String> {
    None
}

/// Called with the key of each object that something touched, and whether it is one nobody has looked at.
type Touched = Arc<dyn Fn(Key, bool) + Send + Sync>;

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
    references: RwLock<References>,
    unreadable: RwLock<BTreeMap<Key, String>>,
    touched: RwLock<Option<Touched>>,
}

/// Who refers to whom, both ways.
#[derive(Default)]
struct References {
    up: BTreeMap<Arc<Key>, Box<[Arc<Key>]>>,
    /// Upstream before downstream.
    down: BTreeSet<(Arc<Key>, Arc<Key>)>,
}

impl References {
    fn set(&mut self, key: &Key, upstream: BTreeSet<Key>) {
        if let Some((key, before)) = self.up.remove_entry(key) {
            for up in before {
                self.down.remove(&(up, key.clone()));
            }
        }
        if upstream.is_empty() {
            return;
        }
        let key = Arc::new(key.clone());
        let upstream: Box<[Arc<Key>]> = upstream.into_iter().map(Arc::new).collect();
        for up in &upstream {
            self.down.insert((up.clone(), key.clone()));
        }
        self.up.insert(key, upstream);
    }

    fn down(&self, key: &Key) -> Vec<Key> {
        let from = self::key(KindName::Dataset, &Place::default());
        let found = self.down.range((Arc::new(key.clone()), Arc::new(from))..);
        found
            .take_while(|(up, _)| **up == *key)
            .map(|(_, down)| (**down).clone())
            .collect()
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
            jobs: Arc::new(Cache::new(controlled)),
            pods: Arc::new(Cache::new(labelled)),
            config_maps: Arc::new(Cache::new(controlled)),
            deployments: Arc::new(Cache::new(controlled)),
            services: Arc::new(Cache::new(controlled)),
            references: RwLock::default(),
            unreadable: RwLock::default(),
            touched: RwLock::default(),
        }
    }

    /// Records what `key` refers to; an empty set for an object that is gone.
    pub fn refer(&self, key: &Key, upstream: BTreeSet<Key>) {
        self.references.write().set(key, upstream);
    }

    /// The objects that refer to `key`.
    pub fn downstream(&self, key: &Key) -> Vec<Key> {
        self.references.read().down(key)
    }

    /// Every cached key.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        fn of<K: Kind + Kept>(cache: &Cache<K>) -> impl Iterator<Item = Key> {
            cache.places().into_iter().map(|place| key(K::KIND, &place))
        }
        of(&self.datasets)
            .chain(of(&self.pretrain_jobs))
            .chain(of(&self.fine_tunes))
            .chain(of(&self.evaluations))
            .chain(of(&self.model_deployments))
            .collect()
    }

    /// UIDs of every cached object.
    #[must_use]
    pub fn uids(&self) -> BTreeSet<String> {
        let keys = self.keys().into_iter();
        keys.filter_map(|key| Some(self.peer(&key)?.uid)).collect()
    }

    /// Records why the newest copy of `key` cannot be read, or that it can; what cannot must be told.
    pub fn readable(&self, key: Key, why: Option<String>) {
        match why {
            Some(why) => {
                self.unreadable.write().insert(key.clone(), why);
                self.touch(key, false);
            }
            None => drop(self.unreadable.write().remove(&key)),
        }
    }

    /// Why the newest copy of `key` cannot be read, if so.
    #[must_use]
    pub fn unreadable(&self, key: &Key) -> Option<String> {
        self.unreadable.read().get(key).cloned()
    }

    /// Kinds whose first list is not complete.
    #[must_use]
    pub fn unsynced(&self) -> Vec<&'static str> {
        let all = [
            ("Dataset", self.datasets.synced()),
            ("PretrainJob", self.pretrain_jobs.synced()),
            ("FineTune", self.fine_tunes.synced()),
            ("Evaluation", self.evaluations.synced()),
            ("ModelDeployment", self.model_deployments.synced()),
            ("Job", self.jobs.synced()),
            ("Pod", self.pods.synced()),
            ("ConfigMap", self.config_maps.synced()),
            ("Deployment", self.deployments.synced()),
            ("Service", self.services.synced()),
        ];
        all.into_iter()
            .filter(|(_, synced)| !synced)
            .map(|(kind, _)| kind)
            .collect()
    }

    /// What others may know of the object `key`.
    fn peer(&self, key: &Key) -> Option<Peer> {
        fn of<K: Kind + Kept>(cache: &Cache<K>, key: &Key) -> Option<Peer> {
            cache.get(&place(key)).map(|object| object.peer())
        }
        match key.kind {
            KindName::Dataset => of(&self.datasets, key),
            KindName::PretrainJob => of(&self.pretrain_jobs, key),
            KindName::FineTune => of(&self.fine_tunes, key),
            KindName::Evaluation => of(&self.evaluations, key),
            KindName::Deployment => of(&self.model_deployments, key),
        }
    }

    /// Sets who is told which objects a change concerns. Called once, before any watch runs.
    pub fn on_touch(&self, touched: impl Fn(Key, bool) + Send + Sync + 'static) {
        *self.touched.write() = Some(Arc::new(touched));
    }

    fn touch(&self, key: Key, new: bool) {
        let touched = self.touched.read().clone();
        if let Some(touched) = touched {
            touched(key, new);
        }
    }

    /// A child has changed: its owner must look.
    pub fn child_changed<K: Resource>(&self, (before, after): Change<K>) {
        let keys: BTreeSet<Key> = [before, after]
            .iter()
            .flatten()
            .filter_map(|child| owner_key(child.as_ref()))
            .collect();
        for key in keys {
            self.touch(key, false);
        }
    }

    /// One of our objects has changed: it must look, and so must those that refer to it if they can tell the difference.
    pub fn object_changed<K: Kind>(&self, (before, after): Change<K>) {
        let Some(key) = after.as_deref().or(before.as_deref()).map(Kind::key) else {
            return;
        };
        let (old, new) = (
            before.as_deref().map(Kind::peer),
            after.as_deref().map(Kind::peer),
        );
        let references = |peer: &Option<Peer>| -> BTreeSet<Key> {
            peer.iter()
                .flat_map(|peer| &peer.references)
                .map(|reference| reference.to.clone())
                .collect()
        };
        if before.is_none() || references(&old) != references(&new) {
            self.refer(&key, references(&new));
        }
        if old != new && !planted(Bug::MissedReference) {
            for downstream in self.downstream(&key) {
                self.touch(downstream, false);
            }
        }
        self.touch(key, before.is_none());
    }

    /// Folds the answer to our own write into the cache of its kind.
    pub fn written(&self, api_version: &str, kind: &str, object: &Raw) {
        self.dispatch(api_version, kind, Written(object));
    }

    /// Removes an object that is known to be gone.
    pub fn gone(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) {
        let place = Place::new(namespace, name);
        self.dispatch(api_version, kind, Gone { place, uid });
    }

    fn dispatch(&self, api_version: &str, kind: &str, fold: impl Fold) {
        match (api_version, kind) {
            ("batch/v1", "Job") => self.child(&self.jobs, fold),
            ("apps/v1", "Deployment") => self.child(&self.deployments, fold),
            ("v1", "ConfigMap") => self.child(&self.config_maps, fold),
            ("v1", "Pod") => self.child(&self.pods, fold),
            ("v1", "Service") => self.child(&self.services, fold),
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
        if let Some(change) = fold.fold(cache) {
            self.child_changed(change);
        }
    }

    fn object<K: Kind + Kept>(&self, cache: &Cache<K>, fold: impl Fold) {
        if let Some(change) = fold.fold(cache) {
            self.object_changed(change);
        }
    }
}

/// What is kept of an object of a watched kind.
pub trait Kept: Object {
    /// Drops what nobody reads, so that memory stays small.
    fn prune(&mut self) {}
}

impl Kept for Dataset {}
impl Kept for PretrainJob {}
impl Kept for FineTune {}
impl Kept for Evaluation {}
impl Kept for ModelDeployment {}
impl Kept for ConfigMap {}
impl Kept for Service {}
impl Kept for Deployment {}

impl Kept for Job {
    fn prune(&mut self) {
        if let Some(spec) = self.spec.as_mut() {
            spec.template = PodTemplateSpec::default();
        }
        if let Some(status) = self.status.as_mut() {
            status.ready = None;
            status.terminating = None;
            status.uncounted_terminated_pods = None;
        }
    }
}

impl Kept for Pod {
    fn prune(&mut self) {
        self.spec = None;
        if let Some(annotations) = self.metadata.annotations.as_mut() {
            annotations.retain(|name, _| name == label::CONFIGURED);
        }
        let Some(status) = self.status.take() else {
            return;
        };
        let read = ["PodScheduled", "DisruptionTarget"];
        let conditions = status.conditions.into_iter().flatten();
        let containers = status.container_statuses.into_iter().flatten();
        self.status = Some(PodStatus {
            phase: status.phase,
            conditions: Some(
                conditions
                    .filter(|condition| read.contains(&condition.type_.as_str()))
                    .collect(),
            ),
            container_statuses: Some(
                containers
                    .map(|container| ContainerStatus {
                        state: container.state,
                        last_state: container.last_state,
                        ..ContainerStatus::default()
                    })
                    .collect(),
            ),
            ..PodStatus::default()
        });
    }
}

/// The world as one object sees it.
pub struct Surroundings<'a> {
    /// The caches.
    pub cluster: &'a Cluster,
    /// The object.
    pub key: &'a Key,
}

impl World for Surroundings<'_> {
    fn peer(&self, key: &Key) -> Option<Peer> {
        self.cluster.peer(key)
    }

    fn children(&self, uid: &str) -> Children {
        fn owned<K: Kept>(cache: &Cache<K>, owner: &str) -> Vec<K> {
            let children = cache.owned_by(owner).into_iter();
            children.map(Arc::unwrap_or_clone).collect()
        }
        Children {
            jobs: owned(&self.cluster.jobs, uid),
            pods: owned(&self.cluster.pods, &by_labels(self.key)),
            config_maps: owned(&self.cluster.config_maps, uid),
            services: owned(&self.cluster.services, uid),
            deployments: owned(&self.cluster.deployments, uid),
        }
    }
}

/// A kind of ours with its cache.
pub trait Cached: Kind + Kept {
    /// The cache of this kind.
    fn cache(cluster: &Cluster) -> &Arc<Cache<Self>>;
}

macro_rules! cached {
    ($($kind:ty => $field:ident),*) => {
        $(impl Cached for $kind {
            fn cache(cluster: &Cluster) -> &Arc<Cache<Self>> {
                &cluster.$field
            }
        })*
    };
}

cached!(Dataset => datasets, PretrainJob => pretrain_jobs, FineTune => fine_tunes, Evaluation => evaluations, ModelDeployment => model_deployments);

trait Fold {
    fn fold<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>>;
}

struct Written<'a>(&'a Raw);

impl Fold for Written<'_> {
    fn fold<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>> {
        let mut object: K = match self.0.typed() {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(%error, "the answer to a write cannot be read");
                return None;
            }
        };
        object.prune();
        cache.written(object)
    }
}

struct Gone<'a> {
    place: Place,
    uid: Option<&'a str>,
}

impl Fold for Gone<'_> {
    fn fold<K: Kept>(self, cache: &Cache<K>) -> Option<Change<K>> {
        cache
            .remove(&self.place, self.uid, 0)
            .map(|before| (Some(before), None))
    }
}

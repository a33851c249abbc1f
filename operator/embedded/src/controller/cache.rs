//! Watched copies of the cluster: owns one watch and one store per kind, indexed by owner.
//! It must not write to the API, and hands out snapshots only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace or "".
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

struct Objects<K> {
    by_key: BTreeMap<Key, Arc<K>>,
    /// Dependents by the uid of their controlling owner.
    by_owner: HashMap<String, BTreeSet<Key>>,
}

impl<K: ResourceExt> Objects<K> {
    fn insert(&mut self, object: K) -> Option<Arc<K>> {
        let key = Key::of(&object);
        let old = self.remove(&key);
        if let Some(owner) = controller_uid(&object) {
            self.by_owner.entry(owner).or_default().insert(key.clone());
        }
        self.by_key.insert(key, Arc::new(object));
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.by_key.remove(key)?;
        if let Some(owner) = controller_uid(&*old)
            && let Some(keys) = self.by_owner.get_mut(&owner)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        Some(old)
    }
}

/// The uid of the owner that controls `object`.
pub fn controller_uid<K: ResourceExt>(object: &K) -> Option<String> {
    object
        .owner_references()
        .iter()
        .find(|o| o.controller == Some(true))
        .map(|o| o.uid.clone())
}

/// The store of one kind; cheap to clone.
pub struct Store<K> {
    objects: Arc<RwLock<Objects<K>>>,
    ready: watch::Receiver<bool>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            ready: self.ready.clone(),
        }
    }
}

impl<K: ResourceExt> Store<K> {
    /// The object, if the watch has seen it.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.read().by_key.get(key).cloned()
    }

    /// Every object, in key order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().by_key.values().cloned().collect()
    }

    /// Objects of one namespace.
    pub fn namespaced(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Key {
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let objects = self.objects.read();
        let range = objects.by_key.range(from..);
        range
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Objects that `uid` controls, in key order.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let keys = objects.by_owner.get(uid).into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned())
            .collect()
    }

    /// Waits until the first list is complete.
    pub async fn into_ready(mut self) {
        let _ = self.ready.wait_for(|ready| *ready).await;
    }
}

/// Watches every object of `K` until `shutdown`; `changed` is told each object that came,
/// changed or went (with its last known content).
pub fn watch<K>(
    client: &Client,
    shutdown: CancellationToken,
    changed: impl Fn(&K) + Send + Sync + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let objects = Arc::new(RwLock::new(Objects {
        by_key: BTreeMap::new(),
        by_owner: HashMap::new(),
    }));
    let (ready_tx, ready) = watch::channel(false);
    let store = Store {
        objects: objects.clone(),
        ready,
    };
    tokio::spawn(async move {
        let config = watcher::Config::default().timeout(200);
        let mut events = watcher::watcher(api, config).default_backoff().boxed();
        let mut relisted: Option<BTreeSet<Key>> = None;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => apply(event, &objects, &mut relisted, &changed, &ready_tx),
                Some(Err(error)) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "watch failed; trying again")
                }
                None => return,
            }
        }
    });
    store
}

fn apply<K: ResourceExt>(
    event: Event<K>,
    objects: &RwLock<Objects<K>>,
    relisted: &mut Option<BTreeSet<Key>>,
    changed: &impl Fn(&K),
    ready: &watch::Sender<bool>,
) {
    match event {
        Event::Init => *relisted = Some(BTreeSet::new()),
        Event::InitApply(object) | Event::Apply(object) => {
            let key = Key::of(&object);
            if let Some(seen) = relisted.as_mut() {
                seen.insert(key.clone());
            }
            let old = objects.write().insert(object);
            let new = objects.read().by_key.get(&key).cloned();
            // An object that lost its owner concerns the old owner too.
            if let Some(old) =
                old.filter(|old| new.as_deref().map(controller_uid) != Some(controller_uid(&**old)))
            {
                changed(&old);
            }
            if let Some(new) = new {
                changed(&new);
            }
        }
        Event::InitDone => {
            let seen = relisted.take().unwrap_or_default();
            let gone: Vec<Key> = objects
                .read()
                .by_key
                .keys()
                .filter(|k| !seen.contains(k))
                .cloned()
                .collect();
            for key in gone {
                if let Some(old) = objects.write().remove(&key) {
                    changed(&old);
                }
            }
            let _ = ready.send(true);
        }
        Event::Delete(object) => {
            objects.write().remove(&Key::of(&object));
            changed(&object);
        }
    }
}

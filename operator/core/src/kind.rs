//! Owns the seam between decisions and effects: the trait by which the runtime drives every kind, the view of
//! the world it hands in, and the observed snapshot. It must not decide anything itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;

use bessemer_api::Kind as KindName;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::core::object::HasStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::peer::{Edge, Key, Peer, Reference};
use crate::plan::Plan;
use crate::query::Facts;
use crate::reason::Halt;
use crate::settings::Settings;

/// Read access to the runtime's caches. Implementations answer from memory; they never wait.
pub trait World {
    /// What others may know of the object `key` ([`Kind::peer`] of the cached object).
    fn peer(&self, key: &Key) -> Option<Peer>;
    /// The objects controlled by the object with this UID, and the pods of its Jobs.
    fn children(&self, uid: &str) -> Children;
}

/// The objects that one object controls (owner reference with `controller: true` and its UID). Pods are those
/// of its Jobs and Deployments: found by the labels [`crate::label::KIND`] and [`crate::label::NAME`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Children {
    /// Jobs. Read: metadata, spec.suspend, spec.completions, status.active, succeeded, failed, its times and conditions.
    pub jobs: Vec<Job>,
    /// Pods. Read: metadata without annotations; status.phase, the conditions PodScheduled and DisruptionTarget, and the
    /// present and last state of containers.
    pub pods: Vec<Pod>,
    /// ConfigMaps. Read: metadata, data.
    pub config_maps: Vec<ConfigMap>,
    /// Services. Read: metadata, spec.clusterIP.
    pub services: Vec<Service>,
    /// apps/v1 Deployments. Read: metadata, spec.replicas, images and arguments of the template, status.
    pub deployments: Vec<Deployment>,
}

/// Kinds of children the runtime watches, all by the label selector `bessemer.dev/kind`.
pub const CHILD_KINDS: [&str; 5] = ["Job", "Pod", "ConfigMap", "Service", "Deployment"];

/// Everything a decision may look at. Owned: nothing changes while a plan is made.
#[derive(Clone, Debug)]
pub struct Observed<K> {
    /// The object.
    pub object: K,
    /// What it controls.
    pub children: Children,
    /// The objects it refers to, over any number of edges.
    pub peers: BTreeMap<Key, Peer>,
    /// Answers and progress.
    pub facts: Facts,
    /// The present time.
    pub now: Timestamp,
}

/// An object of a watched kind, ours or a child's, as it is read and written.
pub trait Object:
    kube::Resource<DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<T> Object for T where
    T: kube::Resource<DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// An object with a status that can be read and written by itself.
pub trait Reported: Object + HasStatus<Status: Serialize + DeserializeOwned> {}

impl<T: Object + HasStatus<Status: Serialize + DeserializeOwned>> Reported for T {}

/// One of the five kinds, as the runtime drives it: [`observe`], [`Kind::plan`], then execute and publish.
pub trait Kind: Reported {
    /// Which kind.
    const KIND: KindName;

    /// The typed desired state.
    type Resolved;

    /// The other objects that the spec names. A change of any of them (or its appearing or going) must lead to a new
    /// plan of this object: the runtime keeps the reverse index from this list.
    fn references(&self) -> Vec<Reference>;

    /// What others may know of this object.
    fn peer(&self) -> Peer;

    /// References and defaults into a typed desired state.
    ///
    /// # Errors
    /// [`Halt::Invalid`] with the dominant reason when the object has to wait or to be changed, [`Halt::Ask`] when a
    /// fact is missing.
    fn resolve(observed: &Observed<Self>, settings: &Settings) -> Result<Self::Resolved, Halt>;

    /// The decision: pure, total, the same bytes for the same input.
    fn plan(observed: &Observed<Self>, settings: &Settings) -> Plan;

    /// Key of this object.
    fn key(&self) -> Key {
        let meta = self.meta();
        Key {
            kind: Self::KIND,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Takes the owned snapshot of `object`: its children and all objects it depends on, however far.
pub fn observe<K: Kind>(
    object: &K,
    world: &dyn World,
    facts: Facts,
    now: Timestamp,
) -> Observed<K> {
    let mut peers = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut open: VecDeque<Key> = object
        .references()
        .into_iter()
        .map(|reference| reference.to)
        .collect();
    while let Some(key) = open.pop_front() {
        if !seen.insert(key.clone()) {
            continue;
        }
        if let Some(peer) = world.peer(&key) {
            open.extend(
                peer.references
                    .iter()
                    .filter(|r| r.edge == Edge::Build)
                    .map(|r| r.to.clone()),
            );
            peers.insert(key, peer);
        }
    }
    let children = world.children(object.meta().uid.as_deref().unwrap_or_default());
    Observed {
        object: object.clone(),
        children,
        peers,
        facts,
        now,
    }
}

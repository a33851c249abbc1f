//! Owns what objects see of each other: keys, edges and a small owned view. It must not hold whole objects.

use std::collections::BTreeSet;
use std::fmt;

use bessemer_api::{Artifact, CommonStatus, InputDigest, Kind as KindName, MetricResult};

use serde::{Deserialize, Serialize};

use crate::condition::{self, READY};
use crate::kind::Kind;

/// An object of one of the five kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Kind.
    pub kind: KindName,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Directory of the object's artefacts below the storage prefix, with a trailing slash.
    pub fn path(&self) -> String {
        format!(
            "{}/{}/{}/",
            self.namespace,
            self.kind.name().to_lowercase(),
            self.name
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// How one object depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Edge {
    /// The other's artefact is needed to build; a cycle over such edges is refused.
    Build,
    /// Only the other's spec or last published state is read (decontamination, feedback).
    Read,
}

/// A reference in a spec.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// The other object.
    pub to: Key,
    /// What is needed of it.
    pub edge: Edge,
    /// Field that names it, for messages.
    pub field: String,
}

/// What the conditions of a peer add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Ready for its present generation.
    Ready,
    /// On its way, or not yet seen by its controller.
    Pending,
    /// Suspended by its user.
    Suspended,
    /// Stalled or failed: someone has to change something.
    Failed,
    /// Being deleted.
    Deleting,
}

/// What others may know of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Which object.
    pub key: Key,
    /// UID.
    pub uid: String,
    /// What its conditions add up to.
    pub standing: Standing,
    /// Reason of its Ready condition.
    pub reason: String,
    /// Message of its Ready condition.
    pub message: String,
    /// What it depends on.
    pub references: Vec<Reference>,
    /// What its last successful run made.
    pub artifact: Option<Artifact>,
    /// What that was made from.
    pub inputs: Vec<InputDigest>,
    /// Results (Evaluation).
    pub results: Vec<MetricResult>,
    /// What it is for (Dataset), PascalCase.
    pub purpose: Option<String>,
    /// Training tokens (Dataset).
    pub tokens: Option<u64>,
    /// Longest sequence in tokens (PretrainJob).
    pub context_length: Option<u32>,
    /// Trace of its last run.
    pub trace_id: Option<String>,
    /// Digests it serves or keeps in use beyond `artifact` and `inputs` (Deployment revisions).
    pub serving: Vec<String>,
}

impl Peer {
    /// The view of an object by its common status.
    pub fn of<K: Kind>(object: &K, status: &CommonStatus) -> Self {
        let meta = object.meta();
        let generation = meta.generation.unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let ready = condition::find(&status.conditions, READY);
        Self {
            key: object.key(),
            uid: meta.uid.clone().unwrap_or_default(),
            standing: condition::standing(
                &status.conditions,
                deleting,
                generation,
                status.observed_generation,
            ),
            reason: ready.map(|c| c.reason.clone()).unwrap_or_default(),
            message: ready.map(|c| c.message.clone()).unwrap_or_default(),
            references: object.references(),
            artifact: status.artifact.clone(),
            inputs: status.inputs.clone(),
            results: Vec::new(),
            purpose: None,
            tokens: None,
            context_length: None,
            trace_id: status.trace_id.clone(),
            serving: Vec::new(),
        }
    }

    /// All digests that this object needs to stay in the store.
    pub fn digests(&self) -> BTreeSet<String> {
        let own = self.artifact.iter().map(|artifact| artifact.digest.clone());
        let inputs = self.inputs.iter().map(|input| input.digest.clone());
        own.chain(inputs)
            .chain(self.serving.iter().cloned())
            .collect()
    }
}

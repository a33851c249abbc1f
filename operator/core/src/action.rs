//! Owns the vocabulary of effects: what a plan may ask the runtime to do. It must not do any of it.
//!
//! Every mutation carries its precondition, so that an action made from an old snapshot is refused by the
//! API server instead of doing harm (invariant P3).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object of the Kubernetes API, pinned as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// PascalCase kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Precondition: the object must still have this UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Precondition: the object must not have changed since this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl ObjectRef {
    /// Pins `object` by UID and version.
    pub fn of<K: kube::Resource<DynamicType = ()>>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        }
    }

    /// The same without the version: for acts that any later state of the same object allows.
    #[must_use]
    pub fn any_version(mut self) -> Self {
        self.resource_version = None;
        self
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// The garbage collector removes them afterwards.
    Background,
    /// The object stays until they are gone.
    Foreground,
}

/// One effect. Actions of a plan are executed in order; the first error stops the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all_fields = "camelCase")]
pub enum Action {
    /// Add `finalizer` to the object's metadata (a JSON patch with tests, or an update with the version).
    AddFinalizer {
        /// The reconciled object, with UID and version.
        object: ObjectRef,
        /// Name of the finalizer.
        finalizer: String,
    },
    /// Remove `finalizer`; an object that is gone counts as done.
    RemoveFinalizer {
        /// The reconciled object, with UID and version.
        object: ObjectRef,
        /// Name of the finalizer.
        finalizer: String,
    },
    /// Server-side apply with force as `manager`. Where the child exists, `object.metadata.uid` holds its UID, so an
    /// object of the same name made by someone else answers 409. An object of that name that is not controlled
    /// by our owner reference must not be touched.
    Apply {
        /// The whole object as we own it.
        object: Value,
        /// Field manager.
        manager: String,
    },
    /// Create with a deterministic name. AlreadyExists is success only when the object found is controlled by the
    /// same owner UID, else it is the error category `NameTaken`.
    Create {
        /// The whole object.
        object: Value,
    },
    /// Delete with preconditions; an object that is gone, or replaced by another UID, counts as done.
    Delete {
        /// What to delete, with UID and, where a race matters, version.
        object: ObjectRef,
        /// Fate of the dependents.
        propagation: Propagation,
    },
    /// Set a Job's `spec.suspend` to true (merge patch with UID and version).
    Suspend {
        /// The Job.
        job: ObjectRef,
    },
    /// Set a Job's `spec.suspend` to false (merge patch with UID and version).
    Resume {
        /// The Job.
        job: ObjectRef,
    },
    /// Set an annotation of a child (merge patch with UID); a hint to others, which a missing right does not make an error.
    Annotate {
        /// The child.
        object: ObjectRef,
        /// Name of the annotation.
        annotation: String,
        /// Its value.
        value: String,
    },
    /// An act on the object store; idempotent.
    External {
        /// The act.
        operation: StoreOperation,
    },
}

/// An act on the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all_fields = "camelCase")]
pub enum StoreOperation {
    /// Delete everything below `<storage prefix>/<namespace>/<kind, lower case>/<name>/`, but for the digest
    /// directories in `keep` and what lies in them. The guard: the runtime reads `owner` live first and does
    /// nothing unless it still has this UID and a deletion timestamp.
    DeleteArtifacts {
        /// The object whose artefacts go.
        owner: ObjectRef,
        /// Path below the storage prefix, with a trailing slash.
        path: String,
        /// Digests that living objects refer to.
        keep: Vec<String>,
    },
}

impl Action {
    /// A stable PascalCase word for metrics and logs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::AddFinalizer { .. } => "AddFinalizer",
            Self::RemoveFinalizer { .. } => "RemoveFinalizer",
            Self::Apply { .. } => "Apply",
            Self::Create { .. } => "Create",
            Self::Delete { .. } => "Delete",
            Self::Suspend { .. } => "Suspend",
            Self::Resume { .. } => "Resume",
            Self::Annotate { .. } => "Annotate",
            Self::External { .. } => "External",
        }
    }

    /// Whether it makes something new. A first apply does: one that exists is named by its UID.
    pub fn creates(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Apply { object, .. } => object.pointer("/metadata/uid").is_none(),
            _ => false,
        }
    }
}

/// The controller owner reference that every child of `object` carries.
pub fn owner<K: kube::Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    let meta = object.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_first_apply_creates_and_a_later_one_does_not() {
        let apply = |metadata: Value| Action::Apply {
            object: json!({"metadata": metadata}),
            manager: "m".into(),
        };
        assert!(apply(json!({"name": "a"})).creates());
        assert!(!apply(json!({"name": "a", "uid": "u"})).creates());
        assert!(Action::Create { object: json!({}) }.creates());
        let job = ObjectRef::default();
        assert!(!Action::Resume { job }.creates());
    }
}

//! Owns carrying out a plan's actions, in order, up to the first error. It must not choose anything: the plan says all.

use bessemer_core::{Action, ObjectRef, Propagation, StoreOperation};
use kube::api::PropagationPolicy;
use serde_json::{Value, json};

use crate::bug::{Bug, planted};
use crate::metric::Metrics;
use crate::outside::{Outside, Trouble};
use crate::remote::{self, Remote, Target};

/// Why a plan stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write to the API server.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// An act on the object store.
    #[error("the object store: {0}")]
    Outside(#[from] Trouble),
}

impl Error {
    /// Stable word for metrics, conditions and Events.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Remote(error) => error.category(),
            Self::Outside(_) => "StorageUnavailable",
        }
    }

    /// Whether a person has to act: the same write will be refused again.
    #[must_use]
    pub const fn needs_person(&self) -> bool {
        use remote::Error::{Forbidden, Foreign, Malformed, Refused};
        matches!(
            self,
            Self::Remote(Foreign { .. } | Forbidden { .. } | Malformed { .. } | Refused { .. })
        )
    }
}

/// What carries out actions for one object.
pub struct Executor<'a> {
    /// Writes to the API server.
    pub remote: &'a Remote,
    /// The object store.
    pub outside: &'a dyn Outside,
    /// UID of the reconciled object, the owner of its children.
    pub uid: &'a str,
    /// Field manager of its children.
    pub manager: &'a str,
    /// Counters.
    pub metrics: &'a Metrics,
}

pub fn target(object: &ObjectRef) -> Target {
    Target {
        api_version: object.api_version.clone(),
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    }
}

/// A merge patch of `object` that fails if it is not the observed one any more.
fn pinned(object: &ObjectRef, mut patch: Value) -> Value {
    if let Some(meta) = patch
        .as_object_mut()
        .map(|p| p.entry("metadata").or_insert_with(|| json!({})))
    {
        if let Some(uid) = &object.uid {
            set(meta, "uid", uid);
        }
        if let Some(version) = &object.resource_version {
            set(meta, "resourceVersion", version);
        }
    }
    patch
}

fn set(meta: &mut Value, field: &str, value: &str) {
    if let Some(meta) = meta.as_object_mut() {
        meta.insert(field.to_owned(), Value::from(value));
    }
}

impl Executor<'_> {
    /// Carries out `action`.
    ///
    /// # Errors
    /// What the API server or the store answers; a stale precondition is one of them.
    pub async fn perform(&self, action: &Action) -> Result<(), Error> {
        let result = self.act(action).await;
        let category = result.as_ref().map_or_else(Error::category, |()| "ok");
        self.metrics
            .acted(&self.metrics.actions, action.category(), category);
        if let Err(error) = &result {
            tracing::debug!(action = action.category(), category, %error, "action stopped");
        }
        match result {
            // A hint: under roles that are older than the operator, a kubelet only takes longer without it.
            Err(Error::Remote(remote::Error::Forbidden { .. }))
                if matches!(action, Action::Annotate { .. }) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    async fn act(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::AddFinalizer { object, .. } if planted(Bug::SkippedFinalizer) => {
                let target = target(object).to_string();
                let reason = "planted".into();
                Err(remote::Error::Stale { target, reason }.into())
            }
            Action::External { .. } if planted(Bug::SkippedCleanup) => Ok(()),
            Action::AddFinalizer { object, finalizer } => {
                self.finalizer(object, finalizer, true).await
            }
            Action::RemoveFinalizer { object, finalizer } => {
                self.finalizer(object, finalizer, false).await
            }
            Action::Apply { object, manager } => Ok(self.remote.apply(object, manager).await?),
            Action::Create { object } => {
                Ok(self.remote.create(object, self.uid, self.manager).await?)
            }
            Action::Delete {
                object,
                propagation,
            } => self.delete(object, *propagation).await,
            Action::Suspend { job } => self.suspend(job, true).await,
            Action::Resume { job } => self.suspend(job, false).await,
            Action::Annotate {
                object,
                annotation,
                value,
            } => {
                let change = json!({"metadata": {"annotations": {annotation: value}}});
                self.merge(object, change).await
            }
            Action::External { operation } => self.external(operation).await,
        }
    }

    async fn suspend(&self, job: &ObjectRef, suspend: bool) -> Result<(), Error> {
        self.merge(job, json!({"spec": {"suspend": suspend}})).await
    }

    async fn merge(&self, object: &ObjectRef, change: Value) -> Result<(), Error> {
        let patch = pinned(object, change);
        Ok(self
            .remote
            .merge(&target(object), &patch, self.manager)
            .await?)
    }

    /// The list is read live: it may hold finalizers of others that the cache does not show yet.
    async fn finalizer(
        &self,
        object: &ObjectRef,
        finalizer: &str,
        wanted: bool,
    ) -> Result<(), Error> {
        let target = target(object);
        let Some(live) = self.remote.live(&target).await? else {
            return if wanted {
                Err(gone(&target).into())
            } else {
                Ok(())
            };
        };
        if live.metadata.uid != object.uid {
            return if wanted {
                Err(gone(&target).into())
            } else {
                Ok(())
            };
        }
        let mut list = live.metadata.finalizers.clone().unwrap_or_default();
        if list.iter().any(|known| known == finalizer) == wanted {
            return Ok(());
        }
        if wanted {
            list.push(finalizer.to_owned());
        } else {
            list.retain(|known| known != finalizer);
        }
        let version = object.resource_version.clone();
        if version.is_some() && version != live.metadata.resource_version {
            return Err(remote::Error::Stale {
                target: target.to_string(),
                reason: "it changed since it was observed".into(),
            }
            .into());
        }
        let object = ObjectRef {
            resource_version: live.metadata.resource_version.clone(),
            ..object.clone()
        };
        self.merge(&object, json!({"metadata": {"finalizers": list}}))
            .await
    }

    async fn delete(&self, object: &ObjectRef, propagation: Propagation) -> Result<(), Error> {
        let policy = match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
        };
        let Some(uid) = &object.uid else {
            return Err(remote::Error::Malformed {
                what: "a deletion without uid".into(),
            }
            .into());
        };
        Ok(self
            .remote
            .delete(
                &target(object),
                uid,
                object.resource_version.as_deref(),
                policy,
            )
            .await?)
    }

    async fn external(&self, operation: &StoreOperation) -> Result<(), Error> {
        match operation {
            StoreOperation::DeleteArtifacts { owner, path, keep } => {
                // Nothing destructive rests on a cache: the owner must be on its way out now.
                let live = self.remote.live(&target(owner)).await?;
                let going = live.is_some_and(|live| {
                    live.metadata.uid == owner.uid && live.metadata.deletion_timestamp.is_some()
                });
                if !going {
                    return Err(gone(&target(owner)).into());
                }
                Ok(self.outside.delete_artefacts(path, keep).await?)
            }
        }
    }
}

fn gone(target: &Target) -> remote::Error {
    remote::Error::Stale {
        target: target.to_string(),
        reason: "it is not the observed object any more".into(),
    }
}

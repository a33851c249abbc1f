//! Owns every write to the API server: each with a deadline, its precondition and the leader's permission, and each
//! answer folded back into the caches. It must not decide what to write.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bessemer_api::{GROUP, Kind, VERSION};
use kube::api::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::bug::{Bug, planted};
use crate::cluster::Cluster;
use crate::lease::Leadership;
use crate::raw::Raw;

/// Longest wait for one write.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Which object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `group/version`, or the version alone for the core group.
    pub api_version: String,
    /// PascalCase kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Target {
    /// The target that `object` describes.
    ///
    /// # Errors
    /// An object without apiVersion, kind, namespace or name.
    pub fn of(object: &Value) -> Result<Self, Error> {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let parts = (
            text("/apiVersion"),
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        );
        let (Some(api_version), Some(kind), Some(namespace), Some(name)) = parts else {
            return Err(Error::Malformed {
                what: "apiVersion, kind, metadata.namespace or metadata.name is missing".into(),
            });
        };
        Ok(Self {
            api_version,
            kind,
            namespace,
            name,
        })
    }

    /// One of our own objects.
    #[must_use]
    pub fn ours(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn resource(&self) -> Result<ApiResource, Error> {
        let plural = match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "ConfigMap") => "configmaps",
            ("v1", "Pod") => "pods",
            ("v1", "Service") => "services",
            ("batch/v1", "Job") => "jobs",
            ("apps/v1", "Deployment") => "deployments",
            ("gateway.networking.k8s.io/v1", "HTTPRoute") => "httproutes",
            (version, kind) if version.strip_prefix(GROUP) == Some("/v1alpha1") => Kind::ALL
                .into_iter()
                .find(|known| known.name() == kind)
                .map(Kind::plural)
                .ok_or_else(|| Error::Malformed {
                    what: format!("kind {kind} is not known"),
                })?,
            (version, kind) => {
                return Err(Error::Malformed {
                    what: format!("{version} {kind} is not known"),
                });
            }
        };
        let (group, version) = self
            .api_version
            .split_once('/')
            .unwrap_or(("", &self.api_version));
        Ok(ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            plural: plural.to_owned(),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Why a write did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process does not lead.
    #[error("not the leader any more")]
    NotLeading,
    /// No answer in time; the write may have happened.
    #[error("no answer for {target} within {} s", DEADLINE.as_secs())]
    NoAnswer {
        /// Which object.
        target: String,
    },
    /// The object has changed or was replaced since it was observed.
    #[error("{target} has changed meanwhile: {reason}")]
    Stale {
        /// Which object.
        target: String,
        /// The server's words.
        reason: String,
    },
    /// An object of that name belongs to someone else.
    #[error("{target} exists and belongs to {owner}; rename one of the two")]
    Foreign {
        /// Which object.
        target: String,
        /// Who owns it.
        owner: String,
    },
    /// The server refuses the object as it is.
    #[error("{target} is refused: {reason}")]
    Refused {
        /// Which object.
        target: String,
        /// The server's words.
        reason: String,
    },
    /// The operator may not do this.
    #[error("not allowed to use {target}: {reason}; check the operator's roles")]
    Forbidden {
        /// Which object.
        target: String,
        /// The server's words.
        reason: String,
    },
    /// The API server does not know the kind.
    #[error("{target}: the API server knows no {kind}")]
    NoKind {
        /// Which object.
        target: String,
        /// `kind` of `group/version`.
        kind: String,
    },
    /// Any other trouble on the way.
    #[error("{target}: {source}")]
    Request {
        /// Which object.
        target: String,
        /// The cause.
        source: kube::Error,
    },
    /// The plan holds something that is no object.
    #[error("the plan is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// Stable word for metrics, conditions and Events.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NotLeading => "NotLeading",
            Self::NoAnswer { .. } => "ApiNoAnswer",
            Self::Stale { .. } => "Conflict",
            Self::Foreign { .. } => "NameTaken",
            Self::Refused { .. } => "ObjectRefused",
            Self::Forbidden { .. } => "Forbidden",
            Self::NoKind { .. } => "NoKind",
            Self::Request { .. } => "ApiError",
            Self::Malformed { .. } => "PlanMalformed",
        }
    }

    fn from_kube(target: &Target, source: kube::Error) -> Self {
        let name = target.to_string();
        match &source {
            kube::Error::Api(status) if status.is_conflict() || status.is_not_found() => {
                Self::Stale {
                    target: name,
                    reason: status.message.clone(),
                }
            }
            kube::Error::Api(status) if status.is_forbidden() => Self::Forbidden {
                target: name,
                reason: status.message.clone(),
            },
            kube::Error::Api(status) if matches!(status.code, 400 | 413 | 422) => Self::Refused {
                target: name,
                reason: status.message.clone(),
            },
            _ => Self::Request {
                target: name,
                source,
            },
        }
    }
}

/// The way to write.
#[derive(Clone)]
pub struct Remote {
    client: Client,
    cluster: Arc<Cluster>,
    leadership: Leadership,
}

impl Remote {
    /// Writes through `client` while `leadership` holds, and keeps `cluster` up to date with the answers.
    #[must_use]
    pub const fn new(client: Client, cluster: Arc<Cluster>, leadership: Leadership) -> Self {
        Self {
            client,
            cluster,
            leadership,
        }
    }

    fn api(&self, target: &Target) -> Result<Api<Raw>, Error> {
        Ok(Api::namespaced_with(
            self.client.clone(),
            &target.namespace,
            &target.resource()?,
        ))
    }

    async fn call<T>(
        &self,
        target: &Target,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(DEADLINE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::from_kube(target, error)),
            Err(_) => Err(Error::NoAnswer {
                target: target.to_string(),
            }),
        }
    }

    async fn write<T>(
        &self,
        target: &Target,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.leadership.holds() {
            return Err(Error::NotLeading);
        }
        self.call(target, request).await
    }

    /// Folds an answer into the caches.
    fn keep(&self, target: &Target, object: &Raw) {
        self.cluster
            .written(&target.api_version, &target.kind, object);
    }

    /// The object as the server has it now.
    ///
    /// # Errors
    /// Trouble on the way.
    pub async fn look(&self, target: &Target) -> Result<Option<Raw>, Error> {
        let api = self.api(target)?;
        self.call(target, api.get_opt(&target.name)).await
    }

    /// As [`Remote::look`], for a kind that need not be installed.
    ///
    /// # Errors
    /// [`Error::NoKind`] if it is not; otherwise trouble on the way.
    pub async fn find(&self, target: &Target) -> Result<Option<Raw>, Error> {
        let api = self.api(target)?;
        let found = async {
            match api.get(&target.name).await {
                Ok(object) => Ok(Ok(Some(object))),
                // kube does not take the plain text that answers for an unknown kind for a NotFound.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    // Of a known kind the server names the object.
                    let details = status.details;
                    let named = details.is_some_and(|details| details.name == target.name);
                    let unknown = || Error::NoKind {
                        target: target.to_string(),
                        kind: format!("{} of {}", target.kind, target.api_version),
                    };
                    Ok(named.then_some(None).ok_or_else(unknown))
                }
                Err(error) => Err(error),
            }
        };
        self.call(target, found).await?
    }

    /// The object as the server has it now; the caches learn it too.
    ///
    /// # Errors
    /// Trouble on the way.
    pub async fn live(&self, target: &Target) -> Result<Option<Raw>, Error> {
        let found = self.look(target).await?;
        match &found {
            Some(object) => self.keep(target, object),
            None => self.cluster.gone(
                &target.api_version,
                &target.kind,
                &target.namespace,
                &target.name,
                None,
            ),
        }
        Ok(found)
    }

    /// Creates `object`. One that exists already is taken as ours only if its owner has the uid `owner`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if the name is taken; otherwise trouble on the way.
    pub async fn create(&self, object: &Value, owner: &str, manager: &str) -> Result<(), Error> {
        let target = Target::of(object)?;
        let api = self.api(&target)?;
        let mut object = Cow::Borrowed(object);
        if planted(Bug::DuplicateCreate)
            && let Some(meta) = object.to_mut().get_mut("metadata")
            && let Some(meta) = meta.as_object_mut()
        {
            meta.remove("name");
            meta.insert("generateName".into(), format!("{}-", target.name).into());
        }
        let body = Raw::of(&object).map_err(|e| Error::Malformed {
            what: e.to_string(),
        })?;
        let params = PostParams {
            field_manager: Some(manager.to_owned()),
            ..PostParams::default()
        };
        if !self.leadership.holds() {
            return Err(Error::NotLeading);
        }
        let created = tokio::time::timeout(DEADLINE, api.create(&params, &body)).await;
        match created {
            Ok(Ok(object)) => {
                self.keep(&target, &object);
                Ok(())
            }
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {
                self.adopt(&target, owner).await
            }
            Ok(Err(error)) => Err(Error::from_kube(&target, error)),
            Err(_) => Err(Error::NoAnswer {
                target: target.to_string(),
            }),
        }
    }

    async fn adopt(&self, target: &Target, owner: &str) -> Result<(), Error> {
        let stale = |reason: &str| Error::Stale {
            target: target.to_string(),
            reason: reason.to_owned(),
        };
        let Some(object) = self.live(target).await? else {
            return Err(stale("it existed a moment ago and is gone"));
        };
        if object.metadata.deletion_timestamp.is_some() {
            return Err(stale("its predecessor is still being deleted"));
        }
        let owners = object.owner_references();
        if planted(Bug::ForeignAdopted) || owners.iter().any(|reference| reference.uid == owner) {
            return Ok(());
        }
        let named = owners
            .first()
            .map_or("nobody".to_owned(), |o| format!("{} {}", o.kind, o.name));
        Err(Error::Foreign {
            target: target.to_string(),
            owner: named,
        })
    }

    /// Server-side apply of `object`; a `resourceVersion` or `uid` in it is the precondition.
    ///
    /// # Errors
    /// [`Error::Stale`] if the precondition fails; otherwise trouble on the way.
    pub async fn apply(&self, object: &Value, manager: &str) -> Result<(), Error> {
        let target = Target::of(object)?;
        let api = self.api(&target)?;
        let params = PatchParams::apply(manager).force();
        let answer = self
            .write(
                &target,
                api.patch(&target.name, &params, &Patch::Apply(object)),
            )
            .await?;
        self.keep(&target, &answer);
        Ok(())
    }

    /// Server-side apply of the status in `object`. Returns the answer's `resourceVersion`.
    ///
    /// # Errors
    /// As [`Remote::apply`].
    pub async fn apply_status(&self, object: &Value, manager: &str) -> Result<(), Error> {
        let target = Target::of(object)?;
        let api = self.api(&target)?;
        let params = PatchParams::apply(manager).force();
        let answer = self
            .write(
                &target,
                api.patch_status(&target.name, &params, &Patch::Apply(object)),
            )
            .await?;
        self.keep(&target, &answer);
        Ok(())
    }

    /// Merge patch; the precondition is what `patch` says in `metadata`.
    ///
    /// # Errors
    /// As [`Remote::apply`].
    pub async fn merge(&self, target: &Target, patch: &Value, manager: &str) -> Result<(), Error> {
        let api = self.api(target)?;
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let answer = self
            .write(
                target,
                api.patch(&target.name, &params, &Patch::Merge(patch)),
            )
            .await?;
        let gone = answer.metadata.deletion_timestamp.is_some()
            && answer
                .metadata
                .finalizers
                .as_ref()
                .is_none_or(Vec::is_empty);
        if gone {
            // The last finalizer went: the server has removed the object and this is its last form.
            let uid = answer.metadata.uid.clone();
            self.cluster.gone(
                &target.api_version,
                &target.kind,
                &target.namespace,
                &target.name,
                uid.as_deref(),
            );
        } else {
            self.keep(target, &answer);
        }
        Ok(())
    }

    /// Deletes the object with `uid` if it still has `version`; looks at the live object first.
    ///
    /// # Errors
    /// [`Error::Stale`] if it has changed since it was observed; otherwise trouble on the way.
    pub async fn delete(
        &self,
        target: &Target,
        uid: &str,
        version: Option<&str>,
        propagation: PropagationPolicy,
    ) -> Result<(), Error> {
        let Some(live) = self.live(target).await? else {
            return Ok(());
        };
        let (live_uid, live_version) = (
            live.metadata.uid.as_deref(),
            live.metadata.resource_version.as_deref(),
        );
        if live_uid != Some(uid) {
            // Another object has taken the name: the one to be deleted is gone.
            return Ok(());
        }
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if version.is_some() && version != live_version {
            return Err(Error::Stale {
                target: target.to_string(),
                reason: "it changed since it was observed".into(),
            });
        }
        let api = self.api(target)?;
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: (!planted(Bug::BlindDelete)).then(|| Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: live_version.map(str::to_owned),
            }),
            ..DeleteParams::default()
        };
        match self
            .write(target, api.delete(&target.name, &params))
            .await?
            .left()
        {
            Some(object) if object.metadata.deletion_timestamp.is_some() => {
                self.keep(target, &object)
            }
            _ => self.cluster.gone(
                &target.api_version,
                &target.kind,
                &target.namespace,
                &target.name,
                Some(uid),
            ),
        }
        Ok(())
    }
}

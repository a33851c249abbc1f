//! Owns what a Deployment looks at and what it shows. It must not decide.

use bessemer_api::{Kind as KindName, ModelDeployment};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;

use super::render::ROUTER;
use crate::dependency::model_reference;
use crate::kind::{Kind, Observed};
use crate::label;
use crate::peer::{Edge, Key, Peer, Reference};
use crate::reason::{self, Reason};
use crate::run::attempt::hindrance;

pub(super) fn references(object: &ModelDeployment) -> Vec<Reference> {
    let namespace = object.key().namespace;
    let other = |kind, name: &str, edge, field: String| Reference {
        to: Key {
            kind,
            namespace: namespace.clone(),
            name: name.into(),
        },
        edge,
        field,
    };
    let mut all = Vec::new();
    all.extend(model_reference(
        &object.spec.model_ref,
        &namespace,
        "spec.modelRef",
    ));
    for (index, gate) in object.spec.gates.iter().enumerate() {
        let field = format!("spec.gates[{index}].evaluationRef");
        all.push(other(
            KindName::Evaluation,
            &gate.evaluation_ref.name,
            Edge::Build,
            field,
        ));
    }
    if let Some(retrieval) = &object.spec.retrieval {
        let field = "spec.retrieval.datasetRef".to_owned();
        all.push(other(
            KindName::Dataset,
            &retrieval.dataset_ref.name,
            Edge::Build,
            field,
        ));
    }
    for adapter in &object.spec.adapters {
        let field = format!("spec.adapters[{}].fineTuneRef", adapter.name);
        all.push(other(
            KindName::FineTune,
            &adapter.fine_tune_ref.name,
            Edge::Build,
            field,
        ));
    }
    all
}

pub(super) fn peer(object: &ModelDeployment) -> Peer {
    let status = object.status.clone().unwrap_or_default();
    let candidate = status
        .candidate
        .iter()
        .map(|candidate| candidate.digest.clone());
    let serving = status
        .traffic
        .iter()
        .map(|share| share.digest.clone())
        .chain(candidate)
        .collect();
    Peer {
        serving,
        ..Peer::of(object, &status.common)
    }
}

/// One revision's children, as observed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revision<'a> {
    /// Its servers.
    pub deployment: Option<&'a Deployment>,
    /// Its address.
    pub service: Option<&'a Service>,
}

impl<'a> Revision<'a> {
    /// The children with the run label `short` (a revision, or [`ROUTER`]).
    pub fn of(observed: &'a Observed<ModelDeployment>, short: &str) -> Self {
        let children = &observed.children;
        Self {
            deployment: children.deployments.iter().find(|d| has_run(*d, short)),
            service: children.services.iter().find(|s| has_run(*s, short)),
        }
    }

    /// Base URL of the Service, once it has an address.
    pub fn url(&self) -> Option<String> {
        let address = self.service?.spec.as_ref()?.cluster_ip.clone()?;
        (!address.is_empty() && address != "None")
            .then(|| format!("http://{address}:{}", label::PORT))
    }

    /// Pods that are ready, of the present template.
    pub fn ready(&self) -> i32 {
        let Some(deployment) = self.deployment else {
            return 0;
        };
        let Some(status) = &deployment.status else {
            return 0;
        };
        let current =
            status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0);
        let updated = status.updated_replicas.unwrap_or(0);
        if current {
            status.ready_replicas.unwrap_or(0).min(updated)
        } else {
            0
        }
    }

    /// Whether Kubernetes gave up on it.
    pub fn gave_up(&self) -> bool {
        let status = self
            .deployment
            .and_then(|deployment| deployment.status.as_ref());
        status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|condition| {
                condition.type_ == "Progressing"
                    && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
            })
    }

    /// Why its pods are not even created, in the API server's words.
    fn refusal(&self) -> Option<(Reason, String)> {
        let status = self.deployment?.status.as_ref()?;
        let mut all = status.conditions.iter().flatten();
        let found = all.find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
        Some((
            reason::POD_REFUSED,
            found.message.clone().unwrap_or_default(),
        ))
    }

    /// An annotation of the servers' Deployment.
    pub fn annotation(&self, name: &str) -> Option<&'a str> {
        self.deployment?.annotations().get(name).map(String::as_str)
    }
}

/// Whether the run label of `object` is `short`.
pub(super) fn has_run(object: &impl ResourceExt, short: &str) -> bool {
    object
        .labels()
        .get(label::RUN)
        .is_some_and(|run| run == short)
}

/// Pods of a revision.
pub(super) fn pods<'a>(
    observed: &'a Observed<ModelDeployment>,
    short: &'a str,
) -> impl Iterator<Item = &'a Pod> {
    observed
        .children
        .pods
        .iter()
        .filter(move |pod| has_run(*pod, short))
}

/// What keeps a revision's pods from starting, or from being created.
pub(super) fn hindered(
    observed: &Observed<ModelDeployment>,
    short: &str,
) -> Option<(Reason, String)> {
    pods(observed, short)
        .find_map(hindrance)
        .or_else(|| Revision::of(observed, short).refusal())
}

/// The run labels of all revisions that have children.
pub(super) fn revisions(observed: &Observed<ModelDeployment>) -> Vec<String> {
    let children = &observed.children;
    let maps = children
        .config_maps
        .iter()
        .filter_map(|o| o.labels().get(label::RUN));
    let services = children
        .services
        .iter()
        .filter_map(|o| o.labels().get(label::RUN));
    let deployments = children
        .deployments
        .iter()
        .filter_map(|o| o.labels().get(label::RUN));
    let mut all: Vec<String> = maps
        .chain(services)
        .chain(deployments)
        .filter(|run| *run != ROUTER)
        .cloned()
        .collect();
    all.sort();
    all.dedup();
    all
}

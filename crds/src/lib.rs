//! The API types of Bessemer, group `bessemer.dev`, version `v1alpha1`: the source of truth for the CRDs.
//!
//! Owns the five kinds, their schemas, defaults and CEL rules. It must not decide anything: what needs
//! other objects is resolved by bessemer-core. Schema rules follow three habits: every string and list is
//! bounded so CEL stays cheap; defaults live in the schema; a count is an integer or a string with suffix.

mod count;
mod dataset;
mod deployment;
mod evaluation;
mod finetune;
mod pod;
mod pretrainjob;
mod quantity;
mod reference;
mod status;
mod training;

pub use count::Count;
pub use dataset::*;
pub use deployment::*;
pub use evaluation::*;
pub use finetune::*;
pub use pod::{EnvVar, PodOverlay, Resources, Toleration};
pub use pretrainjob::*;
pub use quantity::Bytes;
pub use reference::{Kind, ModelKind, ModelRef, NamedRef, SecretRef};
pub use status::{Artifact, CheckpointStatus, CommonStatus, InputDigest, Progress};
pub use training::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;

/// API group of every kind.
pub const GROUP: &str = "bessemer.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";

/// Stands in a column of `kubectl get` for a number that is not known yet.
pub const NONE_YET: &str = "-";

/// The five definitions in the order in which a chain is read.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Dataset::crd(),
        PretrainJob::crd(),
        FineTune::crd(),
        Evaluation::crd(),
        ModelDeployment::crd(),
    ];
    for definition in &mut all {
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".into(), "bessemer".into());
        unseen(definition);
    }
    all
}

/// Gives a new object the status of one that no operator has looked at, so that nobody takes it for a finished one:
/// kstatus compares observedGeneration, `kubectl get` has no blank column.
fn unseen(definition: &mut CustomResourceDefinition) {
    let headline = match definition.spec.names.kind.as_str() {
        "Deployment" => "trafficSummary",
        _ => "headline",
    };
    let status = serde_json::json!({
        "observedGeneration": -1,
        "conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "Pending", "message": "no operator has looked at it yet",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }],
        "progress": {"stage": "Waiting", "percent": 0, "summary": "0%"},
        headline: NONE_YET,
    });
    for version in &mut definition.spec.versions {
        let root = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        let fields = root.and_then(|root| root.properties.as_mut());
        if let Some(field) = fields.and_then(|fields| fields.get_mut("status")) {
            field.default = Some(JSON(status.clone()));
        }
    }
}

#[cfg(test)]
mod tests;

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

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of every kind.
pub const GROUP: &str = "bessemer.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";

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
    }
    all
}

#[cfg(test)]
mod tests;

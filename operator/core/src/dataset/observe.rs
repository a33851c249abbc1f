//! Owns what a Dataset looks at and what it shows. It must not decide.

use bessemer_api::{Dataset, Kind as KindName};

use crate::dependency::dataset_reference;
use crate::kind::Kind;
use crate::peer::{Edge, Key, Peer, Reference};
use crate::training::long;

pub(super) fn references(object: &Dataset) -> Vec<Reference> {
    let namespace = object.key().namespace;
    let other = |kind, name: &str, field: String| Reference {
        to: Key {
            kind,
            namespace: namespace.clone(),
            name: name.into(),
        },
        edge: Edge::Read,
        field,
    };
    let mut all = Vec::new();
    for source in &object.spec.sources {
        if let Some(deployment) = &source.deployment_ref {
            let field = format!("spec.sources[{}].deploymentRef", source.name);
            all.push(other(KindName::Deployment, &deployment.name, field));
        }
    }
    for evaluation in object
        .spec
        .decontaminate
        .iter()
        .flat_map(|d| &d.evaluation_refs)
    {
        all.push(other(
            KindName::Evaluation,
            &evaluation.name,
            "spec.decontaminate.evaluationRefs".into(),
        ));
    }
    if let Some(dataset) = object
        .spec
        .tokenizer
        .as_ref()
        .and_then(|tokenizer| tokenizer.dataset_ref.as_ref())
    {
        all.push(dataset_reference(
            &dataset.name,
            &namespace,
            "spec.tokenizer.datasetRef",
        ));
    }
    all
}

pub(super) fn peer(object: &Dataset) -> Peer {
    let status = object.status.clone().unwrap_or_default();
    let statistics = status.statistics;
    let tokens = statistics.map(|s| long(s.tokens - s.validation_tokens));
    let purpose = Some(format!("{:?}", object.spec.purpose));
    Peer {
        purpose,
        tokens,
        ..Peer::of(object, &status.common)
    }
}

//! Owns what a PretrainJob looks at and what it shows. It must not decide.

use bessemer_api::PretrainJob;

use super::resolve::shape;
use crate::dependency::{dataset_reference, model_reference};
use crate::kind::Kind;
use crate::peer::{Peer, Reference};

pub(super) fn references(object: &PretrainJob) -> Vec<Reference> {
    let namespace = object.key().namespace;
    let mut all: Vec<Reference> = object
        .spec
        .datasets
        .iter()
        .map(|share| {
            dataset_reference(
                &share.name,
                &namespace,
                format!("spec.datasets[{}]", share.name),
            )
        })
        .collect();
    let model = object.spec.initial_model_ref.as_ref();
    all.extend(model.and_then(|model| model_reference(model, &namespace, "spec.initialModelRef")));
    all
}

pub(super) fn peer(object: &PretrainJob) -> Peer {
    let status = object.status.clone().unwrap_or_default();
    let context_length = shape(&object.spec).ok().map(|shape| shape.context_length);
    Peer {
        context_length,
        ..Peer::of(object, &status.common)
    }
}

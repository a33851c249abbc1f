//! Owns what a FineTune looks at and what it shows. It must not decide.

use bessemer_api::{FineTune, Kind as KindName};

use crate::dependency::{dataset_reference, model_reference};
use crate::kind::Kind;
use crate::peer::{Edge, Key, Peer, Reference};

pub(super) fn references(object: &FineTune) -> Vec<Reference> {
    let namespace = object.key().namespace;
    let spec = &object.spec;
    let mut all = vec![dataset_reference(
        &spec.dataset_ref.name,
        &namespace,
        "spec.datasetRef",
    )];
    all.extend(model_reference(&spec.base_ref, &namespace, "spec.baseRef"));
    if let Some(ppo) = &spec.ppo {
        let to = Key {
            kind: KindName::FineTune,
            namespace: namespace.clone(),
            name: ppo.reward_model_ref.name.clone(),
        };
        all.push(Reference {
            to,
            edge: Edge::Build,
            field: "spec.ppo.rewardModelRef".into(),
        });
    }
    let teacher = spec
        .distillation
        .as_ref()
        .map(|distillation| &distillation.teacher_ref);
    all.extend(
        teacher.and_then(|teacher| {
            model_reference(teacher, &namespace, "spec.distillation.teacherRef")
        }),
    );
    all
}

pub(super) fn peer(object: &FineTune) -> Peer {
    Peer::of(object, &object.status.clone().unwrap_or_default().common)
}

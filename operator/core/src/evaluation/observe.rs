//! Owns what an Evaluation looks at and what it shows. It must not decide.

use std::collections::BTreeSet;

use bessemer_api::{Evaluation, EvaluationSuite};

use crate::dependency::{dataset_reference, model_reference};
use crate::kind::Kind;
use crate::peer::{Peer, Reference};

pub(super) fn references(object: &Evaluation) -> Vec<Reference> {
    let namespace = object.key().namespace;
    let mut all = Vec::new();
    all.extend(model_reference(
        &object.spec.model_ref,
        &namespace,
        "spec.modelRef",
    ));
    let baseline = object.spec.baseline_ref.as_ref();
    all.extend(baseline.and_then(|model| model_reference(model, &namespace, "spec.baselineRef")));
    let mut seen = BTreeSet::new();
    for suite in &object.spec.suites {
        if let Some(name) = dataset(suite).filter(|name| seen.insert((*name).to_owned())) {
            all.push(dataset_reference(
                name,
                &namespace,
                format!("spec.suites[{}]", suite.name),
            ));
        }
    }
    all
}

/// The dataset that a suite reads.
pub(super) fn dataset(suite: &EvaluationSuite) -> Option<&str> {
    let simple = [
        &suite.toxicity,
        &suite.fairness,
        &suite.stress,
        &suite.retrieval,
    ];
    let simple = simple.into_iter().flatten().map(|suite| &suite.dataset_ref);
    let choice = suite
        .multiple_choice
        .as_ref()
        .and_then(|suite| suite.dataset_ref.as_ref());
    let found = suite.perplexity.as_ref().map(|suite| &suite.dataset_ref);
    let found = found
        .or(suite.generation.as_ref().map(|suite| &suite.dataset_ref))
        .or(choice);
    let found = found.or(suite.bias.as_ref().map(|suite| &suite.dataset_ref));
    let found = found.or(suite.human.as_ref().map(|suite| &suite.dataset_ref));
    found
        .or(simple.into_iter().next())
        .map(|reference| reference.name.as_str())
}

pub(super) fn peer(object: &Evaluation) -> Peer {
    let status = object.status.clone().unwrap_or_default();
    Peer {
        results: status.results,
        ..Peer::of(object, &status.common)
    }
}

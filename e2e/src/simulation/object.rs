//! Owns what users do in a simulation: a chain of objects over all kinds, and changes to them. It must not look at results.

use std::collections::BTreeMap;

use bessemer_api::Kind;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Namespace of every simulated object.
pub const NAMESPACE: &str = "default";

/// What users want to exist: spec by kind and name.
pub type Wishes = BTreeMap<(Kind, String), Value>;

/// 3 to 12 objects. A short life starts anywhere in the chain, so that missing references are met too.
pub fn chain(random: &mut ChaCha8Rng) -> Wishes {
    let size = random.random_range(3..=12_usize);
    let start = random.random_range(0..6_usize);
    objects(size, start, random)
}

/// `size` objects; the first of every kind make a chain, which begins at its link `start`, the others hang on what is
/// there.
pub fn objects(size: usize, start: usize, random: &mut ChaCha8Rng) -> Wishes {
    let mut wishes = Wishes::new();
    let order = [
        Kind::Dataset,
        Kind::Dataset,
        Kind::PretrainJob,
        Kind::FineTune,
        Kind::Evaluation,
        Kind::Deployment,
    ];
    let mut numbers = BTreeMap::new();
    for kind in order.into_iter().cycle().skip(start).take(size) {
        let next = numbers.entry(kind).or_insert(0);
        let number = *next;
        *next += 1;
        let name = format!("{}{number}", letter(kind));
        wishes.insert((kind, name), spec(kind, number, random));
    }
    wishes
}

/// First letter of the names of a kind.
#[must_use]
pub const fn letter(kind: Kind) -> char {
    match kind {
        Kind::Dataset => 'd',
        Kind::PretrainJob => 'p',
        Kind::FineTune => 'f',
        Kind::Evaluation => 'e',
        Kind::Deployment => 's',
    }
}

/// A plain spec of the object `number` of a kind.
pub fn spec(kind: Kind, number: usize, random: &mut ChaCha8Rng) -> Value {
    let model = if random.random_bool(0.7) {
        json!({"kind": "FineTune", "name": "f0"})
    } else {
        json!({"kind": "PretrainJob", "name": "p0"})
    };
    let mut spec = match kind {
        Kind::Dataset if number.is_multiple_of(2) => json!({
            "purpose": "Pretraining",
            "sources": [{"name": "a", "uri": format!("s3://bucket/{number}")}],
            "tokenizer": {"train": {"vocabularySize": "4k"}}
        }),
        Kind::Dataset => json!({
            "purpose": "Instruction", "sources": [{"name": "a", "uri": format!("s3://bucket/{number}"), "format": "Jsonl"}]
        }),
        Kind::PretrainJob => json!({
            "datasets": [{"name": "d0"}], "model": {"family": "Llama", "preset": "1M"},
            "training": {"steps": 100 + number}
        }),
        Kind::FineTune => json!({
            "baseRef": {"kind": "PretrainJob", "name": "p0"}, "datasetRef": {"name": "d1"}, "supervised": {},
            "training": {"epochs": 1 + number % 1000}
        }),
        Kind::Evaluation => json!({
            "modelRef": model, "suites": [{"name": "held-out", "perplexity": {"datasetRef": {"name": "d0"}}}]
        }),
        Kind::Deployment => json!({"modelRef": model}),
    };
    if kind == Kind::Deployment && random.random_bool(0.5) {
        let gate = json!([{"evaluationRef": {"name": "e0"}, "expression": "results['held-out']['loss'].value < 5.0"}]);
        set(&mut spec, "gates", gate);
    }
    if kind == Kind::Deployment && random.random_bool(0.4) {
        let rollout = json!({
            "steps": [{"percent": 10, "holdSeconds": 30}, {"percent": 50, "holdSeconds": random.random_range(0..120)}],
            "abort": {"errorRate": 0.5, "minRequests": 10}
        });
        set(&mut spec, "rollout", rollout);
    }
    if kind != Kind::Deployment && random.random_bool(0.3) {
        set(&mut spec, "artifactPolicy", json!("Delete"));
    }
    spec
}

/// Sets one field of a spec.
pub fn set(spec: &mut Value, field: &str, value: Value) {
    if let Some(fields) = spec.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn unset(spec: &mut Value, field: &str) {
    if let Some(fields) = spec.as_object_mut() {
        fields.remove(field);
    }
}

/// What a user does to one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// Apply this spec.
    Apply(Value),
    /// Delete it, then apply the same again.
    Replace,
}

/// A random change of one object, as the deeds that lead to it; the last one is the wish.
pub fn change(kind: Kind, spec: &Value, random: &mut ChaCha8Rng) -> Vec<Deed> {
    let mut changed = spec.clone();
    match random.random_range(0..5) {
        0 => {
            set(&mut changed, "suspend", json!(true));
            vec![Deed::Apply(changed), Deed::Apply(spec.clone())]
        }
        1 => vec![Deed::Replace],
        2 if kind != Kind::Deployment => {
            set(
                &mut changed,
                "restartNonce",
                json!(format!("n{}", random.random_range(0..100))),
            );
            vec![Deed::Apply(changed)]
        }
        // A spec that asks for what is not built, then the good one again (O3).
        3 if kind == Kind::Dataset => {
            set(
                &mut changed,
                "deduplicate",
                json!({"exact": true, "near": true}),
            );
            vec![Deed::Apply(changed), Deed::Apply(spec.clone())]
        }
        4 if kind == Kind::Dataset => {
            let least = random.random_range(1..50);
            set(&mut changed, "clean", json!({"minCharacters": least}));
            vec![Deed::Apply(changed)]
        }
        3 if kind == Kind::Evaluation || kind == Kind::Deployment => {
            set(
                &mut changed,
                "modelRef",
                json!({"kind": "PretrainJob", "name": "p0"}),
            );
            vec![Deed::Apply(changed)]
        }
        _ => {
            unset(&mut changed, "suspend");
            vec![Deed::Apply(changed)]
        }
    }
}

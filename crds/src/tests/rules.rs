//! One accepted and one refused object for each CEL rule; a test at the end counts that no rule is missing.

use serde_json::{Value, json};

use super::{schema, violations};
use crate::Kind;

/// A valid object of a kind.
fn valid(kind: Kind) -> Value {
    let spec = match kind {
        Kind::Dataset => json!({
            "purpose": "Pretraining",
            "sources": [{"name": "a", "uri": "s3://bucket/a"}],
            "tokenizer": {"train": {"vocabularySize": "4k"}}
        }),
        Kind::PretrainJob => {
            json!({"datasets": [{"name": "d"}], "model": {"family": "Llama", "preset": "1M"}})
        }
        Kind::FineTune => json!({
            "baseRef": {"kind": "PretrainJob", "name": "base"}, "datasetRef": {"name": "d"}, "supervised": {}
        }),
        Kind::Evaluation => json!({
            "modelRef": {"kind": "FineTune", "name": "chat"},
            "suites": [{"name": "held-out", "perplexity": {"datasetRef": {"name": "d"}}}]
        }),
        Kind::Deployment => json!({"modelRef": {"kind": "FineTune", "name": "chat"}}),
    };
    json!({"apiVersion": "bessemer.dev/v1alpha1", "kind": kind.name(), "metadata": {"name": "x"}, "spec": spec})
}

/// The valid object with one JSON pointer set (or removed, for null).
fn with(kind: Kind, changes: &[(&str, Value)]) -> Value {
    let mut object = valid(kind);
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = object
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("{pointer}"));
        match (parent, value) {
            (Value::Object(map), Value::Null) => drop(map.remove(field)),
            (Value::Object(map), value) => drop(map.insert(field.into(), value.clone())),
            (Value::Array(list), value) => list[field.parse::<usize>().unwrap()] = value.clone(),
            _ => panic!("{pointer}"),
        }
    }
    object
}

struct Case {
    kind: Kind,
    message: &'static str,
    accepted: Vec<(&'static str, Value)>,
    refused: Vec<(&'static str, Value)>,
    /// For transition rules: the object before.
    before: Option<Vec<(&'static str, Value)>>,
}

fn case(
    kind: Kind,
    message: &'static str,
    accepted: &[(&'static str, Value)],
    refused: &[(&'static str, Value)],
) -> Case {
    Case {
        kind,
        message,
        accepted: accepted.to_vec(),
        refused: refused.to_vec(),
        before: None,
    }
}

fn transition(kind: Kind, message: &'static str, refused: &[(&'static str, Value)]) -> Case {
    Case {
        kind,
        message,
        accepted: vec![],
        refused: refused.to_vec(),
        before: Some(vec![]),
    }
}

fn cases() -> Vec<Case> {
    use Kind::*;
    let long = json!("a".repeat(41));
    let edge = json!("a".repeat(40));
    let mut cases: Vec<Case> = Kind::ALL
        .into_iter()
        .map(|kind| {
            case(
                kind,
                "at most 40 characters",
                &[("/metadata/name", edge.clone())],
                &[("/metadata/name", long.clone())],
            )
        })
        .collect();
    let window = json!({"percent": 10});
    cases.extend([
        case(Dataset, "needs a tokenizer", &[("/spec/purpose", json!("Instruction")), ("/spec/tokenizer", Value::Null)], &[("/spec/tokenizer", Value::Null)]),
        case(Dataset, "at least one source", &[], &[("/spec/sources/0", json!({"name": "a"}))]),
        case(Dataset, "is prepared on CPUs", &[("/spec/resources", json!({"gpus": 0}))], &[("/spec/resources", json!({"gpus": 1}))]),
        transition(Dataset, "purpose is immutable", &[("/spec/purpose", json!("Retrieval"))]),
        case(Dataset, "either uri or deploymentRef", &[("/spec/sources/0", json!({"name": "a", "deploymentRef": {"name": "m"}}))], &[("/spec/sources/0", json!({"name": "a", "uri": "s3://b/c", "deploymentRef": {"name": "m"}}))]),
        case(Dataset, "credentialsSecretRef is for s3", &[("/spec/sources/0", json!({"name": "a", "uri": "s3://b/c", "credentialsSecretRef": {"name": "k"}}))], &[("/spec/sources/0", json!({"name": "a", "uri": "file:///c", "credentialsSecretRef": {"name": "k"}}))]),
        case(Dataset, "subjectField needs format: Jsonl", &[("/spec/sources/0", json!({"name": "a", "uri": "s3://b/c", "format": "Jsonl", "subjectField": "who"}))], &[("/spec/sources/0", json!({"name": "a", "uri": "s3://b/c", "subjectField": "who"}))]),
        case(Dataset, "minCharacters must not exceed", &[("/spec/clean", json!({"minCharacters": 5, "maxCharacters": 5}))], &[("/spec/clean", json!({"minCharacters": 6, "maxCharacters": 5}))]),
        case(Dataset, "either train or datasetRef", &[("/spec/tokenizer", json!({"datasetRef": {"name": "t"}}))], &[("/spec/tokenizer", json!({"datasetRef": {"name": "t"}, "train": {"vocabularySize": 512}}))]),
        case(PretrainJob, "product of parallelism", &[("/spec/parallelism", json!({"data": 2})), ("/spec/workers", json!({"replicas": 2}))], &[("/spec/parallelism", json!({"data": 2}))]),
        transition(PretrainJob, "objective is immutable", &[("/spec/objective", json!("MaskedLanguageModel"))]),
        transition(PretrainJob, "family is immutable", &[("/spec/model/family", json!("GPT2"))]),
        case(PretrainJob, "at most one of tokens", &[("/spec/training", json!({"steps": 5}))], &[("/spec/training", json!({"steps": 5, "epochs": 1}))]),
        case(PretrainJob, "minReplicas must not exceed", &[("/spec/workers", json!({"replicas": 1, "minReplicas": 1}))], &[("/spec/workers", json!({"replicas": 1, "minReplicas": 2}))]),
        case(PretrainJob, "maxReplicas must not be below", &[("/spec/workers", json!({"replicas": 1, "maxReplicas": 4}))], &[("/spec/parallelism", json!({"data": 2})), ("/spec/workers", json!({"replicas": 2, "maxReplicas": 1}))]),
        case(PretrainJob, "labels below bessemer.dev/", &[("/spec/pod", json!({"labels": {"team": "a"}}))], &[("/spec/pod", json!({"labels": {"bessemer.dev/run": "a"}}))]),
        case(PretrainJob, "tolerationSeconds needs effect NoExecute", &[("/spec/pod", json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]}))], &[("/spec/pod", json!({"tolerations": [{"operator": "Exists", "tolerationSeconds": 30}]}))]),
        case(PretrainJob, "env must not name what the operator sets", &[("/spec/pod", json!({"env": [{"name": "RUST_LOG", "value": "debug"}]}))], &[("/spec/pod", json!({"env": [{"name": "BESSEMER_WORK_DIR", "value": "/"}]}))]),
        case(PretrainJob, "everySteps or everySeconds", &[("/spec/checkpoint", json!({"everySteps": 5}))], &[("/spec/checkpoint", json!({"everySteps": 5, "everySeconds": 5}))]),
        case(PretrainJob, "either kind and name, or uri", &[("/spec/initialModelRef", json!({"uri": "s3://b/c"}))], &[("/spec/initialModelRef", json!({"uri": "s3://b/c", "name": "x"}))]),
        case(PretrainJob, "give a preset", &[("/spec/model", json!({"family": "GPT2", "layers": 2, "heads": 2, "hiddenSize": 8}))], &[("/spec/model", json!({"family": "GPT2", "layers": 2}))]),
        case(PretrainJob, "multiple of heads", &[("/spec/model", json!({"family": "GPT2", "layers": 2, "heads": 2, "hiddenSize": 8}))], &[("/spec/model", json!({"family": "GPT2", "layers": 2, "heads": 3, "hiddenSize": 8}))]),
        case(PretrainJob, "multiple of keyValueHeads", &[("/spec/model", json!({"family": "Llama", "layers": 2, "heads": 4, "keyValueHeads": 2, "hiddenSize": 8}))], &[("/spec/model", json!({"family": "Llama", "layers": 2, "heads": 4, "keyValueHeads": 3, "hiddenSize": 8}))]),
        case(PretrainJob, "positions do not fit", &[("/spec/model/positions", json!("RoPE"))], &[("/spec/model/positions", json!("Learned"))]),
        case(PretrainJob, "attentionWindow goes with", &[("/spec/model/attentionWindow", json!(64))], &[("/spec/model", json!({"family": "GPT2", "preset": "1M", "attentionWindow": 64}))]),
        case(PretrainJob, "active must not exceed", &[("/spec/model/mixtureOfExperts", json!({"experts": 8, "active": 2}))], &[("/spec/model/mixtureOfExperts", json!({"experts": 2, "active": 3}))]),
        case(FineTune, "exactly one of supervised", &[("/spec/supervised", Value::Null), ("/spec/dpo", json!({}))], &[("/spec/dpo", json!({}))]),
        transition(FineTune, "method is immutable", &[("/spec/supervised", Value::Null), ("/spec/dpo", json!({}))]),
        case(FineTune, "baseRef must not be the object itself", &[("/spec/baseRef", json!({"kind": "FineTune", "name": "y"}))], &[("/spec/baseRef", json!({"kind": "FineTune", "name": "x"}))]),
        case(FineTune, "product of parallelism", &[("/spec/workers", json!({"gpus": 2})), ("/spec/parallelism", json!({"tensor": 2}))], &[("/spec/workers", json!({"gpus": 2}))]),
        case(Evaluation, "exactly one measure", &[("/spec/suites/0", json!({"name": "a", "bias": {"task": "bbq", "datasetRef": {"name": "d"}}}))], &[("/spec/suites/0", json!({"name": "a"}))]),
        case(Evaluation, "either task or datasetRef", &[("/spec/suites/0", json!({"name": "a", "multipleChoice": {"task": "mmlu"}}))], &[("/spec/suites/0", json!({"name": "a", "multipleChoice": {}}))]),
        case(Deployment, "minReplicas must not exceed", &[("/spec/autoscaling", json!({"minReplicas": 1, "maxReplicas": 1}))], &[("/spec/autoscaling", json!({"minReplicas": 2, "maxReplicas": 1}))]),
        case(Deployment, "either route or rollout.abort", &[("/spec/route", json!({"parentRefs": [{"name": "g"}]}))], &[("/spec/route", json!({"parentRefs": [{"name": "g"}]})), ("/spec/rollout", json!({"abort": {"errorRate": 0.1}}))]),
        case(Deployment, "percents of steps must rise", &[("/spec/rollout", json!({"steps": [window, {"percent": 50}]}))], &[("/spec/rollout", json!({"steps": [{"percent": 50}, {"percent": 50}]}))]),
        case(Deployment, "errorRate or p99TimeToFirstTokenMs", &[("/spec/rollout", json!({"abort": {"errorRate": 0.1}}))], &[("/spec/rollout", json!({"abort": {}}))]),
    ]);
    cases
}

#[test]
fn every_rule_accepts_and_refuses() {
    for case in cases() {
        let before = case.before.as_ref().map(|changes| with(case.kind, changes));
        let accepted = with(case.kind, &case.accepted);
        assert_eq!(
            violations(case.kind, &accepted, before.as_ref()),
            Vec::<String>::new(),
            "{} {}",
            case.kind,
            case.message
        );
        let refused = violations(case.kind, &with(case.kind, &case.refused), before.as_ref());
        assert!(
            refused.iter().any(|message| message.contains(case.message)),
            "{} must refuse with `{}`, got {refused:?}",
            case.kind,
            case.message
        );
    }
}

/// Every message of every rule in the schemas is covered by a case (of any kind: blocks are shared).
#[test]
fn no_rule_is_without_a_case() {
    fn messages(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(map) => {
                for rule in map
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    found.push(rule["message"].as_str().unwrap_or_default().to_string());
                }
                map.values().for_each(|child| messages(child, found));
            }
            Value::Array(list) => list.iter().for_each(|child| messages(child, found)),
            _ => {}
        }
    }
    let cases = cases();
    for kind in Kind::ALL {
        let mut found = Vec::new();
        messages(&schema(kind), &mut found);
        for message in found {
            assert!(
                cases.iter().any(|case| message.contains(case.message)),
                "{kind}: no case for `{message}`"
            );
        }
    }
}

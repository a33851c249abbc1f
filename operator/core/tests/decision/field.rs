//! No field of a spec is ignored: another value of any of them changes what becomes of the object, or is refused.

use bessemer_api::{Kind as KindName, definitions};
use bessemer_core::unimplemented::TABLE;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};
use crate::fixture::{chain, dataset, evaluation, pretrain, served, tune};
use crate::refusal::set;

/// Fields that act only at events which no quiet run has, and the tests that show it.
const AT_EVENTS: &[(&str, &str)] = &[
    (
        "artifactPolicy",
        "run::artefacts_go_with_the_object_only_where_asked_and_unused",
    ),
    (
        "retryLimit",
        "run::retriable_failures_open_the_next_attempt_until_the_limit",
    ),
    (
        "ttlSecondsAfterFinished",
        "run::remains_go_after_the_ttl_and_nothing_runs_again",
    ),
    (
        "progressDeadlineSeconds",
        "deployment::a_candidate_that_does_not_come_up_stays_out_until_the_spec_changes",
    ),
    (
        "rollout.",
        "deployment::traffic_moves_in_steps_and_each_is_held, a_canary_that_breaks_a_limit_is_taken_back",
    ),
];

/// A spec in which every list has an element and every block that can be there is there.
fn rich(kind: KindName) -> Value {
    let mut spec = match kind {
        KindName::Dataset => {
            let mut spec = dataset("Pretraining");
            spec["sources"] = json!([{
                "name": "docs", "uri": "s3://bucket/docs", "license": "MIT", "format": "Jsonl", "include": ["*.a"],
                "exclude": ["*.b"], "credentialsSecretRef": {"name": "keys"}, "consent": "Given"
            }]);
            spec["clean"] = json!({"language": {"code": "eng"}});
            spec["licenses"] = json!({"allow": ["MIT", "ISC"], "deny": ["GPL-2.0"]});
            spec["tokenizer"]["train"]["specialTokens"] = json!(["<a>"]);
            spec
        }
        KindName::PretrainJob => {
            let mut spec = pretrain(&["text"]);
            spec["model"] = json!({
                "family": "Llama", "layers": 2, "heads": 4, "keyValueHeads": 4, "hiddenSize": 64, "feedForwardSize": 128,
                "contextLength": 64
            });
            spec
        }
        KindName::FineTune => tune("PretrainJob", "base", "pairs"),
        KindName::Evaluation => {
            let mut spec = evaluation("FineTune", "chat", "pairs");
            spec["baselineRef"] = json!({"kind": "PretrainJob", "name": "base"});
            spec["suites"][0]["generation"]["metrics"] = json!(["BLEU"]);
            spec
        }
        KindName::Deployment => {
            let mut spec = served("FineTune", "chat", "score");
            spec["auth"] = json!({"apiKeysSecretRef": {"name": "keys"}});
            spec["route"] = json!({"parentRefs": [{"name": "gate", "namespace": "edge"}], "hostnames": ["a.example"]});
            spec
        }
    };
    spec["pod"] = json!({
        "env": [{"name": "A", "value": "1"}], "imagePullSecrets": ["a"],
        "tolerations": [{"key": "a", "operator": "Equal", "value": "a", "effect": "NoExecute", "tolerationSeconds": 60}]
    });
    spec
}

/// Another value of a field than `rich` and the defaults have, with what has to change beside it. `None` where all other
/// values are in the table of what is not built.
fn other(kind: KindName, field: &str) -> Option<Vec<(&str, Value)>> {
    let one = |name: &'static str, value: Value| vec![(name, value)];
    let suite = |measure: Value| one("suites[]", json!({"name": "chat", "perplexity": measure}));
    let pairs = json!({"name": "pairs"});
    let unbuilt = TABLE
        .iter()
        .filter(|entry| entry.kind == kind)
        .any(|entry| {
            let rest = field.strip_prefix(entry.field);
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('.') || rest.starts_with('[')
            })
        });
    Some(match (kind, field) {
        (_, "suites[].perplexity.datasetRef.name") => suite(json!({"datasetRef": pairs})),
        (_, "suites[].perplexity.limit") => suite(json!({"datasetRef": pairs, "limit": 5})),
        (_, "suites[].perplexity.scoredText") => {
            suite(json!({"datasetRef": pairs, "scoredText": "Answer"}))
        }
        (_, "modelRef.uri") => one("modelRef", json!({"uri": "s3://bucket/model"})),
        (_, "baseRef.uri") => one("baseRef", json!({"uri": "s3://bucket/model"})),
        // A rule of the definition refuses every other value.
        (KindName::Dataset, "resources.gpus") => return None,
        (_, "baselineRef.uri") => one("baselineRef", json!({"uri": "s3://bucket/model"})),
        (_, "initialModelRef.uri") => one("initialModelRef", json!({"uri": "s3://bucket/model"})),
        (_, "modelRef.kind") => one("modelRef.kind", json!("PretrainJob")),
        (KindName::Dataset, "tokenizer.datasetRef.name") => {
            one("tokenizer", json!({"datasetRef": {"name": "text"}}))
        }
        (KindName::PretrainJob, "model.preset") => {
            one("model", json!({"family": "Llama", "preset": "10M"}))
        }
        (KindName::PretrainJob, "model.attentionWindow") => one("model.attentionWindow", json!(64)),
        (KindName::PretrainJob, "model.positions") => one(
            "model",
            json!({"family": "GPT2", "preset": "1M", "positions": "Learned"}),
        ),
        (KindName::PretrainJob, "model.family") => one("model.family", json!("GPT2")),
        (KindName::PretrainJob, "training.tokens") => vec![
            ("training.steps", Value::Null),
            ("training.tokens", json!(4096 * 7)),
        ],
        (KindName::PretrainJob, "training.epochs") => vec![
            ("training.steps", Value::Null),
            ("training.epochs", json!(3)),
        ],
        (KindName::FineTune, "training.steps") => vec![
            ("training.epochs", Value::Null),
            ("training.steps", json!(7)),
        ],
        (_, "pod.tolerations[].effect") => vec![
            ("pod.tolerations[].tolerationSeconds", Value::Null),
            ("pod.tolerations[].effect", json!("NoSchedule")),
        ],
        (_, "parallelism.data" | "workers.replicas") => vec![
            ("parallelism.data", json!(2)),
            ("workers.replicas", json!(2)),
        ],
        (_, "initialModelRef.kind" | "initialModelRef.name") => one(
            "initialModelRef",
            json!({"kind": "PretrainJob", "name": "base"}),
        ),
        _ => {
            let value = match field {
                "activeDeadlineSeconds" => json!(77),
                "suspend" => json!(true),
                "training.deterministic" | "deduplicate.exact" | "clean.repetition" => json!(false),
                "pod.annotations" | "pod.labels" | "pod.nodeSelector" => json!({"a": "b"}),
                "resources.cpu" => json!("3"),
                "resources.memory" | "resources.scratch" => json!("3Gi"),
                "resources.gpus" | "workers.gpus" => json!(1),
                "clean.language.code" => json!("deu"),
                "clean.language.minScore"
                | "split.validation"
                | "training.dropout"
                | "training.finalLearningRateShare"
                | "suites[].generation.temperature"
                | "suites[].generation.topP" => json!(0.25),
                "clean.unicode" => json!("NFKC"),
                "licenses.allow[]" | "licenses.deny[]" | "sources[].license" => json!("Apache-2.0"),
                "purpose" => json!("Instruction"),
                "sources[].format" => json!("Text"),
                "sources[].uri" => json!("s3://bucket/other"),
                "sources[].endpoint" => json!("https://s3.example.org"),
                "pod.tolerations[].operator" => json!("Exists"),
                "pod.tolerations[].tolerationSeconds" => json!(30),
                "baseRef.kind" | "baselineRef.kind" => json!("FineTune"),
                "training.schedule" => json!("WSD"),
                "training.precision" => json!("BF16"),
                "adapter.targets[]" => json!("Output"),
                "suites[].generation.metrics[]" => json!("ROUGE"),
                "gates[].expression" => json!("results[\"chat\"][\"bleu\"].value > 2.0"),
                "model.keyValueHeads" => json!(2),
                "model.heads" => json!(8),
                "training.batchTokens" => json!(8192),
                "training.microBatch" => json!(4),
                "training.beta1"
                | "training.beta2"
                | "training.gradientClipNorm"
                | "training.learningRate"
                | "training.weightDecay"
                | "adapter.alpha"
                | "datasets[].weight"
                | "sources[].weight" => json!(0.5),
                "clean.maxCharacters"
                | "clean.minCharacters"
                | "model.contextLength"
                | "model.hiddenSize"
                | "model.feedForwardSize"
                | "tokenizer.train.vocabularySize" => json!(512),
                "checkpoint.everySeconds"
                | "checkpoint.everySteps"
                | "checkpoint.keep"
                | "adapter.rank"
                | "seed"
                | "split.seed"
                | "bootstrapSamples"
                | "replicas"
                | "maxConcurrency"
                | "model.layers"
                | "training.epochs"
                | "supervised.sequenceLength"
                | "suites[].generation.limit"
                | "suites[].generation.maxTokens"
                | "training.seed"
                | "training.steps"
                | "training.tokens"
                | "training.warmupSteps" => json!(16),
                _ if unbuilt => return None,
                _ => json!("other"),
            };
            vec![(field, value)]
        }
    })
}

fn leaves(node: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(properties) = node["properties"].as_object() {
        for (name, child) in properties {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            leaves(child, &path, found);
        }
    } else if node["items"].is_object() {
        leaves(&node["items"], &format!("{path}[]"), found);
    } else {
        found.push(path.to_owned());
    }
}

/// What becomes of an object with this spec within a served chain: its status and all that is made for it.
fn outcome(kind: KindName, spec: &Value) -> String {
    let mut cluster = Cluster::new();
    chain(&mut cluster);
    cluster.settle();
    cluster.apply(kind, "probe", spec.clone());
    cluster.settle();
    let object = &cluster.objects[&key(kind, "probe")];
    let children: Vec<String> = cluster
        .children
        .iter()
        .filter(|((_, name), _)| name.contains("-probe-") || name.ends_with("-probe"))
        .map(|(_, child)| child.to_string())
        .collect();
    format!("{}\n{}", object["status"], children.join("\n"))
}

#[test]
fn another_value_of_any_field_changes_what_becomes_of_the_object() {
    let mut ignored = Vec::new();
    let mut tried = 0;
    for definition in definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let name = definition["spec"]["names"]["kind"].as_str().unwrap();
        let kind = KindName::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .unwrap();
        let mut fields = Vec::new();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        leaves(&schema["properties"]["spec"], "", &mut fields);
        let base = rich(kind);
        let before = outcome(kind, &base);
        assert!(
            before.contains(r#""status":"True","type":"Ready""#),
            "{before}"
        );
        for field in fields {
            let named =
                |name: &str| field == name || (name.ends_with('.') && field.starts_with(name));
            if AT_EVENTS.iter().any(|(name, _)| named(name)) {
                continue;
            }
            let Some(changes) = other(kind, &field) else {
                continue;
            };
            let mut spec = base.clone();
            for (path, value) in changes {
                set(&mut spec, path, value);
            }
            tried += 1;
            if outcome(kind, &spec) == before {
                ignored.push(format!("{kind} spec.{field}"));
            }
        }
    }
    assert!(tried > 150, "{tried}");
    assert!(ignored.is_empty(), "ignored: {ignored:#?}");
}

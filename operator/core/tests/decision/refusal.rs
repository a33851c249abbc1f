//! What resolve refuses or waits for, by name of field and reason; the list of what is not built.

use std::collections::BTreeSet;

use bessemer_api::Kind as KindName;
use bessemer_core::unimplemented::{TABLE, When};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};
use crate::fixture::{dataset, evaluation, pretrain, served, tune};
use crate::kstatus::{Verdict, verdict};

/// A valid spec of a kind.
fn valid(kind: KindName) -> Value {
    match kind {
        KindName::Dataset => dataset("Pretraining"),
        KindName::PretrainJob => pretrain(&["text"]),
        KindName::FineTune => tune("PretrainJob", "base", "pairs"),
        KindName::Evaluation => evaluation("PretrainJob", "base", "pairs"),
        KindName::Deployment => served("PretrainJob", "base", "score"),
    }
}

/// A value of the right type for fields that are refused when present.
fn present(field: &str) -> Value {
    let dataset = json!({"datasetRef": {"name": "x"}});
    match field.trim_start_matches("suites[].") {
        "sources[].deploymentRef" => json!({"name": "x"}),
        "schedule" | "model.sparsePattern" => json!("0 0 * * *"),
        "clean.profiles" => json!(["gopher@1"]),
        "privacy" => json!({"entities": ["Email"], "action": "Redact"}),
        "decontaminate" => json!({"evaluationRefs": [{"name": "x"}]}),
        "toxicity" if !field.starts_with("suites") => json!({"maxScore": 0.5}),
        "erasures" => json!(["x"]),
        "model.mixtureOfExperts" => json!({"experts": 8, "active": 2}),
        "workers.minReplicas" | "workers.maxReplicas" => json!(1),
        "budget" => json!({"maxGpuHours": 1.0}),
        "rewardModel" => json!({}),
        "ppo" => json!({"rewardModelRef": {"name": "x"}}),
        "dpo" => json!({}),
        "grpo" => json!({"reward": "x"}),
        "distillation" => json!({"teacherRef": {"kind": "FineTune", "name": "x"}}),
        "retrain" => json!({"onDatasetChange": true}),
        "multipleChoice" => json!({"task": "mmlu"}),
        "bias" => json!({"task": "bbq", "datasetRef": {"name": "x"}}),
        "autoscaling" => json!({"minReplicas": 1, "maxReplicas": 2}),
        "route" => json!({"parentRefs": [{"name": "x"}]}),
        "filter" => json!({"keywords": ["x"]}),
        "retrieval" if !field.starts_with("suites") => json!({"datasetRef": {"name": "x"}}),
        "adapters" => json!([{"name": "x", "fineTuneRef": {"name": "x"}}]),
        "toxicity" | "fairness" | "stress" | "retrieval" | "human" => dataset,
        other => panic!("no value for {other}"),
    }
}

pub fn set(spec: &mut Value, path: &str, content: Value) {
    let mut at = spec;
    for part in path.split('.') {
        let (name, first) = part
            .strip_suffix("[]")
            .map_or((part, false), |name| (name, true));
        at = &mut at[name];
        if first {
            at = &mut at[0];
        }
    }
    *at = content;
}

#[test]
fn every_field_of_the_table_is_refused_by_name_and_nothing_else_is() {
    for kind in KindName::ALL {
        let mut cluster = Cluster::new();
        cluster.apply(kind, "x", valid(kind));
        cluster.reconcile(&key(kind, "x"));
        assert_ne!(cluster.reason(&key(kind, "x")), "NotImplemented", "{kind}");
    }
    for entry in TABLE {
        let values: Vec<Value> = match entry.when {
            When::Present => vec![present(entry.field)],
            When::True => vec![json!(true)],
            When::Is(words) => words.iter().map(|word| json!(word)).collect(),
            When::Starts(words) => words
                .iter()
                .map(|word| json!(format!("{word}example.org/x")))
                .collect(),
            When::Above(number) => vec![json!(number + 1)],
        };
        for value in values {
            let mut cluster = Cluster::new();
            let mut spec = valid(entry.kind);
            set(&mut spec, entry.field, value.clone());
            cluster.apply(entry.kind, "x", spec);
            let object = key(entry.kind, "x");
            cluster.settle();
            assert_eq!(
                cluster.reason(&object),
                "NotImplemented",
                "{} = {value}",
                entry.line()
            );
            let field = entry.field.replace("[]", "[0]");
            assert!(
                cluster.message(&object).contains(&format!("spec.{field}")),
                "{}",
                cluster.message(&object)
            );
            assert_eq!(verdict(&cluster.objects[&object]), Verdict::Failed);
            assert!(cluster.children.is_empty(), "nothing is started");
            // O3: a good spec after a bad one.
            cluster.apply(entry.kind, "x", valid(entry.kind));
            cluster.reconcile(&object);
            assert_ne!(cluster.reason(&object), "NotImplemented");
        }
    }
}

#[test]
fn the_list_of_what_is_not_built() {
    let lines: BTreeSet<String> = TABLE
        .iter()
        .map(|entry| format!("{} {}", entry.kind, entry.line()))
        .collect();
    assert_eq!(lines.len(), TABLE.len(), "no entry twice");
    insta::assert_snapshot!(lines.into_iter().collect::<Vec<_>>().join("\n"));
}

/// What may be unbuilt while there is a chain from text to a served model; a field outside it has to work. GPUs above
/// one and elastic workers are parallelism: a worker computes on one GPU.
const MAY_BE_OPEN: &[(KindName, &[&str])] = &[
    (
        KindName::Dataset,
        &[
            "sources[].uri",
            "sources[].format",
            "sources[].deploymentRef",
            "clean.profiles",
            "deduplicate.near",
            "deduplicate.substring",
            "privacy",
            "decontaminate",
            "toxicity",
            "tokenizer.train.algorithm",
            "erasures",
            "schedule",
            "parallelism",
        ],
    ),
    (
        KindName::PretrainJob,
        &[
            "model.family",
            "model.preset",
            "model.positions",
            "model.sparsePattern",
            "model.mixtureOfExperts",
            "objective",
            "budget",
        ],
    ),
    (
        KindName::FineTune,
        &[
            "rewardModel",
            "ppo",
            "dpo",
            "grpo",
            "distillation",
            "retrain",
        ],
    ),
    (KindName::Evaluation, &["suites[]"]),
    (
        KindName::Deployment,
        &[
            "engine",
            "quantization",
            "autoscaling",
            "rollout.shadow",
            "filter",
            "retrieval",
            "feedback",
            "adapters",
            "route",
        ],
    ),
];

/// The same for every kind that has them.
const MAY_BE_OPEN_IN_ALL: &[&str] = &[
    "training.optimizer",
    "training.precision",
    "training.activationCheckpointing",
    "parallelism",
    "workers",
    "resources.gpus",
];

#[test]
fn only_what_may_be_open_is_refused() {
    let below = |field: &str, part: &str| {
        let rest = field.strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for entry in TABLE {
        let (_, own) = MAY_BE_OPEN
            .iter()
            .find(|(kind, _)| *kind == entry.kind)
            .unwrap();
        let mut parts = own.iter().chain(MAY_BE_OPEN_IN_ALL);
        assert!(
            parts.any(|part| below(entry.field, part)),
            "{} has to work",
            entry.line()
        );
        let number = entry.field.ends_with("gpus") || entry.field.starts_with("parallelism.");
        if let (true, When::Above(least)) = (number, entry.when) {
            assert_eq!(least, 1, "{}: one has to work", entry.line());
        }
    }
}

/// Applies `objects`, settles, and returns reason and message of the last one.
fn outcome(objects: &[(KindName, &str, Value)]) -> (String, String, Verdict) {
    let mut cluster = Cluster::new();
    for (kind, name, spec) in objects {
        cluster.apply(*kind, name, spec.clone());
    }
    cluster.settle();
    let (kind, name, _) = objects.last().unwrap();
    let object = key(*kind, name);
    (
        cluster.reason(&object),
        cluster.message(&object),
        verdict(&cluster.objects[&object]),
    )
}

#[test]
fn each_reason_has_its_case() {
    use KindName::{Dataset, Deployment, Evaluation, FineTune, PretrainJob};
    let text = || (Dataset, "text", dataset("Pretraining"));
    let pairs = || (Dataset, "pairs", dataset("Instruction"));
    let base = || (PretrainJob, "base", pretrain(&["text"]));
    let with = |mut spec: Value, path: &str, value: Value| {
        set(&mut spec, path, value);
        spec
    };
    let stuck = Verdict::Failed;
    let waits = Verdict::InProgress;
    type Given = Vec<(KindName, &'static str, Value)>;
    let cases: Vec<(Given, &str, &str, Verdict)> = vec![
        (
            vec![base()],
            "DependencyMissing",
            "spec.datasets[text] names Dataset text",
            waits,
        ),
        (
            vec![
                (
                    Dataset,
                    "text",
                    with(dataset("Pretraining"), "suspend", json!(true)),
                ),
                base(),
            ],
            "DependencySuspended",
            "Dataset text",
            waits,
        ),
        (
            vec![
                (
                    Dataset,
                    "text",
                    with(dataset("Pretraining"), "schedule", json!("0 0 * * *")),
                ),
                base(),
            ],
            "DependencyFailed",
            "NotImplemented",
            stuck,
        ),
        (
            vec![pairs(), (PretrainJob, "base", pretrain(&["pairs"]))],
            "DependencyUnfit",
            "purpose is Instruction",
            stuck,
        ),
        (
            vec![
                text(),
                base(),
                (FineTune, "chat", tune("PretrainJob", "base", "text")),
            ],
            "DependencyUnfit",
            "must be Instruction",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(pretrain(&["text"]), "training.batchTokens", json!(100)),
                ),
            ],
            "InvalidSpec",
            "batchTokens",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(pretrain(&["text"]), "training.microBatch", json!(3)),
                ),
            ],
            "InvalidSpec",
            "microBatch",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(pretrain(&["text"]), "parallelism", json!({"data": 3})),
                ),
            ],
            "InvalidSpec",
            "spec.parallelism.data (3) must divide the 16 sequences of a batch",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(
                        with(pretrain(&["text"]), "parallelism", json!({"data": 2})),
                        "training.microBatch",
                        json!(16),
                    ),
                ),
            ],
            "InvalidSpec",
            "spec.training.microBatch (16) must divide the 8 sequences of each rank's share",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(pretrain(&["text"]), "training.warmupSteps", json!(101)),
                ),
            ],
            "InvalidSpec",
            "warmupSteps",
            stuck,
        ),
        (
            vec![
                text(),
                (
                    PretrainJob,
                    "base",
                    with(pretrain(&["text"]), "model.heads", json!(3)),
                ),
            ],
            "InvalidSpec",
            "hiddenSize 128",
            stuck,
        ),
        (
            vec![(
                Dataset,
                "d",
                with(
                    dataset("Pretraining"),
                    "tokenizer.train.vocabularySize",
                    json!(100),
                ),
            )],
            "InvalidSpec",
            "vocabularySize",
            stuck,
        ),
        (
            vec![
                text(),
                base(),
                pairs(),
                (
                    FineTune,
                    "chat",
                    with(
                        tune("PretrainJob", "base", "pairs"),
                        "training.tokens",
                        json!("1M"),
                    ),
                ),
            ],
            "InvalidSpec",
            "spec.training.tokens",
            stuck,
        ),
        (
            vec![
                text(),
                base(),
                pairs(),
                (
                    FineTune,
                    "chat",
                    with(
                        tune("PretrainJob", "base", "pairs"),
                        "supervised.sequenceLength",
                        json!(512),
                    ),
                ),
            ],
            "InvalidSpec",
            "context of 256",
            stuck,
        ),
        (
            vec![
                (FineTune, "b", tune("FineTune", "a", "pairs")),
                (FineTune, "a", tune("FineTune", "b", "pairs")),
            ],
            "Cycle",
            "FineTune a -> FineTune b -> FineTune a",
            stuck,
        ),
        (
            vec![
                text(),
                base(),
                (Evaluation, "score", evaluation("FineTune", "none", "text")),
            ],
            "DependencyMissing",
            "FineTune none",
            waits,
        ),
        (
            vec![
                text(),
                base(),
                (Deployment, "m", served("PretrainJob", "base", "none")),
            ],
            "DependencyMissing",
            "Evaluation none",
            waits,
        ),
        (
            vec![
                text(),
                base(),
                (
                    Deployment,
                    "m",
                    with(
                        served("PretrainJob", "base", "none"),
                        "gates[].expression",
                        json!("results["),
                    ),
                ),
            ],
            "GateInvalid",
            "no CEL expression",
            stuck,
        ),
        (
            vec![(
                Deployment,
                "m",
                json!({"modelRef": {"uri": "s3://models/none"}}),
            )],
            "DependencyMissing",
            "holds no manifest.json",
            waits,
        ),
    ];
    for (objects, reason, part, wanted) in cases {
        let (found, message, seen) = outcome(&objects);
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(part), "{reason}: {message}");
        assert_eq!(seen, wanted, "{reason}: {message}");
    }
}

#[test]
fn a_language_that_cannot_be_told_apart_is_refused_with_those_that_can() {
    let mut cluster = Cluster::new();
    let mut spec = dataset("Pretraining");
    spec["clean"] = json!({"language": {"code": "xyz"}});
    cluster.apply(KindName::Dataset, "x", spec);
    cluster.settle();
    let object = key(KindName::Dataset, "x");
    assert_eq!(cluster.reason(&object), "InvalidSpec");
    let message = cluster.message(&object);
    assert!(
        message.contains("spec.clean.language.code is xyz") && message.contains(" eng, "),
        "{message}"
    );
}

#[test]
fn files_of_one_machine_are_refused_in_a_cluster() {
    let mut cluster = Cluster::new();
    cluster.settings.local = false;
    cluster.apply(KindName::Dataset, "x", dataset("Pretraining"));
    cluster.settle();
    assert_eq!(cluster.reason(&key(KindName::Dataset, "x")), "InvalidSpec");
    assert!(
        cluster
            .message(&key(KindName::Dataset, "x"))
            .contains("s3://")
    );
}

#[test]
fn a_missing_reference_is_waited_for_and_the_next_step_is_told() {
    let mut cluster = Cluster::new();
    let base = key(KindName::PretrainJob, "base");
    cluster.apply(KindName::PretrainJob, "base", pretrain(&["text"]));
    cluster.settle();
    assert!(
        cluster.message(&base).ends_with("Apply the named object."),
        "{}",
        cluster.message(&base)
    );
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.settle();
    assert_eq!(cluster.reason(&base), "Complete");
}

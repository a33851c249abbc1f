//! Owns the one table of spec fields whose work is not built yet. It must not refuse anything else: resolve reads it,
//! a test lists it, and docs/status.md is written from it.

use bessemer_api::Kind as KindName;
use serde::Serialize;
use serde_json::Value;

use crate::reason::{self, Invalid};

/// When a field asks for something that is not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It is there.
    Present,
    /// It is true.
    True,
    /// It is one of these words.
    Is(&'static [&'static str]),
    /// It starts with one of these.
    Starts(&'static [&'static str]),
    /// It is a larger number.
    Above(i64),
}

/// A field, and when it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Unimplemented {
    /// Kind.
    pub kind: KindName,
    /// Path below spec; `[]` stands for every element.
    pub field: &'static str,
    /// When.
    pub when: When,
}

const fn no(kind: KindName, field: &'static str, when: When) -> Unimplemented {
    Unimplemented { kind, field, when }
}

use KindName::{Dataset, Deployment, Evaluation, FineTune, PretrainJob};
use When::{Above, Is, Present, Starts, True};

/// Everything that is not built yet.
pub const TABLE: &[Unimplemented] = &[
    no(
        Dataset,
        "sources[].uri",
        Starts(&["http://", "https://", "pvc://", "git+"]),
    ),
    no(
        Dataset,
        "sources[].format",
        Is(&["Parquet", "Warc", "Pdf", "Epub", "Latex"]),
    ),
    no(Dataset, "sources[].deploymentRef", Present),
    no(Dataset, "clean.profiles", Present),
    no(Dataset, "deduplicate.near", True),
    no(Dataset, "deduplicate.substring", True),
    no(Dataset, "privacy", Present),
    no(Dataset, "decontaminate", Present),
    no(Dataset, "toxicity", Present),
    no(
        Dataset,
        "tokenizer.train.algorithm",
        Is(&["Unigram", "WordPiece"]),
    ),
    no(Dataset, "erasures", Present),
    no(Dataset, "schedule", Present),
    no(Dataset, "parallelism", Above(1)),
    no(PretrainJob, "model.family", Is(&["Mixtral", "MPT", "BERT"])),
    no(PretrainJob, "model.preset", Is(&["7B", "70B", "175B"])),
    no(PretrainJob, "model.positions", Is(&["ALiBi"])),
    no(PretrainJob, "model.sparsePattern", Present),
    no(PretrainJob, "model.mixtureOfExperts", Present),
    no(PretrainJob, "objective", Is(&["MaskedLanguageModel"])),
    no(PretrainJob, "training.optimizer", Is(&["Muon"])),
    no(PretrainJob, "training.precision", Is(&["FP16", "FP8"])),
    no(PretrainJob, "training.activationCheckpointing", True),
    no(PretrainJob, "parallelism.tensor", Above(1)),
    no(PretrainJob, "parallelism.pipeline", Above(1)),
    no(PretrainJob, "parallelism.context", Above(1)),
    no(PretrainJob, "parallelism.expert", Above(1)),
    no(
        PretrainJob,
        "parallelism.sharding",
        Is(&["Optimizer", "Full"]),
    ),
    no(PretrainJob, "workers.gpus", Above(1)),
    no(PretrainJob, "resources.gpus", Above(1)),
    no(PretrainJob, "workers.minReplicas", Present),
    no(PretrainJob, "workers.maxReplicas", Present),
    no(PretrainJob, "budget", Present),
    no(FineTune, "rewardModel", Present),
    no(FineTune, "ppo", Present),
    no(FineTune, "dpo", Present),
    no(FineTune, "grpo", Present),
    no(FineTune, "distillation", Present),
    no(FineTune, "retrain", Present),
    no(FineTune, "training.optimizer", Is(&["Muon"])),
    no(FineTune, "training.precision", Is(&["FP16", "FP8"])),
    no(FineTune, "training.activationCheckpointing", True),
    no(FineTune, "parallelism.tensor", Above(1)),
    no(FineTune, "parallelism.pipeline", Above(1)),
    no(FineTune, "parallelism.context", Above(1)),
    no(FineTune, "parallelism.expert", Above(1)),
    no(FineTune, "parallelism.sharding", Is(&["Optimizer", "Full"])),
    no(FineTune, "workers.gpus", Above(1)),
    no(FineTune, "resources.gpus", Above(1)),
    no(FineTune, "workers.minReplicas", Present),
    no(FineTune, "workers.maxReplicas", Present),
    no(Evaluation, "suites[].multipleChoice", Present),
    no(Evaluation, "suites[].bias", Present),
    no(Evaluation, "suites[].toxicity", Present),
    no(Evaluation, "suites[].fairness", Present),
    no(Evaluation, "suites[].stress", Present),
    no(Evaluation, "suites[].retrieval", Present),
    no(Evaluation, "suites[].human", Present),
    no(Evaluation, "resources.gpus", Above(1)),
    no(Deployment, "engine", Is(&["VLLM", "TensorRTLLM"])),
    no(Deployment, "quantization", Is(&["INT8", "FP8"])),
    no(Deployment, "autoscaling", Present),
    no(Deployment, "rollout.shadow", True),
    no(Deployment, "filter", Present),
    no(Deployment, "retrieval", Present),
    no(Deployment, "feedback.enabled", True),
    no(Deployment, "adapters", Present),
    no(Deployment, "resources.gpus", Above(1)),
];

impl Unimplemented {
    /// One line for people: `spec.training.precision: FP16, FP8`.
    pub fn line(&self) -> String {
        match self.when {
            Present => format!("spec.{}", self.field),
            True => format!("spec.{}: true", self.field),
            Is(words) => format!("spec.{}: {}", self.field, words.join(", ")),
            Starts(words) => format!("spec.{}: {}...", self.field, words.join("..., ")),
            Above(number) => format!("spec.{} above {number}", self.field),
        }
    }

    fn hits(&self, value: &Value) -> bool {
        match self.when {
            Present => !value.is_null(),
            True => value == &Value::Bool(true),
            Is(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Starts(words) => value
                .as_str()
                .is_some_and(|text| words.iter().any(|word| text.starts_with(word))),
            Above(number) => value.as_i64().is_some_and(|found| found > number),
        }
    }
}

/// Refuses a spec that asks for something of the table.
///
/// # Errors
/// NotImplemented with every such field.
pub fn check(kind: KindName, spec: &impl Serialize) -> Result<(), Invalid> {
    let spec = serde_json::to_value(spec).unwrap_or_default();
    let mut found = Vec::new();
    for entry in TABLE.iter().filter(|entry| entry.kind == kind) {
        visit(&spec, entry.field, "spec".into(), &mut |path, value| {
            if entry.hits(value) {
                let shown = value
                    .as_str()
                    .map(|text| format!(" {text}"))
                    .unwrap_or_default();
                found.push(format!("{path}{shown}"));
            }
        });
    }
    if found.is_empty() {
        return Ok(());
    }
    let verb = if found.len() == 1 { "is" } else { "are" };
    Err(Invalid::terminal(
        reason::NOT_IMPLEMENTED,
        format!("{} {verb} not built yet", found.join(", ")),
    ))
}

/// Calls `seen` with every value at `path`.
fn visit(value: &Value, path: &str, at: String, seen: &mut impl FnMut(&str, &Value)) {
    let (head, rest) = path
        .split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)));
    let (name, each) = head
        .strip_suffix("[]")
        .map_or((head, false), |name| (name, true));
    let Some(inner) = value.get(name) else { return };
    let at = format!("{at}.{name}");
    let mut go = |value: &Value, at: String| match rest {
        Some(rest) => visit(value, rest, at, seen),
        None => seen(&at, value),
    };
    match inner.as_array().filter(|_| each) {
        Some(elements) => {
            for (index, element) in elements.iter().enumerate() {
                go(element, format!("{at}[{index}]"));
            }
        }
        None => go(inner, at),
    }
}

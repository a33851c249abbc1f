//! Owns the kind Evaluation: a model to numbers.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{ModelRef, NamedRef};
use crate::status::CommonStatus;
use crate::training::{ObjectPolicy, RunPolicy};

/// Suites that score a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bessemer.dev", version = "v1alpha1", kind = "Evaluation", namespaced, status = "EvaluationStatus",
    shortname = "eval", category = "bessemer", derive = "PartialEq",
    doc = "A model scored by suites.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Metric", type_ = "string", json_path = ".status.headline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name has at most 40 characters, so that the names of children fit")
)]
pub struct EvaluationSpec {
    /// Model that is scored; a new digest opens a new run.
    pub model_ref: ModelRef,
    /// Model it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_ref: Option<ModelRef>,
    /// Suites.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub suites: Vec<EvaluationSuite>,
    /// Seed of sampling and bootstrap.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9007199254740991i64))]
    pub seed: i64,
    /// Bootstrap draws for intervals.
    #[serde(default = "draws")]
    #[schemars(range(min = 100, max = 100000))]
    pub bootstrap_samples: i32,
    /// Fields of every kind.
    #[serde(flatten)]
    pub policy: ObjectPolicy,
    /// Fields of every run-to-completion kind.
    #[serde(flatten)]
    pub run: RunPolicy,
}

fn draws() -> i32 {
    1000
}

/// A suite: a name and exactly one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.perplexity), has(self.generation), has(self.multipleChoice), has(self.bias), has(self.toxicity), has(self.fairness), has(self.stress), has(self.retrieval), has(self.human)].filter(x, x).size() == 1").message("give exactly one measure: perplexity, generation, multipleChoice, bias, toxicity, fairness, stress, retrieval or human"))]
pub struct EvaluationSuite {
    /// Unique name within the evaluation; gates refer to it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Perplexity of held-out text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
    /// Generated answers against references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Multiple choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_choice: Option<MultipleChoice>,
    /// Bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Bias>,
    /// Toxicity of continuations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toxicity: Option<DatasetSuite>,
    /// Disparate impact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fairness: Option<DatasetSuite>,
    /// Perturbations and long context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<DatasetSuite>,
    /// Retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<DatasetSuite>,
    /// Judges and votes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<Human>,
}

/// Which tokens are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScoredText {
    /// All tokens of a document.
    #[default]
    Document,
    /// Only answers, under the chat template.
    Answer,
}

/// Perplexity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Perplexity {
    /// Dataset whose validation split is scored.
    pub dataset_ref: NamedRef,
    /// Documents at most; 0 means all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100000000))]
    pub limit: i64,
    /// Which tokens are scored.
    #[serde(default)]
    pub scored_text: ScoredText,
}

/// Metric of generated text.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum TextMetric {
    /// Corpus BLEU (sacrebleu 2.6.0).
    BLEU,
    /// chrF (sacrebleu 2.6.0).
    ChrF,
    /// ROUGE-1, 2, L, Lsum (rouge-score 0.1.2).
    ROUGE,
}

/// Generated answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Instruction dataset whose validation split gives prompts and references.
    pub dataset_ref: NamedRef,
    /// Prompts at most; 0 means all.
    #[serde(default = "prompts")]
    #[schemars(range(min = 0, max = 1000000))]
    pub limit: i64,
    /// Metrics; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub metrics: Vec<TextMetric>,
    /// Longest answer in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_tokens: i32,
    /// 0 is greedy.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: f64,
    /// Nucleus.
    #[serde(default = "top_p")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
}

fn prompts() -> i64 {
    100
}
fn max_tokens() -> i32 {
    64
}
fn top_p() -> f64 {
    1.0
}

/// Multiple choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.task) != has(self.datasetRef)").message("give either task or datasetRef"))]
pub struct MultipleChoice {
    /// Known task (`mmlu`, `glue`, `superglue`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub task: Option<String>,
    /// Own JSONL task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NamedRef>,
    /// Examples in the prompt.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub few_shot: i32,
}

/// Bias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bias {
    /// `stereoset`, `crows-pairs` or `bbq`.
    #[schemars(length(min = 1, max = 63))]
    pub task: String,
    /// Its records.
    pub dataset_ref: NamedRef,
}

/// A suite that only needs records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSuite {
    /// Records.
    pub dataset_ref: NamedRef,
}

/// Human evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Human {
    /// Prompts.
    pub dataset_ref: NamedRef,
    /// Votes per pair.
    #[serde(default = "votes")]
    #[schemars(range(min = 1, max = 100))]
    pub votes: i32,
}

fn votes() -> i32 {
    3
}

/// Status of an Evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationStatus {
    /// Common fields.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Numbers of the last successful run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub results: Vec<MetricResult>,
    /// First number, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
}

/// One number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricResult {
    /// Suite.
    pub suite: String,
    /// Metric.
    pub metric: String,
    /// Value; absent when it could not be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Lower end of the 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Documents or prompts.
    pub samples: i64,
    /// Direction of better.
    pub higher_is_better: bool,
}

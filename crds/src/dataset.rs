//! Owns the kind Dataset: text to cleaned, deduplicated, tokenised shards.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::count::Count;
use crate::reference::{NamedRef, SecretRef};
use crate::status::CommonStatus;
use crate::training::{ObjectPolicy, RunPolicy};

/// A dataset: sources, how they are cleaned, and the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bessemer.dev", version = "v1alpha1", kind = "Dataset", namespaced, status = "DatasetStatus",
    shortname = "dset", category = "bessemer", derive = "PartialEq",
    doc = "A dataset: text that is collected, cleaned, deduplicated, tokenised and split.",
    selectable = ".spec.purpose",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Tokens", type_ = "string", json_path = ".status.headline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name has at most 40 characters, so that the names of children fit")
)]
#[x_kube(validation = Rule::new("has(self.tokenizer) || self.purpose != 'Pretraining'").message("a dataset with purpose Pretraining needs a tokenizer"))]
#[x_kube(validation = Rule::new("self.sources.exists(s, has(s.uri) || has(s.deploymentRef))").message("give at least one source"))]
#[x_kube(validation = Rule::new("!has(self.resources) || !has(self.resources.gpus) || self.resources.gpus == 0").message("a dataset is prepared on CPUs; leave resources.gpus out"))]
pub struct DatasetSpec {
    /// What the dataset is for.
    #[x_kube(validation = Rule::new("self == oldSelf").message("purpose is immutable; create another Dataset"))]
    pub purpose: DatasetPurpose,
    /// Where text comes from.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sources: Vec<DatasetSource>,
    /// Cleaning and filters.
    #[serde(default)]
    pub clean: DatasetClean,
    /// Deduplication.
    #[serde(default)]
    pub deduplicate: Deduplicate,
    /// Personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// Licences.
    #[serde(default)]
    pub licenses: Licenses,
    /// Evaluations whose text must not be in here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<Decontaminate>,
    /// Toxicity filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toxicity: Option<Toxicity>,
    /// Tokenizer: train one or take another dataset's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<DatasetTokenizer>,
    /// Training and validation.
    #[serde(default)]
    pub split: DatasetSplit,
    /// Keys of subjects whose documents are forgotten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub erasures: Vec<String>,
    /// Cron schedule for new versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 64))]
    pub schedule: Option<String>,
    /// Pods that prepare at the same time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub parallelism: i32,
    /// Fields of every kind.
    #[serde(flatten)]
    pub policy: ObjectPolicy,
    /// Fields of every run-to-completion kind.
    #[serde(flatten)]
    pub run: RunPolicy,
}

fn one() -> i32 {
    1
}

/// What a dataset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DatasetPurpose {
    /// Plain text to token shards.
    Pretraining,
    /// Prompts with answers.
    Instruction,
    /// Prompts with a chosen and a rejected answer.
    Preference,
    /// Prompts only.
    Prompts,
    /// Records of an evaluation.
    Evaluation,
    /// Documents for retrieval.
    Retrieval,
}

/// One source of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.uri) != has(self.deploymentRef)").message("give either uri or deploymentRef"))]
#[x_kube(validation = Rule::new("!has(self.credentialsSecretRef) || (has(self.uri) && self.uri.startsWith('s3://'))").message("credentialsSecretRef is for s3:// sources only"))]
#[x_kube(validation = Rule::new("!has(self.subjectField) || self.format == 'Jsonl'").message("subjectField needs format: Jsonl, since only JSON records have fields"))]
pub struct DatasetSource {
    /// Unique name within the dataset.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// `s3://bucket/prefix`, `http(s)://...`, `pvc://claim/path`, `git+https://...`, or `file:///directory` in local mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 6, max = 1024),
        regex(pattern = "^(s3|https?|pvc|file|git\\+https?|git\\+ssh)://")
    )]
    pub uri: Option<String>,
    /// Endpoint of a foreign S3 store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 256), regex(pattern = "^https?://"))]
    pub endpoint: Option<String>,
    /// Keys of a foreign store, for this source alone: a Secret of the namespace with AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY; AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL (which `endpoint` overrides) are
    /// optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Deployment whose collected feedback is the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_ref: Option<NamedRef>,
    /// Globs of paths to read; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
    /// Format of the files.
    #[serde(default)]
    pub format: SourceFormat,
    /// Field of JSON records that holds the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub text_field: Option<String>,
    /// SPDX expression of documents that name none themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub license: Option<String>,
    /// Basis on which personal text may be used; kept as provenance of each document and counted in status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub consent: Option<String>,
    /// Field of JSON records (format Jsonl) that holds the subject's key, for erasure. Only its SHA-256 is kept, beside
    /// the documents; records without one are removed with the reason `noSubject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub subject_field: Option<String>,
    /// Share relative to the source's own size.
    #[serde(default = "weight")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub weight: f64,
}

fn weight() -> f64 {
    1.0
}

/// Format of a source's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceFormat {
    /// By extension and content.
    #[default]
    Auto,
    /// Plain text.
    Text,
    /// Markdown.
    Markdown,
    /// HTML.
    Html,
    /// Source code.
    Code,
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// Web archives.
    Warc,
    /// PDF.
    Pdf,
    /// EPUB.
    Epub,
    /// LaTeX.
    Latex,
}

/// Unicode normalisation form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnicodeForm {
    /// As it is.
    None,
    /// Canonical composition.
    #[default]
    NFC,
    /// Compatibility composition.
    NFKC,
}

/// Cleaning and filters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minCharacters <= self.maxCharacters").message("minCharacters must not exceed maxCharacters"))]
pub struct DatasetClean {
    /// Unicode normalisation.
    #[serde(default)]
    pub unicode: UnicodeForm,
    /// Language that documents must have; others are removed with the reason `language`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Shortest document kept, in characters.
    #[serde(default = "min_characters")]
    #[schemars(range(min = 0, max = 1000000000))]
    pub min_characters: i64,
    /// Longest document kept, in characters.
    #[serde(default = "max_characters")]
    #[schemars(range(min = 1, max = 1000000000))]
    pub max_characters: i64,
    /// Drop documents that repeat themselves, by Gopher's thresholds over white-space words.
    #[serde(default = "yes")]
    pub repetition: bool,
    /// Filter profiles of the peers, by name and version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]+@[a-z0-9.-]+$"))
    )]
    pub profiles: Vec<String>,
}

fn min_characters() -> i64 {
    32
}
fn max_characters() -> i64 {
    10_000_000
}
fn yes() -> bool {
    true
}

impl Default for DatasetClean {
    fn default() -> Self {
        Self {
            unicode: UnicodeForm::NFC,
            language: None,
            min_characters: min_characters(),
            max_characters: max_characters(),
            repetition: true,
            profiles: Vec::new(),
        }
    }
}

/// Language filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Language {
    /// ISO 639-3 code, such as `eng`, of one of 70 languages.
    #[schemars(length(min = 3, max = 3), regex(pattern = "^[a-z]{3}$"))]
    pub code: String,
    /// Least confidence. Short texts and close relatives (Norwegian and Danish, Croatian and Serbian) score low: measure
    /// before filtering texts of less than a hundred characters.
    #[serde(default = "language_score")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_score: f64,
}

fn language_score() -> f64 {
    0.65
}

/// Deduplication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deduplicate {
    /// Drop documents whose normalised text was seen before.
    #[serde(default = "yes")]
    pub exact: bool,
    /// Drop near duplicates by MinHash.
    #[serde(default)]
    pub near: bool,
    /// Cut repeated substrings.
    #[serde(default)]
    pub substring: bool,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self {
            exact: true,
            near: false,
            substring: false,
        }
    }
}

/// What happens to personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrivacyAction {
    /// Replace the span.
    Redact,
    /// Drop the document.
    Drop,
}

/// Personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Privacy {
    /// Entity types.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub entities: Vec<String>,
    /// What happens to them.
    pub action: PrivacyAction,
}

/// Licence policy over SPDX identifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Licenses {
    /// Only these; empty allows everything that is not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub allow: Vec<String>,
    /// Never these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub deny: Vec<String>,
}

/// Decontamination against evaluations; reads only their spec, so it is no build edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decontaminate {
    /// Evaluations.
    #[schemars(length(min = 1, max = 32))]
    pub evaluation_refs: Vec<NamedRef>,
    /// Words of an overlapping span.
    #[serde(default = "ngram")]
    #[schemars(range(min = 5, max = 50))]
    pub ngram: i32,
}

fn ngram() -> i32 {
    13
}

/// Toxicity filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toxicity {
    /// Highest score kept.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_score: f64,
}

/// Tokenizer algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenizerAlgorithm {
    /// Byte-level byte-pair encoding.
    #[default]
    BPE,
    /// Unigram language model.
    Unigram,
    /// WordPiece.
    WordPiece,
}

/// Tokenizer: exactly one of `train` and `datasetRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.train) != has(self.datasetRef)").message("give either train or datasetRef"))]
pub struct DatasetTokenizer {
    /// Train one on the training split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainTokenizer>,
    /// Take another dataset's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NamedRef>,
}

/// A tokenizer to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainTokenizer {
    /// Algorithm.
    #[serde(default)]
    pub algorithm: TokenizerAlgorithm,
    /// Number of ids, special tokens included; 512 to 1,000,000.
    pub vocabulary_size: Count,
    /// Special tokens beyond the built-in ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub special_tokens: Vec<String>,
}

/// Split into training and validation by document hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSplit {
    /// Share held out.
    #[serde(default = "validation")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub validation: f64,
    /// Key of the hash.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9007199254740991i64))]
    pub seed: i64,
}

fn validation() -> f64 {
    0.1
}

impl Default for DatasetSplit {
    fn default() -> Self {
        Self {
            validation: validation(),
            seed: 0,
        }
    }
}

/// Status of a Dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatus {
    /// Common fields.
    #[serde(flatten)]
    pub common: CommonStatus,
    /// Counts of the last successful run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<DatasetStatistics>,
    /// Tokens of the last successful run, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
    /// Counts successful runs, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// When the schedule opens the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_time: Option<Time>,
}

/// Counts of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatistics {
    /// Documents kept.
    #[serde(default)]
    pub documents: i64,
    /// Bytes of text kept.
    #[serde(default)]
    pub bytes: i64,
    /// Tokens, both splits.
    #[serde(default)]
    pub tokens: i64,
    /// Tokens held out.
    #[serde(default)]
    pub validation_tokens: i64,
    /// Ids of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary_size: Option<i64>,
    /// Documents removed, per reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<String, i64>,
    /// Duplicates removed.
    #[serde(default)]
    pub duplicates: i64,
    /// Spans redacted, per entity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub redactions: BTreeMap<String, i64>,
    /// Documents per licence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub licenses: BTreeMap<String, i64>,
    /// Documents per basis of consent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consents: BTreeMap<String, i64>,
}

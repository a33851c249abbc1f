//! Owns the parameters of evaluation.

use serde::{Deserialize, Serialize};

/// A model (input role Model, optionally Baseline) scored on records (input role Dataset).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvaluateTask {
    /// Suites in order.
    pub suites: Vec<Suite>,
    /// Seed of sampling and bootstrap.
    pub seed: u64,
    /// Bootstrap draws for the 95 % intervals.
    pub bootstrap_samples: u32,
    /// Sequences per forward pass; does not change any number.
    pub batch_size: u32,
    /// Threads.
    pub threads: u32,
}

/// One suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Suite {
    /// Unique name.
    pub name: String,
    /// Name of the input with role Dataset.
    pub dataset: String,
    /// Documents or prompts used at most, taken from the validation split in order; 0 means all.
    pub limit: u64,
    /// What is measured.
    pub measure: SuiteKind,
}

/// What a suite measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum SuiteKind {
    /// Perplexity of documents.
    Perplexity(PerplexitySuite),
    /// Answers to held-out prompts against references.
    Generation(GenerationSuite),
}

/// Which tokens of a record are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregation {
    /// All tokens of a document.
    Document,
    /// Only the answers of instruction records, under the chat template.
    Answer,
}

/// Rolling-window perplexity as lm-eval 0.4 defines it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PerplexitySuite {
    /// Which tokens are scored.
    pub aggregation: Aggregation,
}

/// Metrics of generated text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenerationMetric {
    /// Corpus BLEU, sacrebleu 2.6.0's defaults.
    Bleu,
    /// chrF, sacrebleu 2.6.0's defaults.
    Chrf,
    /// ROUGE-1, 2, L, Lsum F-measure, rouge-score 0.1.2 with stemmer.
    Rouge,
}

/// Generation parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenerationSuite {
    /// Metrics computed.
    pub metrics: Vec<GenerationMetric>,
    /// Longest answer in tokens.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
}

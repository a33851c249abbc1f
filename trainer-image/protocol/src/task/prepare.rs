//! Owns the parameters of dataset preparation.

use serde::{Deserialize, Serialize};

/// Sources to a dataset artefact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareTask {
    /// What the dataset is for; decides which files the artefact holds.
    pub purpose: Purpose,
    /// Where text comes from, in order.
    pub sources: Vec<Source>,
    /// Text cleaning and filters.
    pub clean: Clean,
    /// Drop documents whose normalised text was seen before.
    pub exact_deduplication: bool,
    /// Which licences may be used.
    pub licenses: LicensePolicy,
    /// Tokenizer to train or take; absent for purposes that keep records only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSource>,
    /// Training and validation.
    pub split: Split,
}

/// What a dataset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Plain text to token shards.
    Pretraining,
    /// Prompt and answer records.
    Instruction,
    /// Chosen and rejected answers.
    Preference,
    /// Prompts only.
    Prompts,
    /// Records of an evaluation.
    Evaluation,
    /// Documents for retrieval.
    Retrieval,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Unique name.
    pub name: String,
    /// `file:///directory` or `s3://bucket/prefix`.
    pub uri: String,
    /// Endpoint of a foreign store; absent means the artefact store's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Globs of paths to read; empty means all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Format of the files.
    pub format: Format,
    /// Field of JSON records that holds the text; for instruction records `prompt`/`response` or `messages` are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// SPDX expression for all documents that name none themselves (JSON field `license`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Basis on which personal text may be used; kept as provenance of each document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
    /// Field of JSON records that names the data subject; only its SHA-256 is kept, beside the documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_field: Option<String>,
    /// The source has keys of its own, which the worker finds in [`crate::env::source_key`]'s variables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_keys: bool,
    /// Relative weight; documents of a source with weight w are repeated or thinned to w times (1 = as is).
    pub weight: f64,
}

/// Format of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// By extension and content; `.gz` is transparent everywhere.
    Auto,
    /// Plain text, a document per file.
    Text,
    /// Markdown, a document per file.
    Markdown,
    /// HTML, the visible text of each file.
    Html,
    /// Source code, a document per file.
    Code,
    /// One JSON object per line.
    Jsonl,
}

/// Text cleaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clean {
    /// Unicode normalisation.
    pub unicode: Unicode,
    /// Shortest document kept, in characters.
    pub min_characters: u64,
    /// Longest document kept, in characters.
    pub max_characters: u64,
    /// Language that documents must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Repetition filter, absent when off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition: Option<Repetition>,
}

/// Language filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Language {
    /// One of [`LANGUAGES`].
    pub code: String,
    /// Least confidence, 0 to 1.
    pub min_score: f64,
}

/// ISO 639-3 codes of the languages that the worker can tell apart.
pub const LANGUAGES: [&str; 70] = [
    "afr", "aka", "amh", "ara", "aze", "bel", "ben", "bul", "cat", "ces", "cmn", "cym", "dan",
    "deu", "ell", "eng", "epo", "est", "fin", "fra", "guj", "heb", "hin", "hrv", "hun", "hye",
    "ind", "ita", "jav", "jpn", "kan", "kat", "khm", "kor", "lat", "lav", "lit", "mal", "mar",
    "mkd", "mya", "nep", "nld", "nob", "ori", "pan", "pes", "pol", "por", "ron", "rus", "sin",
    "slk", "slv", "sna", "spa", "srp", "swe", "tam", "tel", "tgl", "tha", "tuk", "tur", "ukr",
    "urd", "uzb", "vie", "yid", "zul",
];

/// Unicode normalisation form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unicode {
    /// As it is.
    None,
    /// Canonical composition.
    Nfc,
    /// Compatibility composition.
    Nfkc,
}

/// Which repetition filter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repetition {
    /// Gopher's repetition thresholds (Rae et al. 2021), words split at white space.
    Gopher,
}

/// Licence policy, by SPDX identifier. An empty `allow` allows everything that is not denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LicensePolicy {
    /// Only these.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Never these.
    #[serde(default)]
    pub deny: Vec<String>,
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum TokenizerSource {
    /// Train byte-level BPE on the training split.
    TrainBpe {
        /// Number of ids, special tokens included.
        vocabulary_size: u32,
        /// Special tokens in id order from 0, beyond the built-in `<|endoftext|>`, `<|user|>`, `<|assistant|>`, `<|end|>`.
        special_tokens: Vec<String>,
    },
    /// Take the tokenizer of the input with role Tokenizer.
    Input,
}

/// Split into training and validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Split {
    /// Share of documents held out, 0 to 0.5.
    pub validation: f64,
    /// Key of the hash that decides.
    pub seed: u64,
}

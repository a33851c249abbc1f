//! Owns the form of scenarios (`scenarios/*.yaml`): steps of requests, values taken from answers, waits. Must not send anything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{ConformanceError, root};

/// A scenario: steps in a namespace of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// File name without ending.
    #[serde(skip)]
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Whether controllers (garbage collection, namespaces) must run.
    #[serde(default)]
    pub controllers: bool,
    /// Whether history must be compacted every few seconds.
    #[serde(default)]
    pub compaction: bool,
    /// Requests in order.
    pub steps: Vec<Step>,
    /// Where the embedded API may differ, and why.
    #[serde(default)]
    pub exceptions: Vec<Exception>,
}

/// One request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `METHOD /path?query`; `${ns}` and saved values are filled in.
    pub request: String,
    /// Content type: `json` (default), `merge`, `json-patch`, `strategic`, `apply`, or a whole media type.
    #[serde(default)]
    pub r#type: Option<String>,
    /// `Accept` header, when it is not plain JSON.
    #[serde(default)]
    pub accept: Option<String>,
    /// Body.
    #[serde(default)]
    pub body: Option<Value>,
    /// Values to keep: name -> JSON pointer into the raw answer.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
    /// Repeat (up to 30 s) until the answer has this code.
    #[serde(default)]
    pub until: Option<u16>,
    /// Repeat (up to 30 s) until this pointer has a value (or, for null, none).
    #[serde(default)]
    pub until_value: Option<(String, Value)>,
    /// Read a watch until this many events came (its end counts too).
    #[serde(default)]
    pub events: Option<usize>,
    /// Runs the step without putting its answer into the transcript.
    #[serde(default)]
    pub silent: bool,
}

/// A difference that is accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Step, from 0, counted without silent ones.
    pub step: usize,
    /// Beginning of the JSON pointer.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// All scenarios in the order of their names.
///
/// # Errors
/// When a file cannot be read or understood.
pub fn scenarios() -> Result<Vec<Scenario>, ConformanceError> {
    let folder = root().join("scenarios");
    let failed = |path: &std::path::Path, message: String| ConformanceError::File {
        path: path.display().to_string(),
        message,
    };
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .map_err(|e| failed(&folder, e.to_string()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).map_err(|e| failed(path, e.to_string()))?;
            let mut scenario: Scenario =
                serde_yaml::from_str(&text).map_err(|e| failed(path, e.to_string()))?;
            scenario.name = path
                .file_stem()
                .and_then(|s| s.to_str())
                .unwrap_or_default()
                .to_owned();
            Ok(scenario)
        })
        .collect()
}

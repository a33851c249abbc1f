//! Owns the proof that the embedded API behaves as kube-apiserver: scenarios, transcripts and their comparison.

mod normal;
mod run;
mod scenario;

pub use normal::Normaliser;
pub use run::run;
pub use scenario::{Exception, Scenario, Step, scenarios};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What one step was answered with, normalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The request as the scenario writes it.
    pub request: String,
    /// HTTP status.
    pub code: u16,
    /// `Warning` headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Body, or the list of events of a watch.
    pub body: Value,
}

/// Why a scenario could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// A file cannot be read or understood.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A request got no answer.
    #[error("{scenario}, step {step} ({request}): {message}")]
    Request {
        /// Scenario.
        scenario: String,
        /// Step, from 0.
        step: usize,
        /// Request.
        request: String,
        /// What happened.
        message: String,
    },
}

/// The crate's folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Where the transcript of a scenario is kept.
#[must_use]
pub fn transcript_path(name: &str) -> PathBuf {
    root().join("transcripts").join(format!("{name}.json"))
}

/// The recorded answers of a scenario.
///
/// # Errors
/// When there is no transcript or it cannot be read.
pub fn transcript(name: &str) -> Result<Vec<Answer>, ConformanceError> {
    let path = transcript_path(name);
    let failed = |message: String| ConformanceError::File {
        path: path.display().to_string(),
        message,
    };
    let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| failed(e.to_string()))
}

/// Differences between what was recorded and what was answered, one line each; exceptions are left out.
#[must_use]
pub fn differences(scenario: &Scenario, recorded: &[Answer], answered: &[Answer]) -> Vec<String> {
    let mut lines = Vec::new();
    if recorded.len() != answered.len() {
        lines.push(format!(
            "{}: {} steps recorded, {} answered: record again",
            scenario.name,
            recorded.len(),
            answered.len()
        ));
    }
    for (index, (real, ours)) in recorded.iter().zip(answered).enumerate() {
        let mut found = Vec::new();
        if real.request != ours.request {
            found.push((
                String::new(),
                format!("recorded for {:?}: record again", real.request),
            ));
        }
        if real.code != ours.code {
            found.push((
                "/code".to_owned(),
                format!("{} expected, got {}", real.code, ours.code),
            ));
        }
        if real.warnings != ours.warnings {
            found.push((
                "/warnings".to_owned(),
                format!("{:?} expected, got {:?}", real.warnings, ours.warnings),
            ));
        }
        walk(
            &normal::comparable(&real.body),
            &normal::comparable(&ours.body),
            String::new(),
            &mut found,
        );
        let excepted = |path: &str| {
            scenario
                .exceptions
                .iter()
                .any(|e| e.step == index && path.starts_with(&e.path))
        };
        lines.extend(
            found
                .into_iter()
                .filter(|(path, _)| !excepted(path))
                .map(|(path, what)| {
                    format!(
                        "{} step {index} ({}) {path}: {what}",
                        scenario.name, ours.request
                    )
                }),
        );
    }
    lines
}

fn walk(real: &Value, ours: &Value, path: String, found: &mut Vec<(String, String)>) {
    match (real, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a
                .keys()
                .chain(b.keys().filter(|k| !a.contains_key(*k)))
                .collect();
            keys.sort();
            for key in keys {
                let below = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => walk(x, y, below, found),
                    (Some(x), None) => found.push((below, format!("{x} expected, got nothing"))),
                    (_, y) => found.push((
                        below,
                        format!("nothing expected, got {}", y.unwrap_or(&Value::Null)),
                    )),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                walk(x, y, format!("{path}/{index}"), found);
            }
        }
        (a, b) if a != b => found.push((path, format!("{a} expected, got {b}"))),
        _ => {}
    }
}

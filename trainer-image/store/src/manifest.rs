//! Owns the manifest that names an artefact by its content; must not touch a store.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::StoreError;

/// Version of the manifest's form.
pub const SCHEMA_VERSION: u32 = 1;

/// A file of an artefact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Path below the artefact's directory, with slashes.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// What an artefact was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputDigest {
    /// Kind that made it.
    pub kind: String,
    /// Digest of its manifest.
    pub digest: String,
}

/// What made an artefact; outside the digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Code {
    /// Version of Bessemer.
    pub version: String,
    /// Digest of the image, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// The manifest of an artefact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Must equal [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Kind of the artefact, PascalCase (`Dataset`, `PretrainJob`, `Checkpoint`, ...).
    pub kind: String,
    /// Files in path order.
    pub files: Vec<File>,
    /// Inputs in the order of the run configuration.
    pub inputs: Vec<InputDigest>,
    /// Parameters that decided the content.
    pub parameters: Value,
    /// Seed.
    pub seed: u64,
    /// What made it; outside the digest.
    #[serde(default)]
    pub code: Code,
    /// Counts, losses, results; outside the digest.
    #[serde(default)]
    pub statistics: Value,
}

impl Manifest {
    /// Hex SHA-256 of the RFC 8785 JSON of `{schemaVersion, kind, files, inputs, parameters, seed}`.
    ///
    /// # Errors
    /// `Invalid` when a parameter is not finite.
    pub fn digest(&self) -> Result<String, StoreError> {
        let identity = json!({
            "schemaVersion": self.schema_version,
            "kind": self.kind,
            "files": self.files,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "seed": self.seed,
        });
        let canonical = serde_jcs::to_vec(&identity).map_err(|error| StoreError::Invalid {
            key: "manifest.json".into(),
            what: "manifest",
            reason: error.to_string(),
        })?;
        Ok(hex::encode(Sha256::digest(&canonical)))
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Reads a manifest and checks its form: version, sorted unique relative paths.
    ///
    /// # Errors
    /// `Invalid`, with the key.
    pub fn parse(key: &str, body: &[u8]) -> Result<Self, StoreError> {
        let invalid = |reason: String| StoreError::Invalid {
            key: key.into(),
            what: "manifest",
            reason,
        };
        let manifest: Self =
            serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        if manifest.schema_version != SCHEMA_VERSION {
            return Err(invalid(format!(
                "schemaVersion {} is not {SCHEMA_VERSION}",
                manifest.schema_version
            )));
        }
        for file in &manifest.files {
            let safe = !file.path.is_empty()
                && file
                    .path
                    .split('/')
                    .all(|part| !part.is_empty() && part != "." && part != "..")
                && !file.path.contains('\\');
            if !safe {
                return Err(invalid(format!("path `{}` leaves the artefact", file.path)));
            }
        }
        if !manifest.files.is_sorted_by(|a, b| a.path < b.path) {
            return Err(invalid(
                "files are not in path order or one appears twice".into(),
            ));
        }
        Ok(manifest)
    }
}

/// Content of `runs/<runKey>.json`: present means done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunPointer {
    /// Digest of the artefact's manifest.
    pub digest: String,
    /// Its directory.
    pub uri: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            schema_version: 1,
            kind: "Dataset".into(),
            files: vec![File {
                path: "a/b.bin".into(),
                size: 3,
                sha256: "00".into(),
            }],
            inputs: vec![],
            parameters: json!({"b": 1.0, "a": "x"}),
            seed: 7,
            code: Code::default(),
            statistics: Value::Null,
        }
    }

    /// The golden digest fixes the format: changing it orphans every artefact in the world.
    #[test]
    fn the_digest_covers_identity_and_nothing_else() {
        let one = manifest();
        let canonical = r#"{"files":[{"path":"a/b.bin","sha256":"00","size":3}],"inputs":[],"kind":"Dataset","parameters":{"a":"x","b":1},"schemaVersion":1,"seed":7}"#;
        assert_eq!(
            one.digest().unwrap(),
            hex::encode(Sha256::digest(canonical))
        );
        let same = Manifest {
            code: Code {
                version: "9".into(),
                image: None,
            },
            statistics: json!({"t": 1}),
            ..one.clone()
        };
        assert_eq!(same.digest().unwrap(), one.digest().unwrap());
        assert_ne!(
            Manifest {
                seed: 8,
                ..one.clone()
            }
            .digest()
            .unwrap(),
            one.digest().unwrap()
        );
    }

    #[test]
    fn paths_that_leave_the_artefact_are_refused() {
        for path in ["../x", "/etc/passwd", "a//b", "a/../b", "", "a\\b"] {
            let mut bad = manifest();
            bad.files[0].path = path.into();
            let error = Manifest::parse("k", &serde_json::to_vec(&bad).unwrap()).unwrap_err();
            assert_eq!(error.category(), "ArtifactInvalid", "{path}");
        }
        let mut twice = manifest();
        twice.files.push(twice.files[0].clone());
        assert!(Manifest::parse("k", &serde_json::to_vec(&twice).unwrap()).is_err());
    }
}

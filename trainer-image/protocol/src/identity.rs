//! Owns the content identity of a run; it must not depend on names, generations or attempts, so that
//! the same manifest applied again finds the artefact it made before.

use serde_json::json;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config::Input;
use crate::task::Task;

/// A task that has no canonical JSON form (a non-finite number).
#[derive(Debug, Error)]
#[error("the run has no canonical form: {0}; use finite numbers")]
pub struct IdentityError(#[from] serde_json::Error);

/// Hex SHA-256 of the RFC 8785 JSON of `{task, inputs: [{role, kind, digest}]}`, inputs in the given order.
///
/// # Errors
/// When a number in the task is not finite.
pub fn run_key(task: &Task, inputs: &[Input]) -> Result<String, IdentityError> {
    let inputs: Vec<_> = inputs
        .iter()
        .map(|input| json!({"role": input.role, "kind": input.kind, "digest": input.digest}))
        .collect();
    let canonical = serde_jcs::to_vec(&json!({"task": task, "inputs": inputs}))?;
    Ok(hex::encode(Sha256::digest(&canonical)))
}

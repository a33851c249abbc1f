//! Owns checkpoints on disk: written whole or not at all, verified before use; it must not decide when.
//!
//! A checkpoint is a directory named by its step with ten digits: `model.safetensors` (what is trained),
//! `optimizer.safetensors` (moments) and `state.json` (step, curve, and the SHA-256 of the other two). The data
//! order and every random number are functions of seed and step, so no loader or generator state is needed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use bessemer_model::{read_safetensors, write_safetensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::Error;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const SCHEMA_VERSION: u32 = 1;

/// One point of the training curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Optimizer steps done.
    pub step: u64,
    /// Smoothed training loss, nats per token.
    pub loss: f64,
    /// Validation loss, when it was measured at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// What a run needs besides tensors to go on exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct State {
    pub schema_version: u32,
    /// SHA-256 of the task and its inputs: another run's checkpoint is refused.
    pub fingerprint: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Sequences consumed, the position of the loader.
    pub sequences: u64,
    /// Targets scored so far.
    pub tokens: u64,
    /// Bits of the smoothed training loss (JSON's decimals would lose the last).
    pub smooth_loss_bits: u64,
    /// The curve so far.
    pub curve: Vec<Point>,
    /// SHA-256 of the other files.
    pub files: BTreeMap<String, String>,
}

impl State {
    pub fn new(fingerprint: String) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            fingerprint,
            step: 0,
            sequences: 0,
            tokens: 0,
            smooth_loss_bits: 0,
            curve: Vec::new(),
            files: BTreeMap::new(),
        }
    }
}

/// state.json: the state and its own SHA-256, so that a flipped byte here is found too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    sha256: String,
    state: String,
}

/// A verified checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub state: State,
    pub weights: BTreeMap<String, Tensor>,
    pub moments: BTreeMap<String, Tensor>,
}

fn sha256(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(Error::file(path))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// Directory of the checkpoint of `step` below `root`.
pub(crate) fn directory(root: &Path, step: u64) -> PathBuf {
    root.join(format!("{step:010}"))
}

/// Writes the checkpoint of `state.step` below `root` and returns its directory. It appears under its name only
/// when it is complete and on disk; a failure leaves nothing behind.
pub(crate) fn write(
    root: &Path,
    state: &State,
    weights: &BTreeMap<String, Tensor>,
    moments: &BTreeMap<String, Tensor>,
) -> Result<PathBuf, Error> {
    let target = directory(root, state.step);
    let partial = target.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(Error::file(&partial))?;
    }
    if let Err(error) = fill(&partial, state, weights, moments) {
        // The disk may be full: give back what was taken. The first error is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(Error::file(&target))?;
    }
    std::fs::rename(&partial, &target).map_err(Error::file(&target))?;
    let root_file = std::fs::File::open(root).map_err(Error::file(root))?;
    root_file.sync_all().map_err(Error::file(root))?;
    Ok(target)
}

/// Writes all files of a checkpoint to `partial`.
fn fill(
    partial: &Path,
    state: &State,
    weights: &BTreeMap<String, Tensor>,
    moments: &BTreeMap<String, Tensor>,
) -> Result<(), Error> {
    std::fs::create_dir_all(partial).map_err(Error::file(partial))?;
    write_safetensors(&partial.join(MODEL), weights)?;
    write_safetensors(&partial.join(OPTIMIZER), moments)?;
    let mut state = state.clone();
    state.files.clear();
    for name in [MODEL, OPTIMIZER] {
        state
            .files
            .insert(name.to_owned(), sha256(&partial.join(name))?);
    }
    let path = partial.join(STATE);
    let json = |error: serde_json::Error| Error::file(&path)(error.into());
    let text = serde_json::to_string(&state).map_err(json)?;
    let sealed = Sealed {
        sha256: hex::encode(Sha256::digest(&text)),
        state: text,
    };
    let mut file = std::fs::File::create(&path).map_err(Error::file(&path))?;
    file.write_all(serde_json::to_string(&sealed).map_err(json)?.as_bytes())
        .map_err(Error::file(&path))?;
    file.sync_all().map_err(Error::file(&path))
}

/// Reads and verifies the checkpoint in `path`.
pub(crate) fn read(path: &Path, fingerprint: &str) -> Result<Checkpoint, Error> {
    let file = path.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|error| damaged(&file, error))?;
    let sealed: Sealed = serde_json::from_str(&text).map_err(|error| damaged(&file, error))?;
    if sealed.sha256 != hex::encode(Sha256::digest(&sealed.state)) {
        return Err(damaged(
            &file,
            "its content does not match the SHA-256 it holds",
        ));
    }
    let state: State =
        serde_json::from_str(&sealed.state).map_err(|error| damaged(&file, error))?;
    if state.schema_version != SCHEMA_VERSION {
        return Err(damaged(
            &file,
            format!(
                "its version {} is not {SCHEMA_VERSION}",
                state.schema_version
            ),
        ));
    }
    if state.fingerprint != fingerprint {
        return Err(damaged(&file, "it belongs to another run"));
    }
    let tensors = |name: &str| {
        let file = path.join(name);
        let found = sha256(&file).map_err(|error| damaged(&file, error))?;
        if state.files.get(name) != Some(&found) {
            return Err(damaged(&file, "its SHA-256 is not the one in state.json"));
        }
        Ok(read_safetensors(&file, Device::Cpu)?)
    };
    Ok(Checkpoint {
        weights: tensors(MODEL)?,
        moments: tensors(OPTIMIZER)?,
        state,
    })
}

/// Checkpoints below `root`, oldest first; incomplete ones are not listed.
pub(crate) fn list(root: &Path) -> Result<Vec<PathBuf>, Error> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::file(root))? {
        let path = entry.map_err(Error::file(root))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint that is whole. Damaged newer ones are passed over with a warning that names the file.
///
/// # Errors
/// [`Error::Damaged`] when there are checkpoints but none is whole: starting again silently would hide it.
pub(crate) fn newest(root: &Path, fingerprint: &str) -> Result<Option<Checkpoint>, Error> {
    let mut first_error = None;
    for path in list(root)?.iter().rev() {
        match read(path, fingerprint) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => {
                tracing::warn!(%error, "checkpoint passed over");
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// Deletes all but the newest `keep` checkpoints below `root`.
pub(crate) fn prune(root: &Path, keep: usize) -> Result<(), Error> {
    let all = list(root)?;
    let surplus = all.len().saturating_sub(keep.max(1));
    for path in all.iter().take(surplus) {
        std::fs::remove_dir_all(path).map_err(Error::file(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(step: u64) -> (State, BTreeMap<String, Tensor>) {
        let state = State {
            step,
            curve: vec![Point {
                step,
                loss: 1.25,
                validation_loss: None,
            }],
            ..State::new("f".into())
        };
        (
            state,
            BTreeMap::from([(
                "w".to_owned(),
                Tensor::from_slice(&[1.0f32, 2.0, step as f32]),
            )]),
        )
    }

    fn save(root: &Path, step: u64) -> PathBuf {
        let (state, tensors) = sample(step);
        write(root, &state, &tensors, &tensors).unwrap()
    }

    #[test]
    fn any_flipped_byte_in_any_file_is_refused_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let path = save(root.path(), 7);
        assert_eq!(read(&path, "f").unwrap().state.step, 7);
        for name in [MODEL, OPTIMIZER, STATE] {
            let file = path.join(name);
            let good = std::fs::read(&file).unwrap();
            for index in (0..good.len()).step_by(3) {
                let mut bad = good.clone();
                bad[index] ^= 1;
                std::fs::write(&file, &bad).unwrap();
                match read(&path, "f") {
                    Err(Error::Damaged { path, .. }) => assert_eq!(path, file, "byte {index}"),
                    other => panic!("{name} byte {index}: {other:?}"),
                }
            }
            std::fs::write(&file, &good).unwrap();
        }
        assert!(matches!(read(&path, "other"), Err(Error::Damaged { .. })));
    }

    #[test]
    fn the_newest_whole_one_is_used_and_a_half_written_one_is_not_seen() {
        let root = tempfile::tempdir().unwrap();
        assert!(newest(root.path(), "f").unwrap().is_none());
        save(root.path(), 3);
        let second = save(root.path(), 12);
        std::fs::create_dir(root.path().join("0000000020.partial")).unwrap();
        assert_eq!(newest(root.path(), "f").unwrap().unwrap().state.step, 12);
        std::fs::write(second.join(MODEL), b"junk").unwrap();
        assert_eq!(newest(root.path(), "f").unwrap().unwrap().state.step, 3);
        std::fs::remove_file(directory(root.path(), 3).join(STATE)).unwrap();
        assert!(matches!(
            newest(root.path(), "f"),
            Err(Error::Damaged { .. })
        ));
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let (state, mut tensors) = sample(4);
        // A kind that the format lacks fails after the first file.
        let weights = std::mem::take(&mut tensors);
        let moments = BTreeMap::from([("m".to_owned(), Tensor::from_slice(&[true]))]);
        assert!(write(root.path(), &state, &weights, &moments).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn old_ones_are_pruned() {
        let root = tempfile::tempdir().unwrap();
        for step in [1, 2, 10] {
            save(root.path(), step);
        }
        prune(root.path(), 2).unwrap();
        assert_eq!(
            list(root.path()).unwrap(),
            [directory(root.path(), 2), directory(root.path(), 10)]
        );
    }
}

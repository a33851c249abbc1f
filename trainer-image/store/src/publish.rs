//! Owns committing an artefact: files, then the manifest, then the run pointer; must never replace any of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::StoreError;
use crate::fetch::{fetch_file, read_manifest, read_run};
use crate::layout::{Layout, Location};
use crate::manifest::{Code, File, InputDigest, Manifest, RunPointer, SCHEMA_VERSION};
use crate::object::{ObjectStore, PutOutcome};

/// What is to be committed besides files.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Kind of the artefact.
    pub kind: String,
    /// Inputs.
    pub inputs: Vec<InputDigest>,
    /// Parameters that decided the content.
    pub parameters: Value,
    /// Seed.
    pub seed: u64,
    /// What made it.
    pub code: Code,
    /// Counts, losses, results.
    pub statistics: Value,
}

/// A committed artefact.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Digest of the manifest.
    pub digest: String,
    /// `s3://bucket/key` of its directory.
    pub uri: String,
    /// The manifest as it is in the store.
    pub manifest: Manifest,
}

/// Lists and hashes the files below a directory, in path order.
///
/// # Errors
/// Those of the file system; a link or a special file is refused.
pub fn describe_directory(root: &Path) -> Result<Vec<File>, StoreError> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let directory = root.join(&relative);
        let entries =
            std::fs::read_dir(&directory).map_err(|source| StoreError::io(&directory, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::io(&directory, source))?;
            let path = relative.join(entry.file_name());
            let kind = entry
                .file_type()
                .map_err(|source| StoreError::io(entry.path(), source))?;
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_file() {
                files.push(describe_file(root, &path)?);
            } else {
                let refused = std::io::Error::other(
                    "is neither a file nor a directory; an artefact holds only files",
                );
                return Err(StoreError::io(entry.path(), refused));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn describe_file(root: &Path, relative: &Path) -> Result<File, StoreError> {
    let path = root.join(relative);
    let (size, sha256) = hash_file(&path)?;
    let name = relative
        .to_str()
        .ok_or_else(|| StoreError::io(&path, std::io::Error::other("name is not UTF-8")))?;
    Ok(File {
        path: name.into(),
        size,
        sha256,
    })
}

/// Size and hex SHA-256 of a file, read in pieces.
pub(crate) fn hash_file(path: &Path) -> Result<(u64, String), StoreError> {
    let mut file = std::fs::File::open(path).map_err(|source| StoreError::io(path, source))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|source| StoreError::io(path, source))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        hasher.update(piece);
        size += read as u64;
    }
    Ok((size, hex::encode(hasher.finalize())))
}

/// Commits the files of a directory as an artefact and, with a run key, the run's pointer to it.
///
/// Repeating it after a crash at any point gives the same result; of two writers the first wins and the second
/// returns the same artefact.
///
/// # Errors
/// `Conflict` when the run was committed with another digest; those of the store and the file system.
pub async fn publish(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: Option<&str>,
    directory: &Path,
    draft: Draft,
) -> Result<Published, StoreError> {
    let manifest = manifest_of(directory, draft).await?;
    let digest = manifest.digest()?;
    let target = layout.artefact(location, &digest);
    let manifest = commit(store, &target, directory, manifest).await?;
    let uri = layout.uri(&target);
    if let Some(run_key) = run_key {
        commit_pointer(
            store,
            layout,
            location,
            run_key,
            &RunPointer {
                digest: digest.clone(),
                uri: uri.clone(),
            },
        )
        .await?;
    }
    Ok(Published {
        digest,
        uri,
        manifest,
    })
}

pub(crate) async fn manifest_of(directory: &Path, draft: Draft) -> Result<Manifest, StoreError> {
    let root = directory.to_path_buf();
    let files = tokio::task::spawn_blocking(move || describe_directory(&root))
        .await
        .map_err(|error| StoreError::io(directory, std::io::Error::other(error)))??;
    Ok(Manifest {
        schema_version: SCHEMA_VERSION,
        kind: draft.kind,
        files,
        inputs: draft.inputs,
        parameters: draft.parameters,
        seed: draft.seed,
        code: draft.code,
        statistics: draft.statistics,
    })
}

/// Uploads files that are missing or damaged, then the manifest if it is absent; returns the manifest in the store.
///
/// What is there already, from an interrupted upload or a commit of the same content, is read again: a file that was
/// damaged since would otherwise stay so for ever.
pub(crate) async fn commit(
    store: &dyn ObjectStore,
    target: &str,
    directory: &Path,
    manifest: Manifest,
) -> Result<Manifest, StoreError> {
    let key = format!("{target}/manifest.json");
    let ours = manifest.digest()?;
    let existing = match read_manifest(store, &key).await {
        Ok(existing) => {
            Some(existing).filter(|existing| existing.digest().is_ok_and(|digest| digest == ours))
        }
        Err(StoreError::Invalid { .. }) => None,
        Err(StoreError::NotFound { .. }) => {
            upload(store, target, directory, &manifest).await?;
            let body = encode(&key, &manifest)?;
            return match store.put_if_absent(&key, body.into()).await? {
                PutOutcome::Written => Ok(manifest),
                PutOutcome::Exists => read_manifest(store, &key).await,
            };
        }
        Err(error) => return Err(error),
    };
    upload(store, target, directory, &manifest).await?;
    if let Some(existing) = existing {
        return Ok(existing);
    }
    // Its place is named by our digest, so what lies there is a damaged copy of ours.
    store.put(&key, encode(&key, &manifest)?.into()).await?;
    Ok(manifest)
}

fn encode(key: &str, manifest: &Manifest) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec_pretty(manifest).map_err(|error| StoreError::Invalid {
        key: key.into(),
        what: "manifest",
        reason: error.to_string(),
    })
}

async fn upload(
    store: &dyn ObjectStore,
    target: &str,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let present = store.list(&format!("{target}/")).await?;
    let scratch = directory.with_extension("verify");
    for file in &manifest.files {
        let object = format!("{target}/{}", file.path);
        let alike = present
            .iter()
            .any(|meta| meta.key == object && meta.size == file.size);
        let whole = alike
            && match fetch_file(store, &object, &scratch, file).await {
                Ok(()) => true,
                Err(error) if error.is_transient() => return Err(error),
                // Damaged, or not to be known for want of disk: our bytes are right.
                Err(_) => false,
            };
        if !whole {
            store.upload(&object, &directory.join(&file.path)).await?;
        }
    }
    // Absent when nothing had to be verified; the next use overwrites it.
    let _ = std::fs::remove_file(&scratch);
    Ok(())
}

async fn commit_pointer(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
    pointer: &RunPointer,
) -> Result<(), StoreError> {
    let key = layout.run(location, run_key);
    let body = serde_json::to_vec(pointer).map_err(|error| StoreError::Invalid {
        key: key.clone(),
        what: "run pointer",
        reason: error.to_string(),
    })?;
    if store.put_if_absent(&key, body.into()).await? == PutOutcome::Written {
        return Ok(());
    }
    match read_run(store, layout, location, run_key).await? {
        Some(existing) if existing.digest == pointer.digest => Ok(()),
        Some(existing) => Err(StoreError::Conflict {
            run_key: run_key.into(),
            committed: existing.digest,
            ours: pointer.digest.clone(),
        }),
        None => Err(StoreError::Unavailable {
            key,
            reason: "the run pointer vanished while it was written".into(),
        }),
    }
}

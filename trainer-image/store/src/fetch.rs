//! Owns reading artefacts back, every byte verified; must never hand out a file that is not what its digest says.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::layout::{Layout, Location};
use crate::manifest::{File, Manifest, RunPointer};
use crate::object::ObjectStore;
use crate::publish::hash_file;

/// Reads a manifest by its key.
///
/// # Errors
/// `NotFound`, `Invalid`, those of the store.
pub async fn read_manifest(store: &dyn ObjectStore, key: &str) -> Result<Manifest, StoreError> {
    Manifest::parse(key, &store.get(key).await?)
}

/// The pointer of a run; `None` means that the run has no result.
///
/// # Errors
/// `Invalid`, those of the store.
pub async fn read_run(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
) -> Result<Option<RunPointer>, StoreError> {
    let key = layout.run(location, run_key);
    match store.get(&key).await {
        Ok(body) => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| StoreError::Invalid {
                key,
                what: "run pointer",
                reason: error.to_string(),
            }),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares a local file with its entry in a manifest.
///
/// # Errors
/// `Corrupt` with the file's path and what differs.
pub fn verify_file(path: &Path, expected: &File) -> Result<(), StoreError> {
    let (size, sha256) = hash_file(path)?;
    if size != expected.size {
        let reason = format!("it has {size} bytes, the manifest says {}", expected.size);
        return Err(StoreError::Corrupt {
            file: expected.path.clone(),
            reason,
        });
    }
    if sha256 != expected.sha256 {
        let reason = format!(
            "its SHA-256 is {sha256}, the manifest says {}",
            expected.sha256
        );
        return Err(StoreError::Corrupt {
            file: expected.path.clone(),
            reason,
        });
    }
    Ok(())
}

/// Brings the artefact at a URI into `cache/<digest>` and returns that directory with the manifest.
///
/// What is there already is verified and kept, what is missing or damaged is fetched again; a file that is damaged
/// in the store is refused. The directory appears under its name only when it is complete.
///
/// # Errors
/// `Corrupt` with the file's name, `Invalid` when the manifest is not the one of the digest, those of the store.
pub async fn fetch(
    store: &dyn ObjectStore,
    layout: &Layout,
    uri: &str,
    digest: &str,
    cache: &Path,
) -> Result<(PathBuf, Manifest), StoreError> {
    let source = layout.key_of(uri)?;
    let key = format!("{source}/manifest.json");
    let manifest = read_manifest(store, &key).await?;
    let found = manifest.digest()?;
    if found != digest {
        let reason = format!("its digest is {found}, the reference says {digest}");
        return Err(StoreError::Corrupt {
            file: "manifest.json".into(),
            reason,
        });
    }
    let directory = cache.join(digest);
    for file in &manifest.files {
        let target = directory.join(&file.path);
        if target.exists() && verify(&target, file).await.is_ok() {
            continue;
        }
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|source| StoreError::io(parent, source))?;
        }
        let mut partial = target.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let fetched = fetch_file(store, &format!("{source}/{}", file.path), &partial, file).await;
        if let Err(error) = fetched {
            // A damaged or half-written copy must not stay; that it cannot be removed changes nothing for the caller.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
        std::fs::rename(&partial, &target).map_err(|source| StoreError::io(&target, source))?;
    }
    Ok((directory, manifest))
}

/// Brings one file here and verifies it.
pub(crate) async fn fetch_file(
    store: &dyn ObjectStore,
    key: &str,
    partial: &Path,
    file: &File,
) -> Result<(), StoreError> {
    match store.download(key, partial).await {
        Err(StoreError::NotFound { .. }) => Err(StoreError::Corrupt {
            file: file.path.clone(),
            reason: "it is missing in the store".into(),
        }),
        // The store found the damage itself; it is named as the artefact names the file.
        Err(StoreError::Corrupt { reason, .. }) => Err(StoreError::Corrupt {
            file: file.path.clone(),
            reason,
        }),
        other => other,
    }?;
    verify(partial, file).await
}

async fn verify(path: &Path, file: &File) -> Result<(), StoreError> {
    let (path, expected) = (path.to_path_buf(), file.clone());
    let at = path.clone();
    tokio::task::spawn_blocking(move || verify_file(&path, &expected))
        .await
        .map_err(|error| StoreError::io(at, std::io::Error::other(error)))?
}

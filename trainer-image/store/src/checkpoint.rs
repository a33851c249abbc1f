//! Owns checkpoints of a run in the store; must never hide a good one behind one that is incomplete or damaged.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::fetch::{fetch, read_manifest};
use crate::layout::{Layout, Location};
use crate::manifest::Manifest;
use crate::object::ObjectStore;
use crate::publish::{Draft, Published, commit, manifest_of};

/// A checkpoint that is complete in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Digest of its manifest.
    pub digest: String,
    /// Its directory.
    pub uri: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Commits a directory as the checkpoint of a step.
///
/// # Errors
/// Those of the store and the file system.
pub async fn publish_checkpoint(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
    step: u64,
    directory: &Path,
    draft: Draft,
) -> Result<Published, StoreError> {
    let target = layout.checkpoint(location, run_key, step);
    let manifest = manifest_of(directory, draft).await?;
    let ours = manifest.digest()?;
    // An upload that was cut off left files without a manifest, perhaps of another attempt: start clean, since
    // unlike an artefact's directory this one is not named by its content.
    let stored = match read_manifest(store, &format!("{target}/manifest.json")).await {
        Ok(manifest) => Some(manifest),
        Err(StoreError::NotFound { .. } | StoreError::Invalid { .. }) => None,
        Err(error) => return Err(error),
    };
    if stored
        .as_ref()
        .map(Manifest::digest)
        .transpose()?
        .as_deref()
        != Some(ours.as_str())
    {
        remove_directory(store, &target).await?;
    }
    let manifest = commit(store, &target, directory, manifest).await?;
    Ok(Published {
        digest: ours,
        uri: layout.uri(&target),
        manifest,
    })
}

/// All complete checkpoints of a run, newest first.
///
/// # Errors
/// Those of the store.
pub async fn list_checkpoints(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
) -> Result<Vec<Checkpoint>, StoreError> {
    let root = format!("{}/", layout.checkpoints(location, run_key));
    let mut found = Vec::new();
    for object in store.list(&root).await? {
        let Some(directory) = object.key.strip_suffix("/manifest.json") else {
            continue;
        };
        let Some(Ok(step)) = directory.strip_prefix(&root).map(str::parse::<u64>) else {
            continue;
        };
        match read_manifest(store, &object.key).await {
            Ok(manifest) => {
                let digest = manifest.digest()?;
                found.push(Checkpoint {
                    step,
                    digest,
                    uri: layout.uri(directory),
                    manifest,
                });
            }
            // Damaged or removed meanwhile: an older one serves.
            Err(StoreError::Invalid { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
    Ok(found)
}

/// Fetches the newest checkpoint whose every byte is right; damaged ones are passed over and named in the second part.
///
/// # Errors
/// Those of the store that are not about one checkpoint.
pub async fn latest_checkpoint(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
    cache: &Path,
) -> Result<(Option<(Checkpoint, PathBuf)>, Vec<StoreError>), StoreError> {
    let mut damaged = Vec::new();
    for checkpoint in list_checkpoints(store, layout, location, run_key).await? {
        match fetch(store, layout, &checkpoint.uri, &checkpoint.digest, cache).await {
            Ok((directory, _)) => return Ok((Some((checkpoint, directory)), damaged)),
            Err(
                error @ (StoreError::Corrupt { .. }
                | StoreError::Invalid { .. }
                | StoreError::NotFound { .. }),
            ) => {
                damaged.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((None, damaged))
}

/// Removes all but the newest `keep` complete checkpoints of a run, and what older interrupted uploads left.
///
/// # Errors
/// Those of the store.
pub async fn prune_checkpoints(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    run_key: &str,
    keep: usize,
) -> Result<(), StoreError> {
    let kept = list_checkpoints(store, layout, location, run_key).await?;
    let Some(oldest) = kept
        .iter()
        .take(keep.max(1))
        .next_back()
        .map(|checkpoint| checkpoint.step)
    else {
        return Ok(());
    };
    let root = format!("{}/", layout.checkpoints(location, run_key));
    let mut directories: Vec<(u64, String)> = store
        .list(&root)
        .await?
        .iter()
        .filter_map(|object| {
            let step = object.key.strip_prefix(&root)?.split('/').next()?;
            Some((step.parse().ok()?, format!("{root}{step}")))
        })
        .filter(|(step, _)| *step < oldest)
        .collect();
    directories.dedup();
    for (_, directory) in directories {
        remove_directory(store, &directory).await?;
    }
    Ok(())
}

/// Removes a directory, its manifest first, so that a crash leaves nothing that looks complete.
pub(crate) async fn remove_directory(
    store: &dyn ObjectStore,
    directory: &str,
) -> Result<(), StoreError> {
    store.delete(&format!("{directory}/manifest.json")).await?;
    for object in store.list(&format!("{directory}/")).await? {
        store.delete(&object.key).await?;
    }
    Ok(())
}

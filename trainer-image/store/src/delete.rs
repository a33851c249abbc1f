//! Owns the removal of an artefact; whether it may go is the caller's decision.

use crate::checkpoint::remove_directory;
use crate::error::StoreError;
use crate::layout::{Layout, Location};
use crate::manifest::RunPointer;
use crate::object::ObjectStore;

/// Removes an artefact, the run pointers that lead to it and the checkpoints of those runs. Pointers go first, so
/// that a crash never leaves a pointer to nothing.
///
/// # Errors
/// Those of the store; repeating it goes on where it stopped.
pub async fn delete_artefact(
    store: &dyn ObjectStore,
    layout: &Layout,
    location: Location<'_>,
    digest: &str,
) -> Result<(), StoreError> {
    let runs = format!("{}/runs/", layout.object(location));
    for object in store.list(&runs).await? {
        let leads_here = serde_json::from_slice::<RunPointer>(&store.get(&object.key).await?)
            .is_ok_and(|pointer| pointer.digest == digest);
        if leads_here {
            store.delete(&object.key).await?;
            if let Some(run_key) = object
                .key
                .strip_prefix(&runs)
                .and_then(|name| name.strip_suffix(".json"))
            {
                for checkpoint in store
                    .list(&format!("{}/", layout.checkpoints(location, run_key)))
                    .await?
                {
                    store.delete(&checkpoint.key).await?;
                }
            }
        }
    }
    remove_directory(store, &layout.artefact(location, digest)).await
}

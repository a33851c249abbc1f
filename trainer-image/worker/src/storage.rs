//! Owns the worker's access to artefacts: inputs in, results and checkpoints out; it must not know what they mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bessemer_protocol::{Input, InputRole, RunConfig};
use bessemer_store::{
    Code, Draft, InputDigest, Layout, Location, Manifest, Published, RunPointer, S3Keys,
    S3Settings, S3Store, StoreError,
};
use serde_json::Value;

/// Deadline of one call to the store over all its retries.
const DEADLINE: Duration = Duration::from_secs(120);

/// The run's place in the object store.
#[derive(Clone, Debug)]
pub struct Storage {
    store: S3Store,
    layout: Layout,
    config: RunConfig,
    cache: PathBuf,
    image: Option<String>,
}

/// An input on this machine, verified.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What the configuration says of it.
    pub input: Input,
    /// Its files.
    pub directory: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Storage {
    /// The place of `config`'s run; `work` keeps what was fetched.
    pub async fn new(config: &RunConfig, work: &Path, image: Option<String>) -> Self {
        let storage = &config.storage;
        Self {
            store: bucket(
                storage.endpoint.clone(),
                &storage.region,
                &storage.bucket,
                None,
            )
            .await,
            layout: Layout::new(storage.bucket.clone(), &storage.prefix),
            config: config.clone(),
            cache: work.join("cache"),
            image,
        }
    }

    fn location(&self) -> Location<'_> {
        let run = &self.config.run;
        Location {
            namespace: &run.namespace,
            kind: &run.kind,
            name: &run.name,
        }
    }

    fn key(&self) -> &str {
        &self.config.run.run_key
    }

    /// The result, if the run has one.
    pub async fn result(&self) -> Result<Option<RunPointer>, StoreError> {
        bessemer_store::read_run(&self.store, &self.layout, self.location(), self.key()).await
    }

    /// Brings an input here, every byte verified; what an earlier attempt brought is used again.
    pub async fn fetch(&self, input: &Input) -> Result<Fetched, StoreError> {
        let (directory, manifest) = bessemer_store::fetch(
            &self.store,
            &self.layout,
            &input.uri,
            &input.digest,
            &self.cache,
        )
        .await?;
        tracing::info!(role = ?input.role, kind = input.kind, name = input.name, digest = input.digest, "input verified");
        Ok(Fetched {
            input: input.clone(),
            directory,
            manifest,
        })
    }

    fn draft(&self, kind: &str, statistics: Value) -> Result<Draft, StoreError> {
        let parameters =
            serde_json::to_value(&self.config.task).map_err(|error| StoreError::Invalid {
                key: self.key().to_owned(),
                what: "manifest",
                reason: error.to_string(),
            })?;
        let seed = parameters
            .get("seed")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let inputs = self.config.inputs.iter();
        Ok(Draft {
            kind: kind.to_owned(),
            inputs: inputs
                .map(|input| InputDigest {
                    kind: input.kind.clone(),
                    digest: input.digest.clone(),
                })
                .collect(),
            parameters,
            seed,
            code: Code {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                image: self.image.clone(),
            },
            statistics,
        })
    }

    /// Commits a directory as the run's result.
    pub async fn publish(
        &self,
        directory: &Path,
        statistics: Value,
    ) -> Result<Published, StoreError> {
        let draft = self.draft(&self.config.run.kind, statistics)?;
        bessemer_store::publish(
            &self.store,
            &self.layout,
            self.location(),
            Some(self.key()),
            directory,
            draft,
        )
        .await
    }

    /// Commits a directory as the run's checkpoint of `step` and removes those beyond `keep`.
    pub async fn checkpoint(
        &self,
        step: u64,
        directory: &Path,
        keep: u32,
    ) -> Result<Published, StoreError> {
        let draft = self.draft("Checkpoint", Value::Null)?;
        let (location, key) = (self.location(), self.key());
        let published = bessemer_store::publish_checkpoint(
            &self.store,
            &self.layout,
            location,
            key,
            step,
            directory,
            draft,
        )
        .await?;
        bessemer_store::prune_checkpoints(
            &self.store,
            &self.layout,
            location,
            key,
            keep.max(1) as usize,
        )
        .await?;
        Ok(published)
    }

    /// Brings the run's newest whole checkpoint here.
    ///
    /// # Errors
    /// The first damaged one's when none is whole: starting again in silence would hide the damage.
    pub async fn latest_checkpoint(&self) -> Result<Option<(u64, PathBuf)>, StoreError> {
        let (found, damaged) = bessemer_store::latest_checkpoint(
            &self.store,
            &self.layout,
            self.location(),
            self.key(),
            &self.cache,
        )
        .await?;
        for error in &damaged {
            tracing::warn!(%error, "checkpoint passed over");
        }
        match (found, damaged.into_iter().next()) {
            (Some((checkpoint, directory)), _) => Ok(Some((checkpoint.step, directory))),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// A client of a bucket; without keys those of the environment are taken.
pub async fn bucket(
    endpoint: Option<String>,
    region: &str,
    bucket: &str,
    keys: Option<S3Keys>,
) -> S3Store {
    let settings = S3Settings {
        endpoint,
        region: region.to_owned(),
        bucket: bucket.to_owned(),
        keys,
        deadline: DEADLINE,
    };
    S3Store::new(&settings).await
}

/// The directory of the only input with a role.
pub fn only(inputs: &[Fetched], role: InputRole) -> Option<PathBuf> {
    inputs
        .iter()
        .find(|fetched| fetched.input.role == role)
        .map(|fetched| fetched.directory.clone())
}

/// Directories of all datasets by name, in the configuration's order.
pub fn datasets(inputs: &[Fetched]) -> Vec<(String, PathBuf)> {
    inputs
        .iter()
        .filter(|fetched| fetched.input.role == InputRole::Dataset)
        .map(|fetched| (fetched.input.name.clone(), fetched.directory.clone()))
        .collect()
}

//! Owns the command `prepare`: brings sources here and hands them to bessemer-data.

use std::path::PathBuf;

use bessemer_data::{Control, LocalSource, PathFilter, PrepareStage};
use bessemer_protocol::task::{PrepareTask, Source};
use bessemer_protocol::{ExitCode, InputRole, RunConfig, Stage};
use bessemer_store::{ObjectStore, StoreError};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::environment::{Environment, SourceKeys};
use crate::failure::Failure;
use crate::job::{self, Job, Made, WORK};
use crate::storage;

/// Tokenizer within a dataset's directory.
const TOKENIZER_FILE: &str = "tokenizer.json";

pub async fn run(
    task: PrepareTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    job::run(config, environment, stop, move |job| prepare(&task, &job)).await
}

fn prepare(task: &PrepareTask, job: &Job) -> Result<Option<Made>, Failure> {
    let mut sources = Vec::new();
    for (index, source) in task.sources.iter().enumerate() {
        let root = match source.uri.strip_prefix("file://") {
            Some(path) => PathBuf::from(path),
            None => download(source, job).map_err(|failure| named(failure, index))?,
        };
        sources.push(LocalSource {
            source: source.clone(),
            root,
        });
    }
    let tokenizer = storage::only(&job.inputs, InputRole::Tokenizer)
        .map(|directory| directory.join(TOKENIZER_FILE));
    let prepared = bessemer_data::prepare(
        task,
        &sources,
        tokenizer.as_deref(),
        &job.work,
        &mut Watch(job),
    )?;
    let statistics = match serde_json::to_value(&prepared.statistics) {
        Ok(Value::Object(statistics)) => statistics,
        _ => serde_json::Map::new(),
    };
    Ok(Some(Made {
        directory: prepared.directory,
        statistics,
    }))
}

fn named(mut failure: Failure, index: usize) -> Failure {
    failure.termination.message = format!("task.sources[{index}]: {}", failure.termination.message);
    failure
}

/// The keys of a source that has its own. Without them its store would be asked with the keys of another.
fn own_keys(source: &Source) -> Result<Option<SourceKeys>, Failure> {
    if !source.own_keys {
        return Ok(None);
    }
    SourceKeys::read(&source.name).map(Some).map_err(|key| {
        Failure::new(
            ExitCode::Environment,
            "CredentialsMissing",
            format!("source {} has no {key}", source.name),
            "Give the Secret of its credentialsSecretRef this key.",
        )
    })
}

/// Brings the objects below an `s3://` source that its globs choose into the work directory.
fn download(source: &Source, job: &Job) -> Result<PathBuf, Failure> {
    let (bucket, prefix) = source
        .uri
        .strip_prefix("s3://")
        .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        .filter(|(bucket, _)| !bucket.is_empty())
        .ok_or_else(|| {
            Failure::config(format!(
                "uri `{}` is neither file:///directory nor s3://bucket/prefix",
                source.uri
            ))
        })?;
    let filter = PathFilter::new(source)?;
    let place = &job.config.storage;
    let root = job.work.join("sources").join(&source.name);
    Handle::current().block_on(async {
        let own = own_keys(source)?;
        let told = own.as_ref().and_then(|own| own.endpoint.clone());
        let endpoint = source.endpoint.clone().or(told);
        let endpoint = endpoint.or_else(|| place.endpoint.clone());
        let region = own.as_ref().and_then(|own| own.region.clone());
        let region = region.unwrap_or_else(|| place.region.clone());
        let store = storage::bucket(endpoint, &region, bucket, own.map(|own| own.keys)).await;
        let prefix = prefix.trim_end_matches('/');
        std::fs::create_dir_all(&root).map_err(|error| Failure::system(&error))?;
        for object in store.list(prefix).await? {
            let path = object.key.strip_prefix(prefix).unwrap_or_default();
            // `prefix` names a directory or one object, not keys that merely begin alike.
            let relative = match path.strip_prefix('/') {
                Some(relative) => relative,
                None if prefix.is_empty() => path,
                None if path.is_empty() => object.key.rsplit('/').next().unwrap_or_default(),
                None => continue,
            };
            if relative.is_empty()
                || relative.ends_with('/')
                || relative.split('/').any(|part| part == "..")
                || !filter.matches(relative)
            {
                continue;
            }
            let target = root.join(relative);
            let parent = target.parent().unwrap_or(&root);
            std::fs::create_dir_all(parent).map_err(|error| StoreError::io(parent, error))?;
            let got = job
                .stop
                .run_until_cancelled(store.download(&object.key, &target))
                .await;
            got.ok_or_else(|| Failure::interrupted("sources were being fetched"))??;
        }
        Ok(root)
    })
}

struct Watch<'a>(&'a Job);

impl Control for Watch<'_> {
    fn progress(&mut self, stage: PrepareStage, done: u64, total: u64) {
        // Shares of the whole in which the stages usually pass.
        let (stage, from, to) = match stage {
            PrepareStage::Reading => (Stage::Reading, 0.0, 0.5),
            PrepareStage::Tokenizer => (Stage::Tokenizer, 0.5, 0.7),
            PrepareStage::Encoding => (Stage::Encoding, 0.7, 1.0),
        };
        let share = from + (to - from) * done as f64 / total.max(1) as f64;
        self.0.reporter.update(|report| {
            report.stage = stage;
            report.percent = WORK.0 + (WORK.1 - WORK.0) * share;
            (report.step, report.total_steps) = (done, total);
        });
    }

    fn cancelled(&self) -> bool {
        self.0.stop.is_cancelled()
    }
}

//! Owns the frame of every task that ends: a result that exists already, inputs, progress, publishing. It must not
//! know what the task does.

mod training;

use std::path::PathBuf;
use std::sync::Arc;

use bessemer_protocol::{RunConfig, Stage};
use bessemer_torch::Device;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use training::train;

use crate::environment::{Environment, Place};
use crate::failure::Failure;
use crate::metric::{self, Metrics};
use crate::progress::Reporter;
use crate::storage::{Fetched, Storage};
use crate::telemetry;

/// Percent at which the work begins and ends; before it inputs are fetched, after it the result is published.
pub const WORK: (f64, f64) = (3.0, 97.0);

/// What a task gets.
#[derive(Clone, Debug)]
pub struct Job {
    /// The run.
    pub config: RunConfig,
    /// Scratch directory of this run, kept between attempts on one node.
    pub work: PathBuf,
    /// Where this process stands among the run's ranks.
    pub place: Place,
    /// Where the model lies.
    pub device: Device,
    /// Verified inputs, in the configuration's order.
    pub inputs: Vec<Fetched>,
    /// Checkpoints and results.
    pub storage: Storage,
    /// Progress.
    pub reporter: Reporter,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The wish to stop.
    pub stop: CancellationToken,
}

/// What a task gives.
#[derive(Clone, Debug)]
pub struct Made {
    /// Directory to publish.
    pub directory: PathBuf,
    /// Statistics for the manifest.
    pub statistics: Map<String, Value>,
}

/// Runs a task to its committed result. `work` is called on a thread that may block; it makes nothing where another
/// rank of the run publishes.
///
/// # Errors
/// Why there is no result.
pub async fn run(
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
    work: impl FnOnce(Job) -> Result<Option<Made>, Failure> + Send + 'static,
) -> Result<(), Failure> {
    let place = environment.place(config.task.ranks())?;
    let device = bessemer_torch::device(config.gpus)?;
    let directory = environment.work.join(&config.run.run_key);
    std::fs::create_dir_all(&directory).map_err(|error| {
        let mut failure = Failure::system(&error);
        failure.termination.message = format!("{}: {error}", directory.display());
        failure
    })?;
    let storage = Storage::new(&config, &environment.work, environment.image.clone()).await;
    let stopped = |detail: &'static str| move || Failure::interrupted(detail);
    let known = stop
        .run_until_cancelled(storage.result())
        .await
        .ok_or_else(stopped("nothing had begun"))??;
    if let Some(known) = known {
        tracing::info!(
            digest = known.digest,
            uri = known.uri,
            "the result exists already"
        );
        return Ok(());
    }
    let metrics = Arc::new(Metrics::default());
    metric::serve(metrics.clone(), environment.listen()).await;
    // One voice for a run: that of its first rank.
    let progress_url = environment.progress_url.clone();
    let voice = Environment {
        progress_url: progress_url.filter(|_| place.rank == 0),
        ..environment.clone()
    };
    let (reporter, delivery) = Reporter::start(&config, &voice, metrics.clone());
    let job = Job {
        config,
        work: directory,
        place,
        device,
        inputs: Vec::new(),
        storage,
        reporter,
        metrics,
        stop,
    };
    let done = work_and_publish(job, work).await;
    delivery.finish().await;
    done
}

async fn work_and_publish(
    mut job: Job,
    work: impl FnOnce(Job) -> Result<Option<Made>, Failure> + Send + 'static,
) -> Result<(), Failure> {
    let (storage, reporter) = (job.storage.clone(), job.reporter.clone());
    reporter.stage(Stage::Fetching, 0.0);
    let count = job.config.inputs.len();
    for (index, input) in job.config.inputs.iter().enumerate() {
        let fetched = job.stop.run_until_cancelled(storage.fetch(input)).await;
        let fetched =
            fetched.ok_or_else(|| Failure::interrupted("inputs were being fetched"))??;
        telemetry::link(&fetched.manifest.statistics);
        job.inputs.push(fetched);
        reporter.update(|report| report.percent = WORK.0 * (index + 1) as f64 / count as f64);
    }
    let span = tracing::info_span!("work");
    let working = tokio::task::spawn_blocking(move || span.in_scope(|| work(job)));
    let made = working
        .await
        .map_err(|error| Failure::system(&std::io::Error::other(error)))??;
    let Some(Made {
        directory,
        mut statistics,
    }) = made
    else {
        tracing::info!("done; the first rank commits the result");
        return Ok(());
    };
    reporter.stage(Stage::Publishing, WORK.1);
    if let Some(traceparent) = telemetry::current() {
        // Later runs link their traces to this one.
        statistics.insert("traceparent".to_owned(), traceparent.into());
    }
    let published = storage
        .publish(&directory, Value::Object(statistics))
        .await?;
    tracing::info!(
        digest = published.digest,
        uri = published.uri,
        bytes = published.manifest.size_bytes(),
        "result committed"
    );
    reporter.update(|report| report.percent = 100.0);
    Ok(())
}

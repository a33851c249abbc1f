//! Owns what the store and the operator hear of a running training, and its resume; it must not train.

use std::path::Path;
use std::time::{Duration, Instant};

use bessemer_protocol::task::{Batch, CheckpointPolicy};
use bessemer_protocol::{CheckpointReport, InputRole, Stage};
use bessemer_torch::distributed::{Group, Membership};
use bessemer_train::{Finished, Inputs, Observer, Outcome, Progress, Ranks};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use crate::failure::Failure;
use crate::job::{Job, Made, WORK};
use crate::storage;

/// Directory of a run's checkpoints below its work directory; the same as bessemer-train's.
const CHECKPOINTS: &str = "checkpoints";

/// Longest wait for the other ranks: their nodes may have to fetch the image and the inputs first.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Longest wait within one step: the first rank may be uploading a large checkpoint.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Trains by `work` as one of the task's ranks. The first gets the newest checkpoint and makes the result.
///
/// # Errors
/// Why there is no result; the other ranks are told.
pub fn train(
    job: Job,
    batch: Batch,
    policy: CheckpointPolicy,
    work: impl FnOnce(&Inputs, &Path, &mut Ranks, &mut Watch) -> Result<Outcome, bessemer_train::Error>,
) -> Result<Option<Made>, Failure> {
    let inputs = Inputs {
        datasets: storage::datasets(&job.inputs),
        model: storage::only(&job.inputs, InputRole::Model),
    };
    let directory = job.work.clone();
    let mut ranks = join(&job)?;
    let tokens =
        u64::from(batch.sequences) * u64::from(batch.sequence_length) / ranks.count() as u64;
    let outcome = Watch::resume(job, policy, tokens)
        .and_then(|mut watch| Ok(work(&inputs, &directory, &mut ranks, &mut watch)?))
        .inspect_err(|failure| ranks.leave(&failure.termination.message))?;
    Watch::end(outcome)
}

fn join(job: &Job) -> Result<Ranks, Failure> {
    let place = &job.place;
    if place.size == 1 {
        return Ok(Ranks::alone().on(job.device));
    }
    let membership = Membership {
        rank: place.rank,
        size: place.size,
        rendezvous: place.rendezvous.clone(),
        own: place.own,
        patience: PATIENCE,
        timeout: TIMEOUT,
    };
    tracing::info!(
        rank = place.rank,
        of = place.size,
        at = place.rendezvous,
        "meeting the other ranks"
    );
    let group = Group::join(&membership, &|| job.stop.is_cancelled())
        .map_err(bessemer_train::Error::from)?;
    Ok(Ranks::of(group))
}

/// Listens to a training for a job.
#[derive(Debug)]
pub struct Watch {
    job: Job,
    policy: CheckpointPolicy,
    tokens_per_step: u64,
    begin: Instant,
    handle: Handle,
}

impl Watch {
    /// Brings the newest checkpoint to where the first rank's training looks for it, and listens.
    ///
    /// # Errors
    /// When the store cannot be asked, or has only damaged checkpoints.
    fn resume(job: Job, policy: CheckpointPolicy, tokens_per_step: u64) -> Result<Self, Failure> {
        let handle = Handle::current();
        let root = job.work.join(CHECKPOINTS);
        if job.place.rank == 0
            && let Some((step, directory)) = handle.block_on(job.storage.latest_checkpoint())?
        {
            let target = root.join(format!("{step:010}"));
            if !target.exists() {
                copy(&directory, &target).map_err(|error| Failure::system(&error))?;
                tracing::info!(step, "continuing from the store's checkpoint");
            }
        }
        job.reporter.stage(Stage::Training, WORK.0);
        Ok(Self {
            job,
            policy,
            tokens_per_step,
            begin: Instant::now(),
            handle,
        })
    }

    /// The directory and the statistics of a finished model, on the rank that has it.
    ///
    /// # Errors
    /// When the training was interrupted.
    fn end(outcome: Outcome) -> Result<Option<Made>, Failure> {
        match outcome {
            Outcome::Interrupted { step } => Err(Failure::interrupted(format!(
                "a checkpoint of step {step} is kept"
            ))),
            Outcome::Finished(finished) => Ok(Some(made(finished))),
            Outcome::Contributed => Ok(None),
        }
    }
}

fn made(finished: Finished) -> Made {
    let mut statistics = Map::new();
    statistics.insert("parameters".into(), finished.parameters.into());
    statistics.insert("trainableParameters".into(), finished.trainable.into());
    statistics.insert("tokens".into(), finished.summary.tokens.into());
    let first = finished.summary.curve.first();
    let losses = json!({
        "training": finished.summary.loss,
        "validation": finished.summary.validation_loss,
        "initialValidation": first.filter(|point| point.step == 0).and_then(|point| point.validation_loss),
    });
    statistics.insert("losses".into(), losses);
    let record = std::fs::read_to_string(finished.directory.join("training.json")).ok();
    let record: Option<Value> = record.and_then(|text| serde_json::from_str(&text).ok());
    if let Some(flops) = record
        .as_ref()
        .and_then(|record| record.get("trainingFlops"))
    {
        statistics.insert("flops".into(), flops.clone());
    }
    Made {
        directory: finished.directory,
        statistics,
    }
}

/// Copies a directory so that it appears under its name only when it is complete.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let partial = to.with_extension("fetched");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), partial.join(entry.file_name()))?;
    }
    std::fs::rename(partial, to)
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress) {
        let share = progress.step as f64 / progress.total_steps.max(1) as f64;
        self.job.metrics.tokens.inc_by(self.tokens_per_step);
        self.job.reporter.update(|report| {
            report.percent = WORK.0 + (WORK.1 - WORK.0) * share;
            (report.step, report.total_steps) = (progress.step, progress.total_steps);
            report.eta_seconds = Some(progress.eta_seconds);
            report.tokens_per_second = Some(progress.tokens_per_second);
            report.model_flops_utilization = progress.model_flops_utilization;
            report.loss = Some(progress.smooth_loss);
            report.validation_loss = progress.validation_loss.or(report.validation_loss);
        });
        let every = (progress.total_steps / 20).max(1);
        if progress.step.is_multiple_of(every) || progress.step == progress.total_steps {
            tracing::info!(
                step = progress.step,
                of = progress.total_steps,
                loss = progress.smooth_loss,
                validation_loss = progress.validation_loss,
                learning_rate = progress.learning_rate,
                gradient_norm = progress.gradient_norm,
                tokens_per_second = progress.tokens_per_second,
                model_flops_utilization = progress.model_flops_utilization,
                "trained"
            );
        }
    }

    fn checkpoint(&mut self, step: u64, directory: &Path) -> Result<(), String> {
        let span = tracing::info_span!("checkpoint", step);
        let _entered = span.enter();
        let published = self.handle.block_on(self.job.storage.checkpoint(
            step,
            directory,
            self.policy.keep,
        ));
        match published {
            Ok(published) => {
                tracing::info!(step, digest = published.digest, "checkpoint committed");
                self.job.metrics.checkpoints.inc();
                let checkpoint = CheckpointReport {
                    step,
                    uri: published.uri,
                    digest: published.digest,
                };
                self.job
                    .reporter
                    .update(|report| report.checkpoint = Some(checkpoint));
                Ok(())
            }
            // The next one may reach it; until then the one on this disk serves.
            Err(error) if error.is_transient() => {
                tracing::warn!(step, %error, "checkpoint stays on this disk");
                self.job.metrics.checkpoint_failures.inc();
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn stopping(&self) -> bool {
        self.job.stop.is_cancelled()
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

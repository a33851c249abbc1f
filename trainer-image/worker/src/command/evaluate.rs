//! Owns the command `evaluate`: hands models and records to bessemer-evaluate.

use bessemer_evaluate::{Inputs, Observer, Progress};
use bessemer_protocol::task::EvaluateTask;
use bessemer_protocol::{InputRole, RunConfig, Stage};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::job::{self, Job, Made, WORK};
use crate::storage;

pub async fn run(
    task: EvaluateTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    job::run(config, environment, stop, move |job| {
        let inputs = Inputs {
            model: storage::only(&job.inputs, InputRole::Model),
            baseline: storage::only(&job.inputs, InputRole::Baseline),
            datasets: storage::datasets(&job.inputs),
            device: job.device,
        };
        let output = job.work.join("evaluation");
        if output.exists() {
            // What an interrupted attempt left must not be published with this one's.
            std::fs::remove_dir_all(&output).map_err(|error| Failure::system(&error))?;
        }
        job.reporter.stage(Stage::Evaluating, WORK.0);
        let results = bessemer_evaluate::evaluate(&task, &inputs, &output, &mut Watch(&job))?;
        let statistics = Map::from_iter([("results".to_owned(), json!(results))]);
        Ok(Some(Made {
            directory: output,
            statistics,
        }))
    })
    .await
}

struct Watch<'a>(&'a Job);

impl Observer for Watch<'_> {
    fn progress(&mut self, progress: Progress) {
        let share = progress.done as f64 / progress.total.max(1) as f64;
        self.0.reporter.update(|report| {
            report.percent = WORK.0 + (WORK.1 - WORK.0) * share;
            (report.step, report.total_steps) = (progress.done, progress.total);
        });
    }

    fn stopping(&self) -> bool {
        self.0.stop.is_cancelled()
    }
}

//! Owns the command `train`: hands datasets to bessemer-train and its checkpoints to the store.

use bessemer_protocol::RunConfig;
use bessemer_protocol::task::TrainTask;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::job;

pub async fn run(
    task: TrainTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    job::run(config, environment, stop, move |job| {
        job::train(
            job,
            task.batch,
            task.checkpoint,
            |inputs, work, ranks, watch| {
                bessemer_train::pretrain(&task, inputs, work, ranks, watch)
            },
        )
    })
    .await
}

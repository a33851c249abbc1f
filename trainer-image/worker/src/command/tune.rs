//! Owns the command `tune`: hands a model and conversations to bessemer-train and its checkpoints to the store.

use bessemer_protocol::RunConfig;
use bessemer_protocol::task::TuneTask;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::job;

pub async fn run(
    task: TuneTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    job::run(config, environment, stop, move |job| {
        job::train(
            job,
            task.batch,
            task.checkpoint,
            |inputs, work, ranks, watch| bessemer_train::tune(&task, inputs, work, ranks, watch),
        )
    })
    .await
}

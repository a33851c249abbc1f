//! Owns the command `tune`: hands a model and conversations to bessemer-train and its checkpoints to the store.

use bessemer_protocol::task::TuneTask;
use bessemer_protocol::{InputRole, RunConfig};
use bessemer_train::Inputs;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::job::{self, Watch};
use crate::storage;

pub async fn run(
    task: TuneTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    job::run(config, environment, stop, move |job| {
        let inputs = Inputs {
            datasets: storage::datasets(&job.inputs),
            model: storage::only(&job.inputs, InputRole::Model),
        };
        let work = job.work.clone();
        let tokens = u64::from(task.batch.sequences) * u64::from(task.sequence_length);
        let mut watch = Watch::resume(job, task.checkpoint, tokens)?;
        Watch::end(bessemer_train::tune(&task, &inputs, &work, &mut watch)?)
    })
    .await
}

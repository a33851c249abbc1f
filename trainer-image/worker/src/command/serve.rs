//! Owns the command `serve`: brings a verified model here and hands it to bessemer-serve until SIGTERM.

use std::net::SocketAddr;

use bessemer_protocol::task::ServeTask;
use bessemer_protocol::{ExitCode, InputRole, RunConfig};
use bessemer_serve::{Backend, ServeOptions};
use bessemer_torch::Device;
use tokio_util::sync::CancellationToken;

use crate::environment::{Environment, SERVING_PORT};
use crate::failure::Failure;
use crate::storage::Storage;
use crate::telemetry;

pub async fn run(
    task: ServeTask,
    config: RunConfig,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    // Bound first: a taken port is said at once, not after a download.
    let listener =
        bessemer_route::drain::bind(SocketAddr::new(environment.listen(), SERVING_PORT)).await?;
    let input = config
        .inputs
        .iter()
        .find(|input| input.role == InputRole::Model)
        .ok_or_else(|| {
            Failure::new(
                ExitCode::BadConfig,
                "InvalidConfig",
                "inputs: none has role Model",
                "A server needs a model.",
            )
        })?;
    let backend = match bessemer_torch::device(config.gpus)? {
        Device::Cpu => Backend::Native,
        device => Backend::Torch(device),
    };
    std::fs::create_dir_all(&environment.work).map_err(|error| Failure::system(&error))?;
    let storage = Storage::new(&config, &environment.work, environment.image.clone()).await;
    // Stopped before it served: nothing is lost.
    let Some(fetched) = stop.run_until_cancelled(storage.fetch(input)).await else {
        return Ok(());
    };
    let fetched = fetched?;
    telemetry::link(&fetched.manifest.statistics);
    let options = ServeOptions {
        model: fetched.directory,
        digest: input.digest.clone(),
        keys: environment.keys.clone(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        backend,
    };
    Ok(bessemer_serve::serve(listener, task, options, stop).await?)
}

//! Owns the choice of the command and the span around it; it must not do a command's work.

mod evaluate;
mod prepare;
mod route;
mod serve;
mod train;
mod tune;

use bessemer_protocol::RunConfig;
use bessemer_protocol::task::Task;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::argument::{Arguments, Command};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::{configuration, shutdown, telemetry};

/// Runs the command to its end.
///
/// # Errors
/// Why it has no result.
pub async fn run(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let stop = shutdown::listen().map_err(|error| Failure::system(&error))?;
    let (command, path) = match &arguments.command {
        Command::Route(argument) => return route::run(&argument.config, environment, stop).await,
        Command::Prepare(argument) => ("prepare", &argument.config),
        Command::Train(argument) => ("train", &argument.config),
        Command::Tune(argument) => ("tune", &argument.config),
        Command::Evaluate(argument) => ("evaluate", &argument.config),
        Command::Serve(argument) => ("serve", &argument.config),
    };
    let config = configuration::read(path, command)?;
    let span = span(command, &config, environment);
    async move {
        match config.task.clone() {
            Task::Prepare(task) => prepare::run(task, config, environment, stop).await,
            Task::Train(task) => train::run(task, config, environment, stop).await,
            Task::Tune(task) => tune::run(task, config, environment, stop).await,
            Task::Evaluate(task) => evaluate::run(task, config, environment, stop).await,
            Task::Serve(task) => serve::run(task, config, environment, stop).await,
        }
    }
    .instrument(span)
    .await
}

fn span(command: &str, config: &RunConfig, environment: &Environment) -> tracing::Span {
    let run = &config.run;
    let span = tracing::info_span!(
        "run",
        command,
        kind = run.kind,
        namespace = run.namespace,
        name = run.name,
        run = run.run_key,
        attempt = run.attempt
    );
    if let Some(parent) = environment
        .traceparent
        .as_deref()
        .and_then(telemetry::context)
    {
        // Fails only when spans are not recorded, and then nothing is lost.
        let _ = span.set_parent(parent);
    }
    span
}

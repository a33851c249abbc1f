//! The worker of every pod, begun by `launch`: owns arguments, the process's end and nothing else; the work is in `command`.
//!
//! ```text
//! main ── command ─┬─ prepare, train, tune, evaluate ── job (inputs, progress, checkpoints, result)
//!                  └─ serve, route                       until SIGTERM
//! ```

mod argument;
mod command;
mod configuration;
mod ending;
mod environment;
mod failure;
mod job;
mod metric;
mod progress;
mod shutdown;
mod storage;
mod telemetry;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Before any thread exists: without the launcher it runs this program anew with another environment.
    bessemer_torch::sleep_while_waiting();
    let arguments = argument::Arguments::parse();
    let environment = environment::Environment::read();
    ending::catch_panics(&environment.termination_log);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return ending::fail(
                &environment.termination_log,
                &failure::Failure::system(&error),
            );
        }
    };
    let fit = environment.check();
    let endpoint = environment.otlp_endpoint.as_deref();
    let telemetry = telemetry::Telemetry::start(endpoint.filter(|_| fit.is_ok()));
    let result = fit.and_then(|()| runtime.block_on(command::run(&arguments, &environment)));
    let code = match result {
        Ok(()) => ending::succeed(),
        Err(failure) => ending::fail(&environment.termination_log, &failure),
    };
    telemetry.finish();
    // Threads that still work on an abandoned attempt must not hold the process.
    runtime.shutdown_background();
    code
}

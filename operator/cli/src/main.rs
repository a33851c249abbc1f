//! The command line, also as kubectl-bessemer: owns arguments and what is shown to people. It must not decide
//! anything about objects; that is the operator's work, here as in a cluster.

mod command;
mod connect;
mod error;
mod follow;
mod lineage;
mod local;
mod manifest;
mod mine;
mod object;
mod plot;
mod show;
mod summary;
mod why;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = command::Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bessemer: no threads can be started: {error}");
            return ExitCode::from(71);
        }
    };
    match runtime.block_on(command::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bessemer: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

//! Owns the command line; it must not read files.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Worker of Bessemer: does the work of one pod.
#[derive(Debug, Parser)]
#[command(name = "bessemer-worker", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do; all but `route` read a run configuration.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sources to a dataset.
    Prepare(Config),
    /// A dataset to a model.
    Train(Config),
    /// A model and conversations to a model.
    Tune(Config),
    /// A model to numbers.
    Evaluate(Config),
    /// A model to an OpenAI-compatible server.
    Serve(Config),
    /// Traffic between revisions; reads a router configuration.
    Route(Config),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct Config {
    /// JSON file, a mounted ConfigMap.
    #[arg(long)]
    pub config: PathBuf,
}

//! Owns the arguments and which function answers each; it must not do their work.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::error::Error;
use crate::local::{self, Place};
use crate::{connect, follow, lineage, mine, show, why};

/// The life of a language model on Kubernetes, or on this machine alone.
#[derive(Debug, Parser)]
#[command(name = "bessemer", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The control plane, the store and the workers on this machine.
    Local(Local),
    /// Say in one sentence why an object is not ready, down to the cause.
    Why(About),
    /// Print the digests an object was made from, down to the sources.
    Lineage(About),
    /// Collect text and instruction pairs from the crates in cargo's registry.
    QuickstartData(mine::Options),
}

#[derive(Debug, Args)]
struct About {
    /// KIND/NAME, for example deployment/docs-chat.
    object: String,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Debug, Args)]
struct Local {
    /// State directory.
    #[arg(long, env = "BESSEMER_DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: LocalCommand,
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    /// Start in the background and write a kubeconfig.
    Up(local::UpOptions),
    /// Apply manifests and follow them until all are ready.
    Apply(follow::Options),
    /// List objects.
    Get(show::Which),
    /// List objects and go on as they change.
    Watch(show::Which),
    /// Print the log of the newest pod of an object.
    Logs(show::LogOptions),
    /// Print an object with its events.
    Describe(About),
    /// Why an object is not ready.
    Why(About),
    /// What an object was made from.
    Lineage(About),
    /// Delete objects by manifest or by KIND/NAME.
    Delete(show::DeleteOptions),
    /// Stop; the state stays.
    Down,
    /// The process behind `up`.
    #[command(hide = true)]
    Daemon(local::DaemonOptions),
}

/// Runs a command.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    match arguments.command {
        Command::Local(local) => run_local(local).await,
        Command::Why(about) => {
            why::print(&connect::default().await?, &about.namespace, &about.object).await
        }
        Command::Lineage(about) => {
            lineage::print(&connect::default().await?, &about.namespace, &about.object).await
        }
        Command::QuickstartData(options) => mine::run(&options),
    }
}

async fn run_local(local: Local) -> Result<(), Error> {
    let place = Place::new(local.dir)?;
    match local.command {
        LocalCommand::Up(options) => local::up(&place, &options).await,
        LocalCommand::Down => local::down(&place),
        LocalCommand::Daemon(options) => local::daemon(&place, &options).await,
        command => {
            let client = connect::local(&place).await?;
            match command {
                LocalCommand::Apply(options) => follow::apply(&client, &place, &options).await,
                LocalCommand::Get(which) => show::get(&client, &which, false).await,
                LocalCommand::Watch(which) => show::get(&client, &which, true).await,
                LocalCommand::Logs(options) => show::logs(&client, &options).await,
                LocalCommand::Describe(about) => {
                    show::describe(&client, &about.namespace, &about.object).await
                }
                LocalCommand::Why(about) => {
                    why::print(&client, &about.namespace, &about.object).await
                }
                LocalCommand::Lineage(about) => {
                    lineage::print(&client, &about.namespace, &about.object).await
                }
                LocalCommand::Delete(options) => show::delete(&client, &options).await,
                LocalCommand::Up(_) | LocalCommand::Down | LocalCommand::Daemon(_) => Ok(()),
            }
        }
    }
}

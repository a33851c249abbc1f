//! Owns the local control plane as processes: its directory, starting and stopping; it must not look at objects.

mod daemon;
mod place;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::Error;

pub use daemon::{DaemonOptions, daemon};
pub use place::Place;

/// Least free space to start with, in MB.
const LEAST_FREE_MB: u64 = 500;
/// How long the daemon may take to answer.
const START: Duration = Duration::from_secs(60);

/// Options of `local up`.
#[derive(Debug, Args)]
pub struct UpOptions {
    /// Directory with bessemer-worker; that of this program when absent.
    #[arg(long)]
    worker_dir: Option<std::path::PathBuf>,
    /// OTLP endpoint for traces of operator and workers.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

/// Starts the daemon in the background and waits until it answers.
pub async fn up(place: &Place, options: &UpOptions) -> Result<(), Error> {
    std::fs::create_dir_all(place.root()).map_err(Error::file(place.root()))?;
    let asked = Instant::now();
    while place.is_ending() && asked.elapsed() < START {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if place.is_running() {
        return Err(Error::AlreadyRunning(place.root().into()));
    }
    check_disk(place)?;
    let program = std::env::current_exe().map_err(Error::file("the path of this program"))?;
    let worker_dir = match &options.worker_dir {
        Some(given) => given.clone(),
        None => program.parent().map(Into::into).unwrap_or_default(),
    };
    check_worker(&worker_dir)?;
    let credentials = place.credentials()?;
    let log = std::fs::File::create(place.log()).map_err(Error::file(place.log()))?;
    let errors = log.try_clone().map_err(Error::file(place.log()))?;
    let _ = std::fs::remove_file(place.ready());
    let mut command = Command::new(program);
    command
        .args(["local", "--dir"])
        .arg(place.root())
        .arg("daemon")
        .arg("--worker-dir")
        .arg(&worker_dir)
        .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_key)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    if let Some(endpoint) = &options.otlp_endpoint {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    }
    // Its own process group: Ctrl-C at the terminal must not end it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .spawn()
        .map_err(Error::file("bessemer local daemon"))?;
    let started = Instant::now();
    while !place.ready().exists() {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || started.elapsed() > START {
            let text = std::fs::read_to_string(place.log()).unwrap_or_default();
            let line = text
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("bessemer: "))
                .map(str::to_string);
            let reason = line.unwrap_or_else(|| {
                text.lines()
                    .last()
                    .unwrap_or("it did not answer in time")
                    .to_string()
            });
            let _ = child.kill();
            return Err(Error::Daemon {
                reason,
                log: place.log(),
                code: ended
                    .and_then(|status| status.code())
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(1),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut out = std::io::stdout();
    let _ = writeln!(
        out,
        "The control plane runs. export KUBECONFIG={}",
        place.kubeconfig().display()
    );
    if let Some(port) = place.port(place::METRICS) {
        let _ = writeln!(
            out,
            "Metrics of the operator: http://127.0.0.1:{port}/metrics"
        );
    }
    Ok(())
}

/// Stops the daemon and what it runs; the state stays.
pub fn down(place: &Place) -> Result<(), Error> {
    let Some(pid) = place.pid().filter(|_| place.is_running()) else {
        println!("Nothing runs in {}.", place.root().display());
        return Ok(());
    };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let started = Instant::now();
    // The lock is let go a moment before the process ends.
    while place.is_running() || !place::has_ended(pid) {
        if started.elapsed() > Duration::from_secs(150) {
            // Workers had their grace; what is left is killed, and found again by the next `up`.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("Stopped; the state stays in {}.", place.root().display());
    Ok(())
}

fn check_disk(place: &Place) -> Result<(), Error> {
    let free = rustix::fs::statvfs(place.root())
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20)
        .map_err(|errno| Error::File {
            path: place.root().into(),
            source: errno.into(),
        })?;
    if free < LEAST_FREE_MB {
        return Err(Error::NoSpace {
            path: place.root().into(),
            free,
            needed: LEAST_FREE_MB,
        });
    }
    Ok(())
}

/// The worker must be there and find its libraries; asked now, since a pod would only say it later.
fn check_worker(directory: &std::path::Path) -> Result<(), Error> {
    let path = directory.join("bessemer-worker");
    if !path.exists() {
        let hint = "build it with `make build`, or give --worker-dir";
        return Err(Error::Missing {
            what: "the worker binary",
            path,
            hint,
        });
    }
    let asked = Command::new(&path)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let output = asked.map_err(Error::file(&path))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        return Err(Error::Worker(
            said.strip_prefix("bessemer-worker: ")
                .unwrap_or(said)
                .to_string(),
        ));
    }
    Ok(())
}

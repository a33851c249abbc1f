//! Owns how the process ends: termination message, last log line, exit code; also for a bug. It must not decide
//! what is an error.

use std::path::{Path, PathBuf};

use bessemer_protocol::{ExitCode, Termination};

use crate::failure::Failure;

/// The result is committed, or a server has drained.
pub fn succeed() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

/// Tells the operator and the log why.
pub fn fail(log: &Path, failure: &Failure) -> std::process::ExitCode {
    let Termination {
        category,
        message,
        hint,
    } = &failure.termination;
    tracing::error!(category, hint, exit = failure.exit.code(), "{message}");
    write(log, &failure.termination);
    std::process::ExitCode::from(u8::try_from(failure.exit.code()).unwrap_or(1))
}

/// Turns a panic of any thread into exit code 70 with a message; without this a panic in a pool thread would look
/// like anything but a bug.
pub fn catch_panics(log: &Path) {
    let log: PathBuf = log.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned());
        let text = text
            .or_else(|| panic.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let place = panic
            .location()
            .map(|at| format!(" ({}:{})", at.file(), at.line()))
            .unwrap_or_default();
        let termination = Termination {
            category: "Bug".into(),
            message: format!("{text}{place}"),
            hint: "This is a bug of Bessemer; report it with the pod's log.".into(),
        };
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        tracing::error!(category = "Bug", backtrace, "{}", termination.message);
        write(&log, &termination);
        std::process::exit(ExitCode::Bug.code());
    }));
}

fn write(log: &Path, termination: &Termination) {
    if let Err(error) = std::fs::write(log, termination.to_json()) {
        // Outside a cluster there is no such file; the log has the message anyway.
        tracing::debug!(path = %log.display(), %error, "no termination log");
    }
}

//! The program that pods name: checks that libtorch is there, then becomes `bessemer-worker-torch`. It must not link
//! libtorch, or a machine without it would get the loader's exit code 127 in place of a sentence.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bessemer_protocol::{ExitCode, Termination, env as name};

/// The worker proper, beside this program.
const WORKER: &str = "bessemer-worker-torch";

fn main() -> std::process::ExitCode {
    let worker = match std::env::current_exe() {
        Ok(own) => own.with_file_name(WORKER),
        Err(_) => PathBuf::from(WORKER),
    };
    let missing = missing(&worker);
    if !missing.is_empty() {
        return fail(&Termination {
            category: "LibraryMissing".into(),
            message: format!("the worker needs {}, which the loader does not find", missing.join(", ")),
            hint: "Fetch libtorch with `make setup` and run under `eval \"$(make -s env)\"`, which sets LD_LIBRARY_PATH; in a cluster use the trainer image of this version.".into(),
        });
    }
    let mut command = Command::new(&worker);
    command.args(std::env::args_os().skip(1));
    let defaults = [
        // Before libtorch is loaded: its threads read this once. Threads that spin would starve each other on shared
        // cores.
        ("OMP_WAIT_POLICY", "passive"),
        // Read at the same moment. What c10d warns of, with a stack, the worker tells in one sentence.
        ("TORCH_CPP_LOG_LEVEL", "ERROR"),
        // cuBLAS computes the same bits in every run only with workspaces of its own (cuBLAS, section 2.1.4); libtorch
        // refuses a deterministic run without.
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    ];
    for (name, value) in defaults {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let error = command.exec();
    fail(&Termination {
        category: "WorkerMissing".into(),
        message: format!("{}: {error}", worker.display()),
        hint: "Build it with `make build`, or use a whole trainer image.".into(),
    })
}

/// Libraries that the loader would not find, by its own account (ld.so(8)).
fn missing(program: &Path) -> Vec<String> {
    let listed = Command::new(program)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .output();
    let Ok(listed) = listed else {
        return Vec::new(); // `exec` says why
    };
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=> not found"))
        .map(|library| library.trim().to_owned())
        .collect()
}

fn fail(end: &Termination) -> std::process::ExitCode {
    eprintln!("bessemer-worker: {}. {}", end.message, end.hint);
    if let Some(log) = std::env::var_os(name::TERMINATION_LOG) {
        // Outside a pod there is no such file; the sentence is on standard error anyway.
        let _ = std::fs::write(log, end.to_json());
    }
    std::process::ExitCode::from(u8::try_from(ExitCode::Environment.code()).unwrap_or(1))
}

//! Writes the chart's roles from the table of rights; `--check` only compares. It must not hold a right of its own.

use std::process::ExitCode;

use bessemer_core::access;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = arguments.iter().any(|argument| argument == "--check");
    let path = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
        .map_or("charts/bessemer/templates/_rules.tpl", String::as_str);
    let text = access::chart();
    let result = match std::fs::read_to_string(path) {
        Ok(present) if present == text => Ok(()),
        _ if check => Err(format!(
            "{path} is not what operator/core/src/access.rs says; run `make generate`"
        )),
        _ => std::fs::write(path, text).map_err(|error| format!("{path}: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

//! Writes what stems from the tables of the code: the list of what is not built yet between the markers of
//! docs/status.md, and the chart's roles; `--check` only compares. It must not hold an entry or a right of its own.

use std::process::ExitCode;

use bessemer_core::access;
use bessemer_core::unimplemented::TABLE;

const STATUS: &str = "docs/status.md";
const ROLES: &str = "charts/bessemer/templates/_rules.tpl";
const BEGIN: &str = "<!-- unimplemented: written by `make generate` -->";
const END: &str = "<!-- end of unimplemented -->";

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let results = [
        status().and_then(|text| settle(STATUS, &text, check)),
        settle(ROLES, &access::chart(), check),
    ];
    let mut code = ExitCode::SUCCESS;
    for message in results.into_iter().filter_map(Result::err) {
        eprintln!("{message}");
        code = ExitCode::FAILURE;
    }
    code
}

/// docs/status.md with the table as it is now.
fn status() -> Result<String, String> {
    let text = std::fs::read_to_string(STATUS).map_err(|error| format!("{STATUS}: {error}"))?;
    let missing = || format!("{STATUS} lacks the lines `{BEGIN}` and `{END}`");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let rows: Vec<String> = TABLE
        .iter()
        .map(|entry| format!("| {} | `{}` |", entry.kind, entry.line()))
        .collect();
    let table = format!(
        "| Kind | Refused with reason NotImplemented |\n|---|---|\n{}",
        rows.join("\n")
    );
    Ok(format!("{before}{BEGIN}\n\n{table}\n\n{END}{after}"))
}

/// Makes `path` hold `text`, or says that it does not.
fn settle(path: &str, text: &str, check: bool) -> Result<(), String> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    if check {
        return Err(format!(
            "{path} is not what the code's tables say; run `make generate`"
        ));
    }
    std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

//! Writes the table of what is not built yet between the markers of docs/status.md; `--check` only compares. It must not
//! hold an entry of its own.

use std::process::ExitCode;

use bessemer_core::unimplemented::TABLE;

const BEGIN: &str = "<!-- unimplemented: written by `make generate` -->";
const END: &str = "<!-- end of unimplemented -->";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = arguments.iter().any(|argument| argument == "--check");
    let path = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let path = path.map_or("docs/status.md", String::as_str);
    match run(path, check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str, check: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let missing = || format!("{path} lacks the lines `{BEGIN}` and `{END}`");
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
    let new = format!("{before}{BEGIN}\n\n{table}\n\n{END}{after}");
    if new == text {
        return Ok(());
    }
    if check {
        return Err(format!(
            "{path} is not what the table says; run `make generate`"
        ));
    }
    std::fs::write(path, new).map_err(|error| format!("{path}: {error}"))
}

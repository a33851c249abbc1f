//! The text that the benchmarks read: source files below a directory.

use std::path::{Path, PathBuf};

/// The words after the program's name, and the directory that the first of them names: the crates in cargo's registry
/// without one.
pub fn arguments() -> Result<(Vec<String>, PathBuf), std::env::VarError> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let directory = words.first().cloned().unwrap_or(home + "/registry/src");
    Ok((words, directory.into()))
}

/// Path and text of every file below `directory` whose extension is among `extensions`, in the order of their names.
pub fn files(
    directory: &Path,
    extensions: &[&str],
) -> impl Iterator<Item = Result<(PathBuf, String), walkdir::Error>> {
    walkdir::WalkDir::new(directory)
        .sort_by_file_name()
        .into_iter()
        .filter_map(move |entry| {
            let path = match entry {
                Ok(entry) => entry.into_path(),
                Err(error) => return Some(Err(error)),
            };
            let wanted = extensions
                .iter()
                .any(|known| path.extension().is_some_and(|e| e == *known));
            let text = wanted.then(|| std::fs::read_to_string(&path).ok())??;
            Some(Ok((path, text)))
        })
}

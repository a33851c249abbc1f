//! Owns the collection of real text and instruction pairs from the crates in cargo's registry: documentation, README
//! and source, each with the licence of its crate. It writes plain files; a Dataset does the rest.

mod item;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::error::Error;

/// Options of `quickstart-data`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory to write: text/*.jsonl and pairs/*.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Sources of crates; cargo's registry when absent.
    #[arg(long)]
    registry: Option<PathBuf>,
    /// Bytes of text at most.
    #[arg(long, default_value_t = 6_000_000)]
    text_bytes: u64,
    /// Pairs at most.
    #[arg(long, default_value_t = 6_000)]
    pairs: usize,
}

/// Longest file that is taken.
const LONGEST_FILE: u64 = 200_000;

/// Collects text and pairs, in an order and amount that depend only on which crates are there.
pub fn run(options: &Options) -> Result<(), Error> {
    let root = match &options.registry {
        Some(given) => given.clone(),
        None => registry()?,
    };
    let crates = crates(&root)?;
    let text_dir = options.out.join("text");
    let pairs_dir = options.out.join("pairs");
    for directory in [&text_dir, &pairs_dir] {
        std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
    }
    let mut text = Lines::create(text_dir.join("crates.jsonl"))?;
    let mut pairs = Lines::create(pairs_dir.join("items.jsonl"))?;
    let mut asked = BTreeSet::new();
    // Every crate gives a share, so that a few large ones do not fill the budget.
    let share = (options.text_bytes / crates.len().max(1) as u64).max(20_000);
    for (directory, name, license) in &crates {
        let mut left = share;
        for file in files(directory) {
            let Ok(content) = std::fs::read_to_string(&file) else {
                continue;
            };
            let is_source = file.extension().is_some_and(|extension| extension == "rs");
            if is_source && pairs.count < options.pairs {
                for (signature, answer) in item::pairs(&content) {
                    if pairs.count < options.pairs && asked.insert(signature.clone()) {
                        let prompt = format!("What does `{signature}` do?");
                        pairs.write(&json!({"prompt": prompt, "response": answer, "license": license, "crate": name}))?;
                    }
                }
            }
            let prose = if is_source {
                item::documentation(&content)
            } else {
                content
            };
            if prose.len() > 200 && text.bytes < options.text_bytes && left > 0 {
                left = left.saturating_sub(prose.len() as u64);
                text.write(&json!({"text": prose, "license": license, "crate": name}))?;
            }
        }
    }
    let (documents, bytes) = text.finish()?;
    let (count, _) = pairs.finish()?;
    if documents == 0 || count == 0 {
        return Err(Error::Mine(format!(
            "{} holds no documented crates; build once with cargo, or give --registry",
            root.display()
        )));
    }
    println!(
        "{documents} documents ({:.1} MB) and {count} pairs of {} crates in {}",
        bytes as f64 / 1e6,
        crates.len(),
        options.out.display()
    );
    Ok(())
}

/// The directory of unpacked crates that cargo keeps.
fn registry() -> Result<PathBuf, Error> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .unwrap_or_default();
    let sources = home.join("registry/src");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&sources)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        Error::Mine(format!(
            "{} is empty; build once with cargo, or give --registry",
            sources.display()
        ))
    })
}

/// Crates with a licence, by name: directory, name, SPDX expression.
fn crates(root: &Path) -> Result<Vec<(PathBuf, String, String)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::file(root))? {
        let directory = entry.map_err(Error::file(root))?.path();
        let Ok(manifest) = std::fs::read_to_string(directory.join("Cargo.toml")) else {
            continue;
        };
        if let (Some(name), Some(license)) = (field(&manifest, "name"), field(&manifest, "license"))
        {
            found.push((directory, name, license));
        }
    }
    found.sort();
    Ok(found)
}

/// The first `name = "value"` of a package's manifest; cargo writes them one to a line.
fn field(manifest: &str, name: &str) -> Option<String> {
    let package = manifest.split_once("[package]")?.1;
    let line = package.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    })?;
    let value = line.split_once('=')?.1.trim();
    Some(value.strip_prefix('"')?.strip_suffix('"')?.to_string())
}

/// README and sources of a crate, in path order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or_default();
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file()
                && meta.len() < LONGEST_FILE
                && ["rs", "md"].contains(&extension)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A JSON-lines file being written.
struct Lines {
    path: PathBuf,
    out: std::io::BufWriter<std::fs::File>,
    count: usize,
    bytes: u64,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self, Error> {
        let file = std::fs::File::create(&path).map_err(Error::file(&path))?;
        Ok(Self {
            path,
            out: std::io::BufWriter::new(file),
            count: 0,
            bytes: 0,
        })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<(), Error> {
        let text = line.to_string();
        self.count += 1;
        self.bytes += text.len() as u64;
        writeln!(self.out, "{text}").map_err(Error::file(&self.path))
    }

    fn finish(mut self) -> Result<(usize, u64), Error> {
        self.out.flush().map_err(Error::file(&self.path))?;
        Ok((self.count, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_gives_text_and_pairs_with_licences() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("one-1.0.0/src");
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(
            root.path().join("one-1.0.0/Cargo.toml"),
            "[package]\nname = \"one\"\nlicense = \"MIT OR Apache-2.0\"\n",
        )
        .unwrap();
        std::fs::write(
            root.path().join("one-1.0.0/README.md"),
            "A crate. ".repeat(40),
        )
        .unwrap();
        std::fs::write(
            source.join("lib.rs"),
            "/// Returns the number of elements in the list.\npub fn len(&self) -> usize {\n 1 }\n",
        )
        .unwrap();
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            out: out.path().into(),
            registry: Some(root.path().into()),
            text_bytes: 1000,
            pairs: 10,
        };
        run(&options).unwrap();
        let pairs = std::fs::read_to_string(out.path().join("pairs/items.jsonl")).unwrap();
        let pair: serde_json::Value = serde_json::from_str(pairs.trim()).unwrap();
        assert_eq!(pair["prompt"], "What does `pub fn len(&self) -> usize` do?");
        assert_eq!(
            pair["response"],
            "Returns the number of elements in the list."
        );
        assert_eq!(pair["license"], "MIT OR Apache-2.0");
        let text = std::fs::read_to_string(out.path().join("text/crates.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
        let empty = Options {
            registry: Some(out.path().into()),
            ..options
        };
        assert!(
            run(&empty)
                .unwrap_err()
                .to_string()
                .contains("no documented crates")
        );
    }
}

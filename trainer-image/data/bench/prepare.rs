//! How fast is a whole preparation, by threads? Reads Markdown and Rust files below a directory.
//!
//! `cargo bench --profile release -p bessemer-data --bench prepare -- DIRECTORY MEGABYTES THREADS...`; the digest shows
//! that the result does not depend on the threads.

use std::path::Path;
use std::time::Instant;

use bessemer_data::{Control, LocalSource, PrepareStage, prepare};
use bessemer_protocol::task::PrepareTask;
use serde_json::json;
use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error>;

/// Notes when each stage begins.
struct Stages(Vec<(PrepareStage, Instant)>);

impl Control for Stages {
    fn progress(&mut self, stage: PrepareStage, _: u64, _: u64) {
        if self.0.last().is_none_or(|(last, _)| *last != stage) {
            self.0.push((stage, Instant::now()));
        }
    }
    fn cancelled(&self) -> bool {
        false
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args()
        .filter(|argument| argument != "--bench")
        .collect();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let directory = arguments.get(1).cloned().unwrap_or(home + "/registry/src");
    let limit: u64 = arguments.get(2).map_or(Ok(50), |text| text.parse())?;
    let mut threads = Vec::new();
    for text in arguments.iter().skip(3) {
        threads.push(text.parse::<usize>()?);
    }
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let place = std::env::temp_dir().join(format!("bessemer-prepare-{}", std::process::id()));
    let root = place.join("source");
    let bytes = copy(Path::new(&directory), &root, limit * 1_000_000)? as f64 / 1e6;
    let task: PrepareTask = serde_json::from_value(json!({
        "purpose": "Pretraining", "sources": [],
        "clean": {"unicode": "Nfc", "minCharacters": 32, "maxCharacters": 10_000_000, "repetition": "Gopher"},
        "exactDeduplication": true, "licenses": {},
        "tokenizer": {"TrainBpe": {"vocabularySize": 8192, "specialTokens": []}},
        "split": {"validation": 0.1, "seed": 0}
    }))?;
    let source = LocalSource {
        source: serde_json::from_value(
            json!({"name": "files", "uri": "file:///", "format": "Auto", "weight": 1.0}),
        )?,
        root,
    };
    for threads in threads {
        let work = place.join("work");
        std::fs::create_dir_all(&work)?;
        let mut stages = Stages(Vec::new());
        let started = Instant::now();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        let prepared = pool.install(|| {
            prepare(
                &task,
                std::slice::from_ref(&source),
                None,
                &work,
                &mut stages,
            )
        })?;
        let whole = started.elapsed().as_secs_f64();
        let ends = stages.0.iter().skip(1).map(|(_, begin)| *begin);
        let parts: Vec<String> = stages
            .0
            .iter()
            .zip(ends.chain([Instant::now()]))
            .map(|((stage, begin), end)| format!("{stage:?} {:.1} s", (end - *begin).as_secs_f64()))
            .collect();
        println!(
            "{bytes:.0} MB, {threads} threads: {:.1} MB/s ({}), digest {}",
            bytes / whole,
            parts.join(", "),
            digest(&prepared.directory)?
        );
        std::fs::remove_dir_all(&work)?;
    }
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

/// Copies files until there are `limit` bytes, so that all runs read the same from a warm cache.
fn copy(from: &Path, to: &Path, limit: u64) -> Result<u64, Failure> {
    std::fs::create_dir_all(to)?;
    let mut bytes = 0;
    for (number, entry) in walkdir::WalkDir::new(from)
        .sort_by_file_name()
        .into_iter()
        .enumerate()
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        let text = name.ends_with(".rs") || name.ends_with(".md");
        let good =
            || std::fs::read_to_string(entry.path()).is_ok_and(|content| !content.contains('\0'));
        if bytes < limit && text && good() {
            bytes += std::fs::copy(entry.path(), to.join(format!("{number:07}-{name}")))?;
        }
    }
    Ok(bytes)
}

fn digest(directory: &Path) -> Result<String, Failure> {
    let mut hasher = Sha256::new();
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            hasher.update(std::fs::read(entry.path())?);
        }
    }
    Ok(hex::encode(hasher.finalize()).chars().take(12).collect())
}

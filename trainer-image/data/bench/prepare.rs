//! How fast is a whole preparation, by threads? Reads Markdown and Rust files below a directory.
//!
//! `cargo bench --profile release -p bessemer-data --bench prepare -- DIRECTORY MEGABYTES THREADS...`; the digest shows
//! that the result does not depend on the threads.

mod corpus;

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
    let (arguments, directory) = corpus::arguments()?;
    let limit: u64 = arguments.get(1).map_or(Ok(50), |text| text.parse())?;
    let mut threads = Vec::new();
    for text in arguments.iter().skip(2) {
        threads.push(text.parse::<usize>()?);
    }
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let place = std::env::temp_dir().join(format!("bessemer-prepare-{}", std::process::id()));
    let root = place.join("source");
    let bytes = copy(&directory, &root, limit * 1_000_000)? as f64 / 1e6;
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
    for (number, file) in corpus::files(from, &["rs", "md"]).enumerate() {
        if bytes >= limit {
            break;
        }
        let (path, text) = file?;
        if !text.contains('\0')
            && let Some(name) = path.file_name()
        {
            let name = name.to_string_lossy();
            bytes += std::fs::copy(&path, to.join(format!("{number:07}-{name}")))?;
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

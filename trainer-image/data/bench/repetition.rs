//! How fast are Gopher's repetition rules on one thread? `bench/repetition.py` measures datatrove on the same text.
//!
//! `cargo bench --release -p bessemer-data --bench repetition -- DIRECTORY MEGABYTES [OUT]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A benchmark stops at the first fault.

use std::time::Instant;

use bessemer_data::RepetitionFilter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args()
        .filter(|argument| argument != "--bench")
        .collect();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let directory = arguments.get(1).cloned().unwrap_or(home + "/registry/src");
    let limit: usize = arguments
        .get(2)
        .map_or(Ok(10), |text| text.parse::<usize>())?
        * 1_000_000;
    let mut texts = Vec::new();
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry?;
        if bytes >= limit {
            break;
        }
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "md")
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            bytes += text.len();
            texts.push(text);
        }
    }
    let mut filter = RepetitionFilter::new();
    let started = Instant::now();
    let removed = texts
        .iter()
        .filter(|text| filter.broken(text).is_some())
        .count();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} documents, {:.1} MB: {:.1} MB/s, {removed} removed",
        texts.len(),
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / seconds
    );
    if let Some(out) = arguments.get(3) {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| serde_json::json!(text).to_string())
            .collect();
        std::fs::write(out, lines.join("\n"))?;
    }
    Ok(())
}

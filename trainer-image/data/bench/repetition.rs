//! How fast are Gopher's repetition rules on one thread? `bench/repetition.py` measures datatrove on the same text.
//!
//! `cargo bench --release -p bessemer-data --bench repetition -- DIRECTORY MEGABYTES [OUT]`

mod corpus;

use std::time::Instant;

use bessemer_data::RepetitionFilter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (arguments, directory) = corpus::arguments()?;
    let limit: usize = arguments
        .get(1)
        .map_or(Ok(10), |text| text.parse::<usize>())?
        * 1_000_000;
    let mut texts = Vec::new();
    let mut bytes = 0;
    for file in corpus::files(&directory, &["md"]) {
        if bytes >= limit {
            break;
        }
        let (_, text) = file?;
        bytes += text.len();
        texts.push(text);
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
    if let Some(out) = arguments.get(2) {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| serde_json::json!(text).to_string())
            .collect();
        std::fs::write(out, lines.join("\n"))?;
    }
    Ok(())
}

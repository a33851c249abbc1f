//! `simulate --seeds N --from S`: runs simulations and prints what was covered; a failing seed is named with the command
//! that repeats it.

use std::process::ExitCode;
use std::time::Instant;

use bessemer_api::Kind;
use bessemer_e2e::simulation::fault::{Coverage, STEPS, possible};
use bessemer_e2e::simulation::{hunt, rest, trial};
use bessemer_runtime::bug::Bug;
use clap::Parser;

/// Seeds of one thread between two lines of progress.
const PROGRESS: u64 = 500;

/// Simulates the whole operator under seeded faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; seeds are independent.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// After so many seconds no further seed is begun.
    #[arg(long, default_value_t = u64::MAX)]
    limit: u64,
    /// Fail if a (kind, step, fault) was never met, unless seeds were left out.
    #[arg(long)]
    complete: bool,
    /// Instead of seeds: this many objects without faults, to rest and for 24 virtual hours at rest.
    #[arg(long)]
    rest: Option<usize>,
    /// Print the operator's log (for one seed).
    #[arg(long)]
    log: bool,
    /// Plant this bug, or `all` of them in turn, and say which seed finds it.
    #[arg(long)]
    plant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .init();
    }
    let start = Instant::now();
    let end = arguments.from + arguments.seeds;
    if let Some(objects) = arguments.rest {
        return at_rest(objects, start);
    }
    if let Some(word) = &arguments.plant {
        return planted(word, arguments.from..end);
    }
    let workers: Vec<_> = (0..arguments.threads.max(1))
        .map(|thread| {
            let (from, step) = (arguments.from + thread, arguments.threads.max(1));
            std::thread::spawn(move || {
                let (mut coverage, mut failed, mut requests) = (Coverage::new(), Vec::new(), 0);
                let mut done = 0;
                for seed in (from..end).step_by(usize::try_from(step).unwrap_or(1)) {
                    if seed > from && (seed - from).is_multiple_of(PROGRESS * step) {
                        let passed = seed - from;
                        eprintln!("thread {thread}: {} of its seeds done", passed / step);
                    }
                    if start.elapsed().as_secs() >= arguments.limit {
                        break;
                    }
                    let report = trial(seed);
                    done += 1;
                    requests += report.requests;
                    for (cell, count) in report.coverage {
                        *coverage.entry(cell).or_insert(0) += count;
                    }
                    if !report.broken.is_empty() {
                        eprintln!("seed {seed} ({} objects) broke:", report.objects);
                        for what in &report.broken {
                            eprintln!("  {what}");
                        }
                        eprintln!("  repeat: make simulate SEEDS=1 FROM={seed} LOG=1");
                        failed.push(seed);
                    }
                }
                (coverage, failed, requests, done)
            })
        })
        .collect();
    let (mut coverage, mut failed, mut requests) = (Coverage::new(), Vec::new(), 0);
    let mut done: u64 = 0;
    for worker in workers {
        let Ok((cells, seeds, count, lived)) = worker.join() else {
            eprintln!("a simulation panicked");
            return ExitCode::FAILURE;
        };
        for (cell, count) in cells {
            *coverage.entry(cell).or_insert(0) += count;
        }
        failed.extend(seeds);
        requests += count;
        done += lived;
    }
    let empty = print(&coverage);
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let each = seconds * 1000.0 / done.max(1) as f64;
    println!(
        "{done} seeds, {} failed, {requests} requests, {empty} empty cells, {seconds:.1} s, {each:.1} ms each",
        failed.len()
    );
    let left = arguments.seeds - done;
    if left > 0 {
        println!(
            "left out: {left} seeds, because {} s are over",
            arguments.limit
        );
    }
    let complete = !(arguments.complete && left == 0 && empty > 0);
    let word = if failed.is_empty() && complete {
        "ok"
    } else {
        "FAILED"
    };
    println!(
        "test result: {word}. {} passed; {} failed;",
        done - failed.len() as u64,
        failed.len() + usize::from(!complete)
    );
    if word == "ok" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what many objects cost, and that they cost nothing at rest.
fn at_rest(objects: usize, start: Instant) -> ExitCode {
    let report = rest(objects);
    if !report.broken.is_empty() {
        report
            .broken
            .iter()
            .take(10)
            .for_each(|what| println!("{what}"));
        return ExitCode::FAILURE;
    }
    println!(
        "| {} objects | {} requests | {} writes, 0 in 24 virtual hours at rest | {:.0} s |",
        report.objects,
        report.requests,
        report.writes,
        start.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}

/// Looks for planted bugs and prints what found them.
fn planted(word: &str, seeds: std::ops::Range<u64>) -> ExitCode {
    let named = |bug: &Bug| word == "all" || format!("{bug:?}") == word;
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(named).collect();
    if bugs.is_empty() {
        eprintln!("no bug is called {word}; there are {:?}", Bug::ALL);
        return ExitCode::FAILURE;
    }
    let mut missed = 0;
    for bug in &bugs {
        let start = Instant::now();
        match hunt(*bug, seeds.clone()) {
            Some((seed, broken)) => {
                let what = broken.first().map_or("", String::as_str);
                let seconds = start.elapsed().as_secs_f64();
                println!("{bug:?}: found by seed {seed} after {seconds:.1} s: {what}");
            }
            None => {
                missed += 1;
                println!("{bug:?}: NOT FOUND in {seeds:?}");
            }
        }
    }
    println!("{} bugs planted, {missed} not found", bugs.len());
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints how often each (kind, step, fault) was met; returns the number of empty cells.
fn print(coverage: &Coverage) -> usize {
    let mut empty = 0;
    for kind in Kind::ALL {
        for step in STEPS {
            let cells: Vec<String> = possible(step)
                .iter()
                .map(|fault| {
                    let count = coverage.get(&(kind, step, *fault)).copied().unwrap_or(0);
                    if count == 0 {
                        empty += 1;
                    }
                    format!("{fault:?} {count}")
                })
                .collect();
            println!(
                "{:<12} {:<8} {}",
                kind.name(),
                format!("{step:?}"),
                cells.join(", ")
            );
        }
    }
    empty
}

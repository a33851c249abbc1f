//! Question: does nanoGPT's CPU recipe reach PyTorch's validation loss in less than PyTorch eager's time?
//!
//! `cargo bench -p bessemer-train --bench nanogpt`, with `BESSEMER_PEER_PYTHON` naming a Python that has
//! torch==2.11.0 (without it only our side runs) and `BESSEMER_SHAKESPEARE` the text. Both sides start from the
//! same weights, see the same batches in the same order, and are timed over the training steps alone.

#[path = "common.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bessemer_kernels::{Version, head_loss};
use bessemer_model::{Config, Directory, Model};
use bessemer_protocol::task::Batch;
use bessemer_train::{Batches, Error, Ranks, Rows, run};
use common::{Clock, ask, settings};
use tch::{Device, Kind, Tensor};

const CONTEXT: usize = 64;
const BATCH: usize = 12;
const EVALUATION_BATCHES: usize = 200;

type Failure = Box<dyn std::error::Error>;

/// The text as character ids, split 90:10, and the starts of all sequences.
struct Shakespeare {
    train: Vec<i64>,
    held_out: Vec<i64>,
    starts: Vec<usize>,
    steps: usize,
}

impl Shakespeare {
    fn rows(source: &[i64], starts: &[usize]) -> Rows {
        let mut rows = Rows {
            count: starts.len(),
            length: CONTEXT,
            name: format!("starts {starts:?}"),
            ..Rows::default()
        };
        for &start in starts {
            rows.tokens.extend(source.iter().skip(start).take(CONTEXT));
            rows.targets
                .extend(source.iter().skip(start + 1).take(CONTEXT));
        }
        rows
    }

    fn starts(&self, batch: usize) -> &[usize] {
        self.starts
            .get(batch * BATCH..(batch + 1) * BATCH)
            .unwrap_or_default()
    }
}

impl Batches for Shakespeare {
    fn training(&mut self, step: u64, _: usize, _: usize) -> Result<Rows, Error> {
        Ok(Self::rows(&self.train, self.starts(step as usize)))
    }

    fn validation(&mut self, _: usize, _: usize) -> Result<Rows, Error> {
        Ok(Rows::default())
    }
}

/// Runs PyTorch; prints why not when it cannot.
fn peer(text: &Path, directory: &Path, steps: usize, threads: u32) -> Option<(f64, f64)> {
    let threads = threads.to_string();
    let line = ask(
        "nanogpt_peer.py",
        &[
            text.as_os_str(),
            directory.as_os_str(),
            steps.to_string().as_ref(),
            threads.as_ref(),
        ],
    )?;
    Some((line.get("seconds")?.as_f64()?, line.get("loss")?.as_f64()?))
}

/// Starts drawn by ourselves, when there is no peer to share them with.
fn own_starts(steps: usize, train: usize, held_out: usize) -> Vec<usize> {
    tch::manual_seed(1337);
    let draw = |limit: usize, count: usize| {
        let starts = Tensor::randint(
            (limit - CONTEXT) as i64,
            [(count * BATCH) as i64],
            (Kind::Int64, Device::Cpu),
        );
        Vec::<i64>::try_from(starts).unwrap_or_default()
    };
    draw(train, steps)
        .into_iter()
        .chain(draw(held_out, EVALUATION_BATCHES))
        .map(|start| start as usize)
        .collect()
}

fn main() -> Result<(), Failure> {
    bessemer_torch::sleep_while_waiting();
    let text = std::env::var_os("BESSEMER_SHAKESPEARE").map(PathBuf::from);
    let text = text.unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tinyshakespeare.txt")
    });
    let Ok(content) = std::fs::read_to_string(&text) else {
        println!(
            "skipped: {} is not there; set BESSEMER_SHAKESPEARE",
            text.display()
        );
        return Ok(());
    };
    let steps: usize = std::env::var("BESSEMER_BENCH_STEPS")
        .ok()
        .and_then(|steps| steps.parse().ok())
        .unwrap_or(2000);
    let threads: u32 = 2;
    let letters: Vec<char> = content
        .chars()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let ids: Vec<i64> = content
        .chars()
        .filter_map(|c| letters.binary_search(&c).ok())
        .map(|id| id as i64)
        .collect();
    let (train, held_out) = ids.split_at(ids.len() * 9 / 10);
    let directory = std::env::temp_dir().join(format!("bessemer-nanogpt-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;

    let peer = peer(&text, &directory, steps, threads);
    let config = Config {
        bias: false,
        ..Config::gpt2(letters.len() as i64, 4, 4, 128, CONTEXT as i64)
    };
    let mut model = Model::new(config, 1337, Kind::Float, Device::Cpu)?;
    let starts = if peer.is_some() {
        let weights = std::fs::read(directory.join("model.safetensors"))?;
        Directory::new(&directory).save(&model, &[])?; // config.json; the weights are the peer's
        std::fs::write(directory.join("model.safetensors"), weights)?;
        model = Directory::new(&directory).load(None, None, Device::Cpu)?;
        model.set_trainable(true);
        let bytes = std::fs::read(directory.join("starts"))?;
        bytes
            .chunks_exact(8)
            .filter_map(|b| b.try_into().ok())
            .map(|b| i64::from_le_bytes(b) as usize)
            .collect()
    } else {
        own_starts(steps, train.len(), held_out.len())
    };
    let mut batches = Shakespeare {
        train: train.to_vec(),
        held_out: held_out.to_vec(),
        starts,
        steps,
    };
    let batch = Batch {
        sequences: BATCH as u32,
        micro_batch: BATCH as u32,
        sequence_length: CONTEXT as u32,
    };
    let settings = settings(steps as u64, batch, threads);
    let start = Instant::now();
    run(
        &model,
        &mut batches,
        &settings,
        &directory.join("checkpoints"),
        &mut Ranks::alone(),
        &mut Clock::new(250),
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let mut sum = 0.0;
    for batch in 0..EVALUATION_BATCHES {
        let rows = Shakespeare::rows(&batches.held_out, batches.starts(batches.steps + batch));
        let tokens = Tensor::from_slice(&rows.tokens).view([BATCH as i64, CONTEXT as i64]);
        let targets = Tensor::from_slice(&rows.targets);
        let loss = tch::no_grad(|| -> Result<Tensor, Failure> {
            let hidden = model.hidden(&tokens, None, false)?;
            Ok(head_loss(
                &hidden,
                model.head(),
                &targets,
                1.0 / (BATCH * CONTEXT) as f64,
                Version::Fused,
            )?)
        })?;
        sum += loss.double_value(&[]);
    }
    let loss = sum / EVALUATION_BATCHES as f64;
    std::fs::remove_dir_all(&directory)?;

    println!(
        "| nanoGPT CPU recipe, {steps} steps | seconds | validation loss over {EVALUATION_BATCHES} batches |"
    );
    println!("|---|---|---|");
    println!("| Bessemer | {seconds:.1} | {loss:.4} |");
    if let Some((peer_seconds, peer_loss)) = peer {
        println!("| PyTorch eager | {peer_seconds:.1} | {peer_loss:.4} |");
        println!(
            "ratio of seconds {:.3}, difference of losses {:+.4}",
            seconds / peer_seconds,
            loss - peer_loss
        );
    }
    Ok(())
}

//! Question: how many tokens per second does GPT-2 124M train on a GPU, and which share of the GPU's arithmetic is
//! that, beside PyTorch eager and compiled?
//!
//! `cargo bench -p bessemer-train --bench gpt2`; the peer as in nanogpt.rs, `BESSEMER_MICRO_BATCH` sequences (32) of
//! 1,024 random tokens, one micro-batch per step, BF16. The share is that of a run's own progress
//! (`Config::training_flops_per_token`, `bessemer_torch::peak_flops`), for the peer too.

#[path = "common.rs"]
mod common;

use bessemer_model::{Config, Model};
use bessemer_protocol::task::Batch;
use bessemer_train::{Batches, Error, Ranks, Rows, run};
use common::{Clock, ask, settings};
use rand::{Rng, SeedableRng};
use tch::Kind;

const CONTEXT: usize = 1024;
const VOCABULARY: i64 = 50_304;
const STEPS: u64 = 40;
/// Steps before the clock counts: memory is allocated and cuBLAS chooses.
const WARM: usize = 10;

struct Random;

impl Batches for Random {
    fn training(&mut self, step: u64, _: usize, count: usize) -> Result<Rows, Error> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(step);
        let mut draw = || {
            (0..count * CONTEXT)
                .map(|_| random.random_range(0..VOCABULARY))
                .collect()
        };
        Ok(Rows {
            tokens: draw(),
            targets: draw(),
            count,
            length: CONTEXT,
            name: format!("random tokens of step {step}"),
        })
    }

    fn validation(&mut self, _: usize, _: usize) -> Result<Rows, Error> {
        Ok(Rows::default())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    bessemer_torch::sleep_while_waiting();
    let gpu = match bessemer_torch::device(1) {
        Ok(gpu) => gpu,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };
    let sequences: u32 = match std::env::var("BESSEMER_MICRO_BATCH") {
        Ok(text) => text.parse()?,
        Err(_) => 32,
    };
    let config = Config::gpt2(VOCABULARY, 12, 12, 768, CONTEXT as i64);
    let model = Model::new(config, 1337, Kind::BFloat16, gpu)?;
    let per_token = model.config().training_flops_per_token(CONTEXT as i64);
    let peak = bessemer_torch::peak_flops(gpu, Kind::BFloat16).unwrap_or(f64::NAN);
    let batch = Batch {
        sequences,
        micro_batch: sequences,
        sequence_length: CONTEXT as u32,
    };
    let directory = std::env::temp_dir().join(format!("bessemer-gpt2-{}", std::process::id()));
    let mut clock = Clock::new(10);
    run(
        &model,
        &mut Random,
        &settings(STEPS, batch, 4),
        &directory,
        &mut Ranks::alone().on(gpu),
        &mut clock,
    )?;
    std::fs::remove_dir_all(&directory)?;
    let (warm, end) = (clock.ends.get(WARM - 1), clock.ends.last());
    let seconds = end
        .zip(warm)
        .map_or(f64::NAN, |(end, warm)| (*end - *warm).as_secs_f64());
    let tokens = (STEPS as usize - WARM) * sequences as usize * CONTEXT;
    let row = |name: &str, rate: f64| {
        println!(
            "| {name} | {rate:.0} | {:.1} % |",
            100.0 * rate * per_token / peak
        );
    };
    println!("| GPT-2 124M, BF16, {sequences} x {CONTEXT} | tokens/s | of the peak |");
    println!("|---|---|---|");
    row("Bessemer", tokens as f64 / seconds);
    drop(model);
    for form in ["eager", "compiled"] {
        if let Some(line) = ask(
            "gpt2_peer.py",
            &[sequences.to_string().as_ref(), form.as_ref()],
        ) {
            row(
                &format!("PyTorch {form}"),
                line.get("tokens_per_second")
                    .and_then(serde_json::Value::as_f64)
                    .unwrap_or(f64::NAN),
            );
        }
    }
    Ok(())
}

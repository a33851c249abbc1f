//! Question: how many tokens per second does GPT-2 124M train on a GPU, and which share of the GPU's arithmetic is
//! that, beside PyTorch eager and compiled?
//!
//! `cargo bench -p bessemer-train --bench gpt2`; the peer as in nanogpt.rs, `BESSEMER_MICRO_BATCH` sequences (32) of
//! 1,024 random tokens, one micro-batch per step, BF16. Floating-point operations per token are
//! `6 N + 12 layers width context` (PaLM, arXiv 2204.02311, appendix B) with all `N` weights but the positions', as
//! nanoGPT counts them; the peak is 989.4 TFLOP/s, the data sheet's for dense BF16 on H100 and H200 SXM.

#[path = "common.rs"]
mod common;

use bessemer_model::{Config, Model};
use bessemer_protocol::task::Batch;
use bessemer_train::{Batches, Error, Ranks, Rows, run};
use common::{Clock, ask, settings};
use rand::{Rng, SeedableRng};
use tch::Kind;

const LAYERS: i64 = 12;
const WIDTH: i64 = 768;
const CONTEXT: usize = 1024;
const VOCABULARY: i64 = 50_304;
const STEPS: u64 = 40;
/// Steps before the clock counts: memory is allocated and cuBLAS chooses.
const WARM: usize = 10;
const PEAK: f64 = 989.4e12;

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
    let config = Config::gpt2(VOCABULARY, LAYERS, 12, WIDTH, CONTEXT as i64);
    let model = Model::new(config, 1337, Kind::BFloat16, gpu)?;
    let weights: usize = model.trainable().iter().map(|p| p.tensor.numel()).sum();
    let weights = weights as f64 - (CONTEXT as i64 * WIDTH) as f64;
    let per_token = 6.0 * weights + (12 * LAYERS * WIDTH * CONTEXT as i64) as f64;
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
            100.0 * rate * per_token / PEAK
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

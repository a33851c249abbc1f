//! One question: what does serving several streams at once cost each of them? A random 134M Llama
//! (12 layers, 768 wide, 32,000 ids, BF16) behind the real HTTP server on two threads, prompts of
//! 128 tokens, 64 generated tokens, eight streams each at concurrency 1 and 4, and the weights read
//! by a plain pass beside them. With `--url URL --model NAME` it measures another OpenAI server
//! with the same client.
//!
//! TTFT is the time to the first event with text; TPOT is (end - TTFT) / (tokens - 1).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A benchmark stops at the first fault.

use bessemer_model::{Config, Directory, Model};
use bessemer_protocol::task::ServeTask;
use bessemer_serve::{ServeOptions, serve};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tch::{Device, Kind};
use tokio_util::sync::CancellationToken;

const STREAMS: usize = 8;
const PROMPT: u32 = 128;
const TOKENS: usize = 64;
const VOCABULARY: i64 = 32_000;

/// Every id is a token with visible text, so that every token is an event.
fn tokenizer() -> Value {
    let mut vocabulary = serde_json::Map::new();
    for byte in b'!'..=b'~' {
        vocabulary.insert(char::from(byte).to_string(), json!(byte - b'!'));
    }
    for id in vocabulary.len()..VOCABULARY as usize {
        vocabulary.insert(format!("w{id}"), json!(id));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}
    })
}

fn model() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    let config = Config::llama(VOCABULARY, 12, (12, 12), 768, 2048, 1024);
    println!(
        "model: {:.1} M parameters, BF16",
        config.parameters() as f64 / 1e6
    );
    let directory = Directory::new(root.path());
    let fresh = Model::new(config, 1, Kind::Float, Device::Cpu).expect("a model");
    directory.save(&fresh, &[0]).expect("room for the model");
    let short = directory
        .load(Some(Kind::BFloat16), None, Device::Cpu)
        .expect("the model");
    directory.save(&short, &[0]).expect("room for the model");
    std::fs::write(root.path().join("tokenizer.json"), tokenizer().to_string())
        .expect("room for the tokenizer");
    root
}

struct Sample {
    first: f64,
    per_token: f64,
    tokens: usize,
}

async fn stream(client: &reqwest::Client, url: &str, model: &str, number: usize) -> Sample {
    let prompt: Vec<u32> = (0..PROMPT)
        .map(|i| (i * 7919 + number as u32 * 104_729) % 31_000 + 500)
        .collect();
    let body = json!({"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.8, "top_k": 40, "seed": number,
        "ignore_eos": true, "stream": true});
    let start = Instant::now();
    let response = client
        .post(format!("{url}/v1/completions"))
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert!(
        response.status().is_success(),
        "{}",
        response.text().await.unwrap_or_default()
    );
    let mut bytes = response.bytes_stream();
    let (mut text, mut first, mut tokens) = (String::new(), None, 0);
    while let Some(part) = bytes.next().await {
        text.push_str(&String::from_utf8_lossy(&part.expect("a whole stream")));
        while let Some((event, rest)) = text.split_once("\n\n") {
            if event.contains("\"text\":\"") && !event.contains("\"text\":\"\"") {
                first.get_or_insert_with(|| start.elapsed());
                tokens += 1;
            }
            text = rest.to_owned();
        }
    }
    let first = first.expect("a token").as_secs_f64();
    Sample {
        first,
        per_token: (start.elapsed().as_secs_f64() - first) / (tokens - 1) as f64,
        tokens,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

async fn measure(url: &str, model: &str, concurrency: usize) -> (f64, f64) {
    let (next, client) = (Arc::new(AtomicUsize::new(0)), reqwest::Client::new());
    let start = Instant::now();
    let workers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (next, client, url, model) = (
                next.clone(),
                client.clone(),
                url.to_owned(),
                model.to_owned(),
            );
            tokio::spawn(async move {
                let mut samples = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::AcqRel);
                    if number >= STREAMS {
                        return samples;
                    }
                    samples.push(stream(&client, &url, &model, number).await);
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    for worker in workers {
        samples.extend(worker.await.expect("a worker"));
    }
    let seconds = start.elapsed().as_secs_f64();
    let tokens: usize = samples.iter().map(|sample| sample.tokens).sum();
    let whole = samples
        .iter()
        .filter(|sample| sample.tokens == TOKENS)
        .count();
    let first = median(samples.iter().map(|sample| sample.first).collect());
    let per_token = median(samples.iter().map(|sample| sample.per_token).collect());
    println!(
        "concurrency {concurrency}: {:.1} tokens/s, TTFT p50 {:.0} ms, TPOT p50 {:.1} ms, {whole} of {STREAMS} streams whole",
        tokens as f64 / seconds,
        first * 1e3,
        per_token * 1e3
    );
    (tokens as f64 / seconds, first)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    let (url, name, _running) = match value("--url") {
        Some(url) => (url, value("--model").unwrap_or_default(), None),
        None => {
            let root = model();
            let listener = bessemer_route::drain::bind("127.0.0.1:0".parse().expect("an address"))
                .await
                .expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let task = ServeTask {
                model_name: "m".into(),
                max_concurrency: 8,
                max_queue: 64,
                require_api_key: false,
                drain_seconds: 5,
            };
            let options = ServeOptions {
                model: root.path().to_owned(),
                digest: "bench".into(),
                keys: None,
                threads: 2,
            };
            let server = tokio::spawn(serve(listener, task, options, CancellationToken::new()));
            while !reqwest::get(format!("{url}/ready"))
                .await
                .is_ok_and(|response| response.status().is_success())
            {
                assert!(!server.is_finished(), "the server ended");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (url, "m".to_owned(), Some(root))
        }
    };
    stream(&reqwest::Client::new(), &url, &name, 99).await;
    let (alone, first_alone) = measure(&url, &name, 1).await;
    let (together, first_together) = measure(&url, &name, 4).await;
    println!(
        "rate at 4 over rate at 1: {:.2}; TTFT at 4 over TTFT at 1: {:.2}",
        together / alone,
        first_together / first_alone
    );
}

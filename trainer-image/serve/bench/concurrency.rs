//! One question: what does serving several streams at once cost each of them, beside llama-cpp-python in the same run?
//!
//! `cargo bench -p bessemer-serve --bench concurrency --profile release`, with `BESSEMER_LLAMA_CPP_PYTHON` naming a
//! Python that has llama-cpp-python[server]==0.3.36 and gguf (without it only our side runs). A random 134M Llama
//! (12 layers, 768 wide, 32,000 ids; ours BF16, the peer's F16) behind each HTTP server, two threads each, the same
//! 128 ids a prompt, 64 generated tokens, eight streams at concurrency 1 and at 4. The servers take turns,
//! three rounds or `BESSEMER_BENCH_ROUNDS`.
//! `--url URL --model NAME` adds another OpenAI server. Where there is a GPU it serves the same model too, and
//! `BESSEMER_PEER_PYTHON` with transformers generates as many tokens from it, without HTTP and all prompts at once.
//!
//! TTFT is the time to the first event with text; TPOT is (end - TTFT) / (tokens - 1). Rates are medians of the rounds,
//! times are medians of all streams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A benchmark stops at the first fault.

use bessemer_model::{Config, Directory, Model};
use bessemer_protocol::task::ServeTask;
use bessemer_serve::{Backend, ServeOptions, serve};
use futures::StreamExt;
use serde_json::{Value, json};
use std::io::BufRead;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tch::{Device, Kind};
use tokio_util::sync::CancellationToken;

const STREAMS: usize = 8;
const PROMPT: u32 = 128;
const TOKENS: usize = 64;
const VOCABULARY: i64 = 32_000;
const THREADS: usize = 2;

fn config() -> Config {
    Config::llama(VOCABULARY, 12, (12, 12), 768, 2048, 1024)
}

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
    let config = config();
    println!(
        "model: {:.1} M parameters",
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

struct Server {
    name: String,
    url: String,
    model: String,
    /// One of ours, no peer.
    ours: bool,
    /// Takes prompts as text alone.
    text: bool,
}

struct Peer(Child);

/// Ends with its input, also when this process is killed.
impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts llama-cpp-python's server; prints why not when it cannot.
fn peer() -> Option<(Peer, Server)> {
    let Some(python) = std::env::var_os("BESSEMER_LLAMA_CPP_PYTHON") else {
        println!(
            "peer skipped: BESSEMER_LLAMA_CPP_PYTHON names no Python with llama-cpp-python[server]==0.3.36 and gguf"
        );
        return None;
    };
    let config = config();
    let child = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/concurrency_peer.py"))
        .args(
            [
                config.layers,
                config.heads,
                config.key_value_heads,
                config.hidden_size,
                config.feed_forward_size,
                config.context_length,
                config.vocabulary_size,
                THREADS as i64,
            ]
            .map(|number| number.to_string()),
        )
        .env_remove("LD_LIBRARY_PATH") // Its own libraries, not ours.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut peer = match child {
        Ok(child) => Peer(child),
        Err(error) => {
            println!("peer skipped: {}: {error}", python.to_string_lossy());
            return None;
        }
    };
    let mut line = String::new();
    let output = peer.0.stdout.take().expect("the peer's output");
    std::io::BufReader::new(output)
        .read_line(&mut line)
        .expect("the peer's output");
    let Ok(ready) = serde_json::from_str::<Value>(&line) else {
        println!("peer skipped: it ended before it was ready");
        return None;
    };
    let server = Server {
        name: "llama-cpp-python, F16".into(),
        url: ready["url"].as_str().expect("the peer's URL").into(),
        model: "m".into(),
        ours: false,
        text: true,
    };
    Some((peer, server))
}

/// The peer's vocabulary has one character an id; see `concurrency_peer.py`.
fn character(id: u32) -> char {
    let index = id - 259;
    let code = if index < 20_992 {
        0x4E00 + index
    } else {
        0xAC00 + index - 20_992
    };
    char::from_u32(code).expect("a character")
}

struct Sample {
    first: f64,
    per_token: f64,
    tokens: usize,
}

async fn stream(client: &reqwest::Client, server: &Server, number: usize) -> Sample {
    let ids = (0..PROMPT).map(|i| (i * 7919 + number as u32 * 104_729) % 31_000 + 500);
    let prompt = if server.text {
        json!(ids.map(character).collect::<String>())
    } else {
        json!(ids.collect::<Vec<_>>())
    };
    let body = json!({"model": server.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.8, "top_k": 40,
        "seed": number, "ignore_eos": true, "stream": true});
    let start = Instant::now();
    let response = client
        .post(format!("{}/v1/completions", server.url))
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
    let (mut buffer, mut first, mut tokens) = (Vec::new(), None, 0);
    while let Some(part) = bytes.next().await {
        buffer.extend_from_slice(&part.expect("a whole stream"));
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event = line
                .strip_prefix(b"data: ")
                .and_then(|data| serde_json::from_slice::<Value>(data).ok());
            let text = event
                .as_ref()
                .and_then(|event| event["choices"][0]["text"].as_str());
            if text.is_some_and(|text| !text.is_empty()) {
                first.get_or_insert_with(|| start.elapsed());
                tokens += 1;
            }
        }
    }
    let first = first.expect("a token").as_secs_f64();
    Sample {
        first,
        per_token: (start.elapsed().as_secs_f64() - first) / (tokens - 1) as f64,
        tokens,
    }
}

/// How many tokens the server counts in a prompt.
async fn prompt_tokens(server: &Server) -> u64 {
    let text: String = (500..500 + PROMPT).map(character).collect();
    let body = json!({"model": server.model, "prompt": text, "max_tokens": 1});
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/completions", server.url))
        .json(&body)
        .send()
        .await
        .expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    answer["usage"]["prompt_tokens"].as_u64().expect("a count")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

/// The rate and the samples of one round, with prompts `from` and up.
async fn round(server: &Arc<Server>, concurrency: usize, from: usize) -> (f64, Vec<Sample>) {
    let (next, client) = (Arc::new(AtomicUsize::new(0)), reqwest::Client::new());
    let start = Instant::now();
    let workers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (next, client, server) = (next.clone(), client.clone(), server.clone());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::AcqRel);
                    if number >= STREAMS {
                        return samples;
                    }
                    samples.push(stream(&client, &server, from + number).await);
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    for worker in workers {
        samples.extend(worker.await.expect("a worker"));
    }
    let tokens: usize = samples.iter().map(|sample| sample.tokens).sum();
    (tokens as f64 / start.elapsed().as_secs_f64(), samples)
}

/// One row of the table.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    samples: Vec<Sample>,
}

impl Figures {
    fn rate(&self) -> f64 {
        median(self.rates.clone())
    }
    fn first(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.first).collect())
    }
    fn per_token(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.per_token).collect())
    }
    fn print(&self, name: &str, concurrency: usize) {
        let whole = self.samples.iter().filter(|one| one.tokens == TOKENS);
        println!(
            "| {name}, {concurrency} | {:.1} | {:.0} ms | {:.1} ms | {} of {} |",
            self.rate(),
            self.first() * 1e3,
            self.per_token() * 1e3,
            whole.count(),
            self.samples.len()
        );
    }
}

/// Prints what transformers generates on the GPU.
fn gpu_peer(root: &Path) {
    let Some(python) = std::env::var_os("BESSEMER_PEER_PYTHON") else {
        println!("peer skipped: BESSEMER_PEER_PYTHON names no Python with transformers");
        return;
    };
    // The directory of the sources may be away where the program runs.
    let directory = std::env::var_os("BESSEMER_PEER_SCRIPTS")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/bench").into());
    let output = Command::new(python)
        .arg(Path::new(&directory).join("concurrency_gpu_peer.py"))
        .arg(root)
        .args([PROMPT.to_string(), TOKENS.to_string()])
        .env_remove("LD_LIBRARY_PATH") // Its own libraries, not ours.
        .output()
        .expect("the peer");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if !output.status.success() {
        println!("peer skipped: {}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn start(name: &str, root: &Path, backend: Backend) -> Server {
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
        model: root.to_owned(),
        digest: "bench".into(),
        keys: None,
        threads: THREADS,
        backend,
    };
    let server = tokio::spawn(serve(listener, task, options, CancellationToken::new()));
    while !reqwest::get(format!("{url}/ready"))
        .await
        .is_ok_and(|response| response.status().is_success())
    {
        assert!(!server.is_finished(), "the server ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Server {
        name: name.into(),
        url,
        model: "m".into(),
        ours: true,
        text: false,
    }
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
    let root = model();
    let native = start("Bessemer, BF16", root.path(), Backend::Native).await;
    let mut servers = vec![Arc::new(native)];
    let peer = peer().map(|(running, server)| {
        servers.push(Arc::new(server));
        running
    });
    if peer.is_some() {
        assert_eq!(prompt_tokens(&servers[1]).await, u64::from(PROMPT));
    }
    match bessemer_torch::device(1) {
        Ok(gpu) => {
            let server = start("Bessemer, BF16, GPU", root.path(), Backend::Torch(gpu)).await;
            servers.push(Arc::new(server));
            gpu_peer(root.path());
        }
        Err(reason) => println!("GPU skipped: {reason}"),
    }
    if let Some(url) = value("--url") {
        servers.push(Arc::new(Server {
            name: url.clone(),
            url,
            model: value("--model").unwrap_or_default(),
            ours: false,
            text: false,
        }));
    }
    let mut figures: Vec<[Figures; 2]> = servers.iter().map(|_| Default::default()).collect();
    for server in &servers {
        stream(&reqwest::Client::new(), server, 99).await;
    }
    let rounds = std::env::var("BESSEMER_BENCH_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(3);
    for turn in 0..rounds {
        for (at, concurrency) in [1, 4].into_iter().enumerate() {
            let from = (turn * 2 + at) * STREAMS; // No prompt twice.
            for (server, figures) in servers.iter().zip(&mut figures) {
                let (rate, samples) = round(server, concurrency, from).await;
                eprintln!("{}, {concurrency}: {rate:.1} tokens/s", server.name);
                figures[at].rates.push(rate);
                figures[at].samples.extend(samples);
            }
        }
    }
    drop(peer);
    println!("| server, concurrency | tokens/s | TTFT p50 | TPOT p50 | whole streams |");
    println!("|---|---|---|---|---|");
    for (at, concurrency) in [1, 4].into_iter().enumerate() {
        let ours = &figures[0][at];
        for (server, figures) in servers.iter().zip(&figures) {
            figures[at].print(&server.name, concurrency);
        }
        let peers = |(server, _): &(&Arc<Server>, _)| !server.ours;
        for (server, figures) in servers.iter().zip(&figures).filter(peers) {
            println!(
                "| ours over {}, {concurrency} | {:.2} | {:.2} | {:.2} | |",
                server.name,
                ours.rate() / figures[at].rate(),
                ours.first() / figures[at].first(),
                ours.per_token() / figures[at].per_token()
            );
        }
    }
    for (server, figures) in servers.iter().zip(&figures) {
        let [alone, together] = figures;
        println!(
            "{}: rate at 4 over rate at 1 {:.2}, TTFT at 4 over TTFT at 1 {:.2}; rates of the rounds {:.1?} and {:.1?}",
            server.name,
            together.rate() / alone.rate(),
            together.first() / alone.first(),
            alone.rates,
            together.rates
        );
    }
}

//! Run configurations of a tiny chain, and the real worker started on them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bessemer_protocol::task::Task;
use bessemer_protocol::{Input, Termination, run_key};
use serde_json::{Value, json};

use crate::store::{BUCKET, KEY, SECRET, Store};

/// A run: configuration, and where it works.
#[derive(Clone)]
pub struct Run {
    pub config: Value,
    pub key: String,
    pub kind: &'static str,
    pub name: &'static str,
    pub prefix: String,
    pub work: PathBuf,
}

/// How a worker ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub termination: Option<Termination>,
    pub log: String,
}

/// Files and configurations of one chain; the same content whatever the prefix.
pub struct Chain<'a> {
    pub store: &'a Store,
    pub root: PathBuf,
    pub prefix: String,
}

/// An artefact as input of the next run.
#[derive(Clone)]
pub struct Made {
    pub kind: &'static str,
    pub name: &'static str,
    pub digest: String,
    pub uri: String,
}

impl Made {
    pub fn input(&self, role: &str) -> Value {
        json!({"role": role, "kind": self.kind, "name": self.name, "digest": self.digest, "uri": self.uri})
    }
}

const NOUNS: [&str; 8] = [
    "vector", "table", "reader", "writer", "model", "shard", "token", "batch",
];
const VERBS: [&str; 5] = ["returns", "reads", "writes", "sorts", "checks"];

/// Writes the sources once: documents and conversations made from a few words.
pub fn sources(root: &Path) {
    let (docs, pairs) = (root.join("docs"), root.join("pairs"));
    std::fs::create_dir_all(&docs).unwrap();
    std::fs::create_dir_all(&pairs).unwrap();
    for index in 0..80usize {
        let sentence = |at: usize| {
            let (noun, verb) = (
                NOUNS[(index * 7 + at * 3) % 8],
                VERBS[(index + at * at) % 5],
            );
            format!("The {noun} {verb} item {at} of page {index}.")
        };
        let text: Vec<String> = (0..12).map(sentence).collect();
        std::fs::write(docs.join(format!("{index:02}.txt")), text.join(" ")).unwrap();
    }
    let lines: String = (0..120usize)
        .map(|index| {
            let (noun, verb) = (NOUNS[index % 8], VERBS[index % 5]);
            format!("{}\n", json!({"prompt": format!("What does the {noun} do at {index}?"), "response": format!("The {noun} {verb}.")}))
        })
        .collect();
    std::fs::write(pairs.join("pairs.jsonl"), lines).unwrap();
}

impl<'a> Chain<'a> {
    pub fn new(store: &'a Store, root: &Path, prefix: &str) -> Self {
        Self {
            store,
            root: root.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    pub fn run(
        &self,
        kind: &'static str,
        name: &'static str,
        inputs: Vec<Value>,
        task: Value,
    ) -> Run {
        let typed: Task = serde_json::from_value(task.clone()).unwrap();
        let typed_inputs: Vec<Input> = inputs
            .iter()
            .map(|input| serde_json::from_value(input.clone()).unwrap())
            .collect();
        let key = run_key(&typed, &typed_inputs).unwrap();
        let config = json!({
            "schemaVersion": 1,
            "run": {"namespace": "ns", "kind": kind, "name": name, "uid": "u", "generation": 1, "runKey": key, "attempt": 0},
            "storage": {"endpoint": self.store.endpoint, "region": "us-east-1", "bucket": BUCKET, "prefix": self.prefix},
            "inputs": inputs,
            "task": task,
        });
        let work = self.root.join("work").join(&self.prefix).join(name);
        Run {
            config,
            key,
            kind,
            name,
            prefix: self.prefix.clone(),
            work,
        }
    }

    fn prepare(
        &self,
        name: &'static str,
        purpose: &str,
        folder: &str,
        format: &str,
        tokenizer: Value,
    ) -> Run {
        let mut task = json!({
            "command": "prepare", "purpose": purpose,
            "sources": [{"name": folder, "uri": format!("file://{}", self.root.join(folder).display()), "include": [], "exclude": [], "format": format, "weight": 1.0}],
            "clean": {"unicode": "Nfc", "minCharacters": 1, "maxCharacters": 100000},
            "exactDeduplication": true, "licenses": {"allow": [], "deny": []},
            "split": {"validation": 0.2, "seed": 1},
        });
        if !tokenizer.is_null() {
            task["tokenizer"] = tokenizer;
        }
        self.run("Dataset", name, vec![], task)
    }

    pub fn docs(&self) -> Run {
        self.prepare(
            "docs",
            "Pretraining",
            "docs",
            "Text",
            json!({"TrainBpe": {"vocabularySize": 320, "specialTokens": []}}),
        )
    }

    pub fn pairs(&self) -> Run {
        self.prepare("pairs", "Instruction", "pairs", "Jsonl", Value::Null)
    }

    fn training(task: Value) -> Value {
        let mut all = json!({
            "batch": {"sequences": 8, "microBatch": 4, "sequenceLength": 64},
            "optimizer": {"kind": "AdamW", "learningRate": 0.003, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "gradientClipNorm": 1.0},
            "schedule": {"kind": "Cosine", "warmupSteps": 5, "decaySteps": 0, "finalShare": 0.1},
            "precision": "FP32", "seed": 7, "deterministic": true, "threads": 1,
            "checkpoint": {"everySteps": 10, "everySeconds": 0, "keep": 2},
        });
        for (key, value) in task.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    pub fn base(&self, docs: &Made) -> Run {
        let task = Self::training(json!({
            "command": "train", "mixture": [{"name": docs.name, "weight": 1.0}], "steps": 60,
            "model": {"family": "Llama", "layers": 2, "heads": 4, "keyValueHeads": 2, "hiddenSize": 32, "feedForwardSize": 64,
                "contextLength": 128, "positions": "RoPE", "tiedEmbeddings": true, "dropout": 0.0},
        }));
        self.run("PretrainJob", "base", vec![docs.input("Dataset")], task)
    }

    pub fn chat(&self, base: &Made, pairs: &Made) -> Run {
        let task = Self::training(json!({
            "command": "tune", "sequenceLength": 64, "epochs": 1, "steps": 40,
            "adapter": {"rank": 4, "alpha": 8.0, "targets": ["q", "v", "o", "up", "down", "gate", "k"]},
        }));
        self.run(
            "FineTune",
            "chat",
            vec![pairs.input("Dataset"), base.input("Model")],
            task,
        )
    }

    pub fn eval(&self, chat: &Made, base: &Made, docs: &Made, pairs: &Made) -> Run {
        let perplexity = |name: &str, dataset: &Made, aggregation: &str| json!({"name": name, "dataset": dataset.name, "limit": 0, "measure": {"kind": "perplexity", "aggregation": aggregation}});
        let task = json!({
            "command": "evaluate", "seed": 1, "bootstrapSamples": 200, "batchSize": 4, "threads": 1,
            "suites": [
                perplexity("text", docs, "Document"),
                perplexity("answers", pairs, "Answer"),
                {"name": "chat", "dataset": pairs.name, "limit": 8, "measure": {"kind": "generation", "metrics": ["Bleu", "Chrf", "Rouge"], "maxTokens": 16, "temperature": 0.0, "topP": 1.0}},
            ],
        });
        let inputs = vec![
            docs.input("Dataset"),
            pairs.input("Dataset"),
            chat.input("Model"),
            base.input("Baseline"),
        ];
        self.run("Evaluation", "chat-eval", inputs, task)
    }

    pub fn served(&self, chat: &Made) -> Run {
        let task = json!({"command": "serve", "modelName": "chat", "maxConcurrency": 4, "maxQueue": 8, "drainSeconds": 10});
        self.run("Deployment", "chat", vec![chat.input("Model")], task)
    }

    /// What a run committed.
    pub fn made(&self, run: &Run) -> Option<Made> {
        let pointer = self
            .store
            .pointer(&run.prefix, run.kind, run.name, &run.key)?;
        let text = |field: &str| pointer[field].as_str().unwrap().to_owned();
        Some(Made {
            kind: run.kind,
            name: run.name,
            digest: text("digest"),
            uri: text("uri"),
        })
    }

    /// Runs to the end, which must be good.
    pub fn finish(&self, run: &Run) -> Made {
        let ended = run.start(&[]).wait();
        assert_eq!(ended.code, Some(0), "{} {}: {ended:?}", run.kind, run.name);
        self.made(run).expect("a committed result")
    }
}

static NEXT_ADDRESS: AtomicU32 = AtomicU32::new(1);

/// A loopback address of its own, as every local pod has.
fn address() -> String {
    let process = std::process::id();
    format!(
        "127.{}.{}.{}",
        70 + process / 256 % 100,
        process % 256,
        NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed) % 250 + 1
    )
}

/// A worker that runs.
pub struct Running {
    pub child: Child,
    pub address: String,
    log: PathBuf,
    termination: PathBuf,
}

impl Run {
    pub fn command(&self) -> &str {
        self.config["task"]["command"].as_str().unwrap()
    }

    pub fn start(&self, extra: &[(&str, &str)]) -> Running {
        std::fs::create_dir_all(&self.work).unwrap();
        let place = self.work.parent().unwrap();
        let file = |ending: &str| place.join(format!("{}.{ending}", self.name));
        let (config, log, termination) = (file("json"), file("log"), file("termination"));
        std::fs::write(&config, self.config.to_string()).unwrap();
        let _ = std::fs::remove_file(&termination);
        let address = address();
        let child = Command::new(env!("CARGO_BIN_EXE_bessemer-worker"))
            .args([self.command(), "--config"])
            .arg(&config)
            .env("BESSEMER_WORK_DIR", &self.work)
            .env("BESSEMER_TERMINATION_LOG", &termination)
            .env("POD_IP", &address)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Running {
            child,
            address,
            log,
            termination,
        }
    }

    /// Forgets what this node had, as when the next attempt runs elsewhere.
    pub fn move_on(&self) {
        let _ = std::fs::remove_dir_all(&self.work);
    }
}

impl Running {
    pub fn wait(mut self) -> Ended {
        let code = self.child.wait().unwrap().code();
        let termination = std::fs::read_to_string(&self.termination)
            .ok()
            .and_then(|text| Termination::parse(&text));
        Ended {
            code,
            termination,
            log: std::fs::read_to_string(&self.log).unwrap(),
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits until the log holds `text`; false when the worker ended before.
    pub fn until(&mut self, text: &str) -> bool {
        loop {
            if self.log().contains(text) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return self.log().contains(text);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Ended {
    pub fn said(&self) -> String {
        let told = self
            .termination
            .as_ref()
            .map(|told| format!("{}: {} {}", told.category, told.message, told.hint));
        told.unwrap_or_else(|| panic!("no termination message: {}", self.log))
    }
}

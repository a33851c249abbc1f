//! Owns what benchmarks at scale share: an object store, the operator's process with what it used, a mixture of objects. It
//! must not know where their API server runs.

pub mod spent;

use std::fmt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_embedded::objectstore::{self, Credentials};
use bessemer_store::{S3Settings, S3Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::simulation::store::BUCKET;

/// Serves an object store over `root` until the process ends. Returns its endpoint and a client.
///
/// # Errors
/// When AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set, or nothing can be served.
pub async fn object_store(root: &Path) -> Result<(String, S3Store), String> {
    let key = |name: &str| std::env::var(name).map_err(|_| format!("set {name} to any value"));
    let credentials = Credentials {
        access_key: key("AWS_ACCESS_KEY_ID")?,
        secret_key: key("AWS_SECRET_ACCESS_KEY")?,
    };
    std::fs::create_dir_all(root.join(BUCKET)).map_err(|e| e.to_string())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let (endpoint, root) = (format!("http://{address}"), root.to_owned());
    tokio::spawn(async move {
        objectstore::serve(listener, &root, &credentials, CancellationToken::new()).await
    });
    let store = S3Store::new(&S3Settings {
        endpoint: Some(endpoint.clone()),
        region: "us-east-1".into(),
        bucket: BUCKET.into(),
        keys: None,
        deadline: Duration::from_secs(20),
    })
    .await;
    Ok((endpoint, store))
}

/// The operator's process; it ends with this one.
pub struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    /// Starts `binary`, on core `core` alone where one is given, with the API server of `kubeconfig` and the object store at
    /// `endpoint`, for which AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY hold. Metrics are served at `health`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        binary: &Path,
        core: Option<usize>,
        kubeconfig: &Path,
        endpoint: &str,
        health: &str,
    ) -> Result<Self, String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(core) = core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command
            .arg(binary)
            .args(["--image", "bessemer/worker:1", "--bucket", BUCKET])
            .args(["--s3-endpoint", endpoint, "--log", "warn,kube_client=error"])
            .args([
                "--health-address",
                health,
                "--intake-address",
                "127.0.0.1:0",
            ])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null());
        let child = command.spawn();
        child
            .map(Self)
            .map_err(|e| format!("{}: {e}", binary.display()))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it does not run any more.
    pub fn used(&self) -> Result<Used, String> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.0.id());
            std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
        };
        let status = read("status")?;
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            number.unwrap_or(0.0) / 1024.0
        };
        Ok(Used {
            cpu: cpu(self.0.id())?,
            peak: mebibytes("VmHWM:"),
            now: mebibytes("VmRSS:"),
            pages: mebibytes("RssFile:"),
        })
    }
}

/// Seconds of CPU that a process has used so far.
///
/// # Errors
/// When it does not run.
pub fn cpu(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let words = stat.rsplit(')').next().into_iter();
    let words = words.flat_map(|rest| rest.split_whitespace().skip(11).take(2));
    let ticks: f64 = words.filter_map(|word| word.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// What the operator has used; shown is its memory in MiB.
pub struct Used {
    /// Seconds of CPU.
    pub cpu: f64,
    peak: f64,
    now: f64,
    pages: f64,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peak, now, pages, ..
        } = self;
        write!(
            f,
            "{peak:.1} MiB peak, {now:.1} now, {pages:.1} of these pages of files"
        )
    }
}

/// A Dataset of text.
#[must_use]
pub fn corpus(source: &str) -> Value {
    json!({"purpose": "Pretraining", "sources": [{"name": "a", "uri": format!("s3://bucket/{source}")}],
        "tokenizer": {"train": {"vocabularySize": "4k"}}})
}

/// A Dataset of instructions.
#[must_use]
pub fn pairs(source: &str) -> Value {
    json!({"purpose": "Instruction", "sources": [{"name": "a", "uri": format!("s3://bucket/{source}"), "format": "Jsonl"}]})
}

/// A model of some text.
#[must_use]
pub fn model(dataset: &str, steps: usize) -> Value {
    json!({"datasets": [{"name": dataset}], "model": {"family": "Llama", "preset": "1M"}, "training": {"steps": steps}})
}

/// Object `number`, built on a Dataset of text, one of instructions and a model: four in ten are Datasets, two PretrainJobs,
/// two FineTunes, one an Evaluation, one a Deployment.
#[must_use]
pub fn mixed(number: usize, [corpus_name, pairs_name, base]: &[String; 3]) -> (Kind, Value) {
    let base_ref = json!({"kind": "PretrainJob", "name": base});
    match number % 10 {
        0..=3 => (Kind::Dataset, corpus(&number.to_string())),
        4 | 5 => (Kind::PretrainJob, model(corpus_name, 1000 + number)),
        6 | 7 => (
            Kind::FineTune,
            json!({"baseRef": base_ref, "datasetRef": {"name": pairs_name}, "supervised": {}, "training": {"steps": 1000 + number}}),
        ),
        8 => (
            Kind::Evaluation,
            json!({"modelRef": base_ref, "suites": [{"name": format!("s{number}"), "perplexity": {"datasetRef": {"name": corpus_name}}}]}),
        ),
        // Nothing serves here: a candidate that would be asked for ten minutes is the benchmark's doing.
        _ => (
            Kind::Deployment,
            json!({"modelRef": base_ref, "progressDeadlineSeconds": 30}),
        ),
    }
}

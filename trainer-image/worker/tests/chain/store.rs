//! An S3 server over a directory in this process, and what the tests look up in it.

use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde_json::Value;

pub const BUCKET: &str = "bessemer";
pub const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret";

/// The server lives as long as its runtime.
pub struct Store {
    root: tempfile::TempDir,
    pub endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

impl Store {
    pub fn start() -> Self {
        Self::with_keys(KEY, SECRET)
    }

    /// A store that takes only these keys.
    pub fn with_keys(key: &str, secret: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(key, secret));
        let service = builder.build();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self {
            root,
            endpoint,
            _runtime: runtime,
        }
    }

    /// The file behind `s3://bucket/key` or a key.
    pub fn path(&self, key: &str) -> PathBuf {
        let key = key
            .strip_prefix("s3://")
            .map_or(key, |rest| rest.split_once('/').unwrap().1);
        self.root.path().join(BUCKET).join(key)
    }

    /// A run's pointer.
    pub fn pointer(&self, prefix: &str, kind: &str, name: &str, run_key: &str) -> Option<Value> {
        let path = self.path(&format!(
            "{prefix}/ns/{}/{name}/runs/{run_key}.json",
            kind.to_lowercase()
        ));
        std::fs::read_to_string(path)
            .ok()
            .map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Steps of the checkpoints of a run whose manifest is there.
    pub fn checkpoints(&self, prefix: &str, kind: &str, name: &str, run_key: &str) -> Vec<u64> {
        let root = self.path(&format!(
            "{prefix}/ns/{}/{name}/checkpoints/{run_key}",
            kind.to_lowercase()
        ));
        let Ok(entries) = std::fs::read_dir(root) else {
            return Vec::new();
        };
        let mut steps: Vec<u64> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("manifest.json").exists())
            .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        steps.sort_unstable();
        steps
    }
}

/// Changes one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

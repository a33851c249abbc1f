//! The text and the manifests that planes work from: owns what digests depend on. It must not run anything.

use std::path::{Path, PathBuf};

/// A directory with text, pairs and manifests; planes over the same one must end in the same digests.
pub struct Source {
    root: tempfile::TempDir,
}

impl Source {
    /// The fixture's chain.
    pub fn new() -> Self {
        Self::with(include_str!("chain.yaml"))
    }

    /// Other manifests over the fixture's text; `@DATA@` stands for its directory.
    pub fn with(manifests: &str) -> Self {
        let source = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let words = ["alpha", "beta", "gamma", "delta", "omega"];
        source.write(
            "text/docs.jsonl",
            &lines(400, |n| {
                let line: Vec<&str> = (0..24)
                    .map(|w| words[(n * 7 + w * w + n / 5) % words.len()])
                    .collect();
                let text = format!("Document {n}. {}.", line.join(" "));
                serde_json::json!({"text": text, "license": "MIT"})
            }),
        );
        source.write(
            "pairs/items.jsonl",
            &lines(200, |n| {
                serde_json::json!({
                    "prompt": format!("Say number {n}"),
                    "response": format!("The number is {n}."),
                    "license": "MIT"
                })
            }),
        );
        let data = source.root.path().display().to_string();
        source.write("manifests/chain.yaml", &manifests.replace("@DATA@", &data));
        source
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn manifests(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    pub fn directory(&self) -> &Path {
        self.root.path()
    }
}

fn lines(count: usize, line: impl Fn(usize) -> serde_json::Value) -> String {
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

//! The text and the manifests that planes work from: owns what digests depend on. It must not run anything.

use std::path::PathBuf;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
        source.write(
            "text/docs.jsonl",
            &lines(
                400,
                |n| serde_json::json!({"text": document(n), "license": "MIT"}),
            ),
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
}

const WORDS: &str = "alpha beta gamma delta omega river stone cloud light water field house garden window table paper letter \
    number colour summer winter morning evening mountain valley forest island harbour bridge market village castle silver \
    copper yellow purple orange little great silent early narrow distant gentle heavy simple ancient walks turns carries \
    follows reaches leaves enters opens closes finds";

/// Text that the filters keep: no line and no run of words comes again and again.
fn document(number: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = ChaCha8Rng::seed_from_u64(u64::try_from(number).unwrap());
    let mut text = format!("Document {number} tells of ");
    for _ in 0..6 {
        let line: Vec<&str> = (0..10)
            .map(|_| words[random.random_range(0..words.len())])
            .collect();
        text.push_str(&format!("the {}.\n", line.join(" ")));
    }
    // What the answers of the pairs are like, so that pretraining alone helps a little.
    text.push_str(&format!(
        "Say number {number}: the number is {number}. The number is {}.\n",
        number * 7 % 400
    ));
    text
}

fn lines(count: usize, line: impl Fn(usize) -> serde_json::Value) -> String {
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

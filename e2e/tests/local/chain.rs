//! The whole chain on one machine, through the binaries a user runs. Needs BESSEMER_BIN (`make e2e` sets it).
//!
//! Each test has its own state directory and tiny data, so that a chain takes seconds.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Local {
    root: tempfile::TempDir,
}

fn binary() -> PathBuf {
    let directory = std::env::var("BESSEMER_BIN")
        .expect("BESSEMER_BIN names the directory of the release binaries");
    PathBuf::from(directory).join("bessemer")
}

impl Local {
    fn new() -> Self {
        let local = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let text: String = (0..400)
            .map(|n| {
                let words = ["alpha", "beta", "gamma", "delta", "omega"];
                let line: Vec<&str> = (0..24).map(|w| words[(n * 7 + w * w + n / 5) % words.len()]).collect();
                format!("{}\n", serde_json::json!({"text": format!("Document {n}. {}.", line.join(" ")), "license": "MIT"}))
            })
            .collect();
        local.write("text/docs.jsonl", &text);
        let pairs: String = (0..200)
            .map(|n| format!("{}\n", serde_json::json!({
                "prompt": format!("Say number {n}"), "response": format!("The number is {n}."), "license": "MIT"
            })))
            .collect();
        local.write("pairs/items.jsonl", &pairs);
        let chain = include_str!("fixture/chain.yaml")
            .replace("@DATA@", &local.root.path().display().to_string());
        local.write("manifests/chain.yaml", &chain);
        local
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command
            .arg("local")
            .arg("--dir")
            .arg(self.state())
            .args(arguments);
        command.output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            output.status.success(),
            "bessemer local {arguments:?}: {text}"
        );
        text
    }

    fn apply(&self) -> String {
        self.ok(&[
            "apply",
            "-f",
            &self.root.path().join("manifests").display().to_string(),
        ])
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let kubeconfig = find(&self.state(), "kubeconfig").expect("up writes a kubeconfig");
        Command::new(kubectl)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Kind/name and digest of every object of the chain.
    fn digests(&self) -> Vec<(String, String)> {
        let output = self.kubectl(&["get", "bessemer", "-o", "json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let mut all: Vec<(String, String)> = items
            .filter(|o| o["kind"] != "Deployment")
            .map(|o| {
                let name = format!(
                    "{}/{}",
                    o["kind"].as_str().unwrap(),
                    o["metadata"]["name"].as_str().unwrap()
                );
                (
                    name,
                    o["status"]["artifact"]["digest"]
                        .as_str()
                        .unwrap_or("none")
                        .to_owned(),
                )
            })
            .collect();
        all.sort();
        all
    }

    fn pid(&self) -> i32 {
        let file = find(&self.state(), "pid").expect("the daemon has a pid file");
        std::fs::read_to_string(file)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// SIGKILL to the daemon; its children die with it.
    fn kill(&self) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-9", &pid])
                .status()
                .unwrap()
                .success()
        );
        let started = Instant::now();
        while Path::new("/proc").join(&pid).exists() && started.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(root).ok()?;
    let mut folders = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let file = path.file_name()?.to_string_lossy().into_owned();
        if path.is_dir() {
            folders.push(path);
        } else if file == name || file.ends_with(&format!(".{name}")) {
            return Some(path);
        }
    }
    folders.into_iter().find_map(|folder| find(&folder, name))
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_chain_is_served_survives_restarts_and_is_found_again_after_deletion() {
    let local = Local::new();
    local.ok(&["up"]);
    let second = local.run(&["up"]);
    assert!(!second.status.success(), "the second up must refuse");
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("already"),
        "{second:?}"
    );
    local.apply();
    let digests = local.digests();
    assert_eq!(digests.len(), 5, "{digests:?}");
    assert!(digests.iter().all(|(_, d)| d.len() == 64), "{digests:?}");

    // Nothing to do: the same, without new runs.
    local.apply();
    assert_eq!(local.digests(), digests);
    let lineage = local.ok(&["lineage", "deployment/chat"]);
    for (name, digest) in &digests {
        assert!(
            lineage.contains(digest.get(..12).unwrap()),
            "{name} {digest} is not in\n{lineage}"
        );
    }

    local.ok(&["down"]);
    local.ok(&["up"]);
    local.apply();
    assert_eq!(local.digests(), digests);
    local.kill();
    local.ok(&["up"]);
    local.apply();
    assert_eq!(local.digests(), digests);

    local.ok(&[
        "delete",
        "-f",
        &local.root.path().join("manifests").display().to_string(),
    ]);
    local.apply();
    assert_eq!(local.digests(), digests);
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn fifty_kills_at_random_moments_end_in_the_same_digests() {
    let undisturbed = Local::new();
    undisturbed.ok(&["up"]);
    undisturbed.apply();
    let expected = undisturbed.digests();
    undisturbed.ok(&["down"]);
    let local = Local::new();
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..50 {
        local.ok(&["up"]);
        let manifests = local.root.path().join("manifests").display().to_string();
        let mut apply = Command::new(binary());
        apply
            .arg("local")
            .arg("--dir")
            .arg(local.state())
            .args(["apply", "-f", &manifests]);
        let mut apply = apply
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // xorshift64: the moments are the same in every run of this test.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(50 + random % 4000));
        local.kill();
        let _ = apply.kill();
        let _ = apply.wait();
        if round % 10 == 9 {
            // From time to time all of it begins again, but for what the store keeps.
            let _ = std::fs::remove_dir_all(local.state().join("pods"));
        }
    }
    local.ok(&["up"]);
    local.apply();
    let found: Vec<String> = local.digests().into_iter().map(|(_, d)| d).collect();
    let expected: Vec<String> = expected.into_iter().map(|(_, d)| d).collect();
    assert_eq!(found, expected);
}

//! A local control plane of its own directory: owns `bessemer local` and kubectl against it. It must not know a test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bessemer_e2e::conformance::root;
use serde_json::Value;

use crate::process;
use crate::source::Source;

/// A state directory; what runs in it ends with it.
pub struct Plane {
    state: tempfile::TempDir,
    manifests: PathBuf,
}

/// The directory of the binaries: that of the profile this test was built with.
pub fn binaries() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.parent().unwrap().parent().unwrap().to_path_buf();
    assert!(
        found.join("bessemer").exists(),
        "no bessemer in {}; run `make build` first",
        found.display()
    );
    found
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

impl Plane {
    /// A plane that does not run yet.
    pub fn new(source: &Source) -> Self {
        Self::over(source.manifests())
    }

    /// A plane that does not run yet, for manifests that lie elsewhere.
    pub fn over(manifests: PathBuf) -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            manifests,
        }
    }

    pub fn started(source: &Source) -> Self {
        let plane = Self::new(source);
        plane.ok(&["up"]);
        plane
    }

    pub fn directory(&self) -> &Path {
        self.state.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("bessemer"));
        command
            .args(["local", "--dir"])
            .arg(self.state.path())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "bessemer local {arguments:?}: {}\n{}",
            text(&output),
            self.log()
        );
        text(&output)
    }

    /// The daemon's last words.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.state.path().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn manifests(&self) -> String {
        self.manifests.display().to_string()
    }

    /// Applies the manifests and waits until all are ready.
    pub fn apply(&self) -> String {
        self.ok(&["apply", "--timeout", "900", "-f", &self.manifests()])
    }

    pub fn apply_only(&self) {
        self.ok(&["apply", "--no-wait", "-f", &self.manifests()]);
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let found = Command::new(root().join("kubectl.sh")).output().unwrap();
        assert!(found.status.success(), "{}", text(&found));
        let mut command = Command::new(String::from_utf8(found.stdout).unwrap().trim());
        command
            .args(arguments)
            .env("KUBECONFIG", self.state.path().join("api/kubeconfig"))
            .env("HOME", self.state.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a kubectl command that must succeed; returns what it printed.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        text(&output)
    }

    /// Changes fields of an object's spec.
    pub fn change(&self, object: &str, spec: &Value) {
        let patch = serde_json::json!({"spec": spec}).to_string();
        self.kubectl_ok(&["patch", object, "--type", "merge", "-p", &patch]);
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self
            .kubectl(arguments)
            .args(["-o", "json"])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Kind/name and digest of every object of the chain; a Deployment's is that of the weights it serves.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let list = self.json(&["get", "bessemer"]);
        let of = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap();
            let served = &object["status"]["traffic"][0]["digest"];
            let digest = object["status"]["artifact"]["digest"]
                .as_str()
                .or(served.as_str())
                .unwrap_or("none");
            let kind = object["kind"].as_str().unwrap();
            (format!("{kind}/{name}"), digest.to_owned())
        };
        list["items"].as_array().unwrap().iter().map(of).collect()
    }

    /// Where the served model answers.
    pub fn url(&self, name: &str) -> String {
        let object = self.json(&["get", "mdeploy", name]);
        object["status"]["url"].as_str().unwrap().to_owned()
    }

    /// Whether one model has all of the traffic.
    pub fn serves(&self, name: &str, digest: &str) -> bool {
        let status = self.json(&["get", "mdeploy", name])["status"].clone();
        let shares = status["traffic"].as_array();
        shares.is_some_and(|shares| shares.len() == 1 && shares[0]["digest"] == digest)
    }

    /// The condition Ready of an object: status, reason, message.
    pub fn ready(&self, object: &str) -> (String, String, String) {
        let object = self.json(&["get", object]);
        let conditions = object["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready")
            .cloned()
            .unwrap_or_default();
        let word = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        (word("status"), word("reason"), word("message"))
    }

    /// Waits for a reason of Ready; returns the message.
    pub fn wait_for_reason(&self, object: &str, reason: &str) -> String {
        let found = process::until(Duration::from_secs(120), || {
            let (_, now, message) = self.ready(object);
            (now == reason).then_some(message)
        });
        found.unwrap_or_else(|| panic!("{object} is {:?}, not {reason}", self.ready(object)))
    }

    pub fn daemon(&self) -> u32 {
        let pid = std::fs::read_to_string(self.state.path().join("daemon.pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    pub fn processes(&self) -> Vec<process::Process> {
        process::of(self.state.path())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        self.processes().iter().for_each(process::Process::kill);
    }
}

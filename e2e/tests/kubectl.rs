//! Drives a plain kubectl against the embedded API over HTTPS.
#![cfg(test)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bessemer_e2e::conformance::root;
use bessemer_embedded::clock::SystemClock;
use bessemer_embedded::log::{LogOptions, LogSource, LogStream};
use bessemer_embedded::server::{ISSUER, Server};
use bessemer_embedded::storage::Disk;
use bessemer_embedded::token::Issuer;
use bessemer_embedded::{Api, Options};

/// A log of two lines; a follower gets the second a moment later.
struct Log;

impl LogSource for Log {
    fn open(&self, _: &str, pod: &str, options: &LogOptions) -> Result<LogStream, String> {
        if pod != "p" {
            return Err(format!("no log of {pod}"));
        }
        let follow = options.follow;
        let lines = futures::stream::iter([(0, "first\n"), (u64::from(follow) * 300, "second\n")]);
        Ok(Box::pin(futures::StreamExt::then(
            lines,
            |(wait, line)| async move {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                Ok(bytes::Bytes::from(line))
            },
        )))
    }
}

/// The kubectl to drive, or why there is none.
fn kubectl() -> Option<PathBuf> {
    let found = Command::new(root().join("kubectl.sh")).output().unwrap();
    let path = String::from_utf8(found.stdout).unwrap();
    if found.status.success() {
        return Some(PathBuf::from(path.trim()));
    }
    let reason = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must not skip this test: {reason}"
    );
    eprintln!("skipped: {reason}");
    None
}

struct Session {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Session {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl; returns whether it succeeded and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    fn apply(&self, arguments: &[&str], manifest: &str) -> String {
        let mut command = self.command(&[&["apply", "-f", "-"], arguments].concat());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(manifest.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl apply {arguments:?}: {text}"
        );
        text
    }
}

async fn serve(directory: &Path) -> Server {
    let mut options = Options::memory(Arc::new(SystemClock), 5);
    options.storage = Box::new(Disk::open(directory).unwrap());
    options.issuer = Some(Arc::new(
        Issuer::open(&directory.join("issuer.p8"), ISSUER).unwrap(),
    ));
    options.logs = Some(Arc::new(Log));
    Server::start(
        Api::open(options).unwrap(),
        directory,
        "127.0.0.1:0".parse().unwrap(),
    )
    .await
    .unwrap()
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec: {containers: [{name: c, image: "example.com/i:1"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: "example.com/i:1"}]}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn plain_kubectl_works() {
    let Some(kubectl) = kubectl() else { return };
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path()).await;
    let session = Session {
        kubectl,
        kubeconfig: server.kubeconfig().to_owned(),
        home: directory.path().to_owned(),
    };
    let checked = tokio::task::spawn_blocking(move || {
        client_side_apply(&session);
        server_side_apply(&session);
        creating(&session);
        reading(&session);
        custom_resources(&session);
        watching_and_logs(&session);
        deleting(&session);
        session
    });
    let session = checked.await.unwrap();
    // What was applied is still there after the server is gone and another one opens the directory.
    server.stop().await;
    let server = serve(directory.path()).await;
    let left = tokio::task::spawn_blocking(move || session.ok(&["get", "crd", "-o", "name"]))
        .await
        .unwrap();
    assert!(
        left.contains("customresourcedefinition.apiextensions.k8s.io/datasets.bessemer.dev"),
        "{left}"
    );
    server.stop().await;
}

fn client_side_apply(session: &Session) {
    let text = session.apply(&[], MANIFEST);
    assert!(
        text.contains("pod/p created") && text.contains("deployment.apps/d created"),
        "{text}"
    );
    let text = session.apply(&[], MANIFEST);
    assert!(
        text.contains("pod/p unchanged") && text.contains("deployment.apps/d unchanged"),
        "{text}"
    );
    let text = session.apply(&[], &MANIFEST.replace("replicas: 2", "replicas: 3"));
    assert!(text.contains("deployment.apps/d configured"), "{text}");
    assert_eq!(
        session.ok(&[
            "get",
            "deploy",
            "d",
            "-o",
            "jsonpath={.spec.replicas}/{.metadata.generation}"
        ]),
        "3/2"
    );
}

fn server_side_apply(session: &Session) {
    let text = session.apply(
        &["--server-side"],
        &MANIFEST.replace("replicas: 2", "replicas: 4"),
    );
    assert!(
        text.contains("deployment.apps/d serverside-applied"),
        "{text}"
    );
    let taken = session
        .command(&["apply", "--server-side", "--field-manager=other", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut taken = taken.unwrap();
    taken
        .stdin
        .take()
        .unwrap()
        .write_all(MANIFEST.as_bytes())
        .unwrap();
    let output = taken.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains(".spec.replicas"),
        "{text}"
    );
}

/// What newer kubectl sends as protobuf and older as JSON.
fn creating(session: &Session) {
    for arguments in [
        "namespace made",
        "configmap made --from-literal=a=1",
        "secret generic made --from-literal=key=value",
        "serviceaccount made",
        "job made --image=example.com/i:1 -- run it",
        "deployment made --image=example.com/i:1 --replicas=0 --port=80",
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        session.ok(&[&["create"], words.as_slice()].concat());
    }
    let shown =
        |object: &str, path: &str| session.ok(&["get", object, "-o", &format!("jsonpath={path}")]);
    assert_eq!(shown("namespace/made", "{.status.phase}"), "Active");
    assert_eq!(shown("configmap/made", "{.data}"), r#"{"a":"1"}"#);
    assert_eq!(
        shown("secret/made", "{.data}{.type}"),
        r#"{"key":"dmFsdWU="}Opaque"#
    );
    let container =
        "{.spec.template.spec.containers[0].command}{.spec.template.spec.restartPolicy}";
    assert_eq!(shown("job/made", container), r#"["run","it"]Never"#);
    let ports = "{.spec.replicas}{.spec.template.spec.containers[0].ports[0].containerPort}";
    assert_eq!(shown("deployment/made", ports), "080");
    session.ok(&[
        "delete",
        "deployment/made",
        "job/made",
        "configmap/made",
        "secret/made",
    ]);
}

fn reading(session: &Session) {
    let text = session.ok(&["get", "pods"]);
    let header: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(text.contains("0/1") && text.contains("Pending"), "{text}");
    assert!(
        session
            .ok(&["get", "deploy", "d", "-o", "yaml"])
            .contains("kind: Deployment")
    );
    let explained = session.ok(&["explain", "deployment.spec.replicas"]);
    assert!(
        explained.contains("FIELD: replicas <integer>"),
        "{explained}"
    );
    let who = session.ok(&["auth", "whoami"]);
    assert!(who.contains("system:admin"), "{who}");
    let uid = session.ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]);
    let event = r#"{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "p.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "uid": "UID"}, "reason": "Started",
        "message": "it runs", "type": "Normal", "source": {"component": "node"}, "count": 1}"#;
    session.apply(&[], &event.replace("UID", &uid));
    let described = session.ok(&["describe", "pod", "p"]);
    assert!(
        described.contains("Started") && described.contains("it runs"),
        "{described}"
    );
    let (refused, text) = session.run(&["get", "pods", "nothing"]);
    assert!(
        !refused && text.contains("pods \"nothing\" not found"),
        "{text}"
    );
}

fn custom_resources(session: &Session) {
    let folder = root().join("../crds/yaml");
    session.ok(&["apply", "-f", &folder.display().to_string()]);
    session.ok(&[
        "wait",
        "--for=condition=Established",
        "crd/datasets.bessemer.dev",
        "--timeout=20s",
    ]);
    let explained = session.ok(&["explain", "dataset.spec.sources"]);
    assert!(explained.contains("FIELDS:"), "{explained}");
    let bad = r#"{"apiVersion": "bessemer.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "docs"}, "spec": {"nonsense": 1}}"#;
    let mut child = session
        .command(&["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(bad.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("unknown field \"spec.nonsense\""),
        "{text}"
    );
    assert!(
        session
            .ok(&["get", "bessemer"])
            .contains("No resources found")
    );
}

fn watching_and_logs(session: &Session) {
    let mut watch = session
        .command(&["get", "pods", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().starts_with("NAME"));
    assert!(next().contains("Pending"));
    let status = r#"{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}}]}}"#;
    session.ok(&[
        "patch",
        "pod",
        "p",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ]);
    let line = next();
    assert!(line.contains("1/1") && line.contains("Running"), "{line}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    session.ok(&["wait", "--for=condition=Ready", "pod/p", "--timeout=20s"]);
    assert_eq!(session.ok(&["logs", "p"]), "first\nsecond\n");
    assert_eq!(session.ok(&["logs", "-f", "p"]), "first\nsecond\n");
}

fn deleting(session: &Session) {
    let text = session.ok(&["delete", "deploy", "d", "--timeout=20s"]);
    assert!(text.contains("\"d\" deleted"), "{text}");
    let text = session.ok(&["delete", "pod", "p", "--timeout=20s"]);
    assert!(text.contains("\"p\" deleted"), "{text}");
    assert!(session.ok(&["get", "pods"]).contains("No resources found"));
}

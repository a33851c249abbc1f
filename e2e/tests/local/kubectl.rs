//! Plain kubectl on Bessemer's own objects, with the kubeconfig that `local up` writes: from the first apply to the
//! last delete and back.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::column::{Row, rows};
use crate::plane::{Plane, text};
use crate::process::until;
use crate::source::Source;

/// Everything that the operator makes for an object.
const CHILDREN: &str = "pods,jobs,deployments.apps,services";

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn plain_kubectl_does_all_that_a_user_needs() {
    let source = Source::new();
    let plane = Plane::started(&source);
    let (watch, rows_file) = watch(&plane);

    let applied = plane.kubectl_ok(&["apply", "-f", &plane.manifests()]);
    assert_eq!(lines_with(&applied, " created"), 6, "{applied}");
    let log = follow(&plane);
    wait(&plane);
    let digests = plane.digests();
    logged(&plane, &log, &digests["PretrainJob/base"]);
    watched(&rows_file);
    columns(&plane);
    described(&plane, &digests["PretrainJob/base"]);
    yaml_is_complete(&plane);
    explained(&plane);
    applied_again(&plane);
    assert_eq!(plane.digests(), digests);
    deleted(&plane);

    // Artefacts outlive their objects; this time the objects come by server-side apply.
    let applied = plane.kubectl_ok(&["apply", "--server-side", "-f", &plane.manifests()]);
    assert_eq!(lines_with(&applied, " serverside-applied"), 6, "{applied}");
    wait(&plane);
    assert_eq!(plane.digests(), digests);
    let (status, reason, _) = plane.ready("pj/base");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Cached"));
    let jobs = plane.json(&["get", "jobs"]);
    assert_eq!(jobs["items"], serde_json::json!([]), "made again");

    ended(watch, &plane);
}

fn lines_with(text: &str, ending: &str) -> usize {
    text.lines().filter(|line| line.ends_with(ending)).count()
}

/// Starts `kubectl get -w`; what it prints goes to the file.
fn watch(plane: &Plane) -> (Child, PathBuf) {
    let file = plane.directory().join("watch.pretrainjobs");
    let child = plane
        .kubectl(&["get", "pretrainjobs", "-w"])
        .stdout(std::fs::File::create(&file).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, file)
}

/// The watch saw the object from before it was ready until it was.
fn watched(file: &std::path::Path) {
    let ready = |row: &Row| row["READY"] == "True" && row["REASON"] == "Complete";
    let read = || rows(&std::fs::read_to_string(file).unwrap()).unwrap_or_default();
    let seen = until(Duration::from_secs(30), || {
        Some(read()).filter(|rows| rows.last().is_some_and(ready))
    });
    let seen = seen.unwrap_or_else(|| panic!("the watch did not end ready: {:?}", read()));
    assert!(seen.iter().all(|row| row["NAME"] == "base"), "{seen:?}");
    assert_ne!(seen[0]["READY"], "True", "{seen:?}");
    assert_eq!(seen[seen.len() - 1]["PROGRESS"], "100%", "{seen:?}");
}

/// A watch goes on until the API goes, and then ends by itself.
fn ended(mut watch: Child, plane: &Plane) {
    assert!(watch.try_wait().unwrap().is_none(), "the watch broke off");
    plane.ok(&["down"]);
    let status = until(Duration::from_secs(30), || watch.try_wait().unwrap());
    let _ = watch.kill();
    let _ = watch.wait();
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

fn wait(plane: &Plane) {
    let ready = "--for=condition=Ready";
    let manifests = plane.manifests();
    let met = plane.kubectl_ok(&["wait", ready, "-f", &manifests, "--timeout=900s"]);
    assert_eq!(lines_with(&met, " condition met"), 6, "{met}");
    // One that is not met is not said to be.
    let stalled = "--for=condition=Stalled";
    let mut other = plane.kubectl(&["wait", stalled, "pj/base", "--timeout=1s"]);
    let output = other.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("timed out"), "{}", text(&output));
}

/// The whole log of the pretraining pod, followed from its start.
fn follow(plane: &Plane) -> String {
    let pod = until(Duration::from_secs(120), || {
        let pods = plane.json(&["get", "pods", "-l", "bessemer.dev/name=base"]);
        let pod = pods["items"].as_array().unwrap().first()?;
        // Before that there is no log to follow.
        let begun = pod["status"]["phase"] != "Pending";
        begun.then(|| pod["metadata"]["name"].as_str().unwrap().to_owned())
    });
    let pod = pod.unwrap_or_else(|| panic!("no pod began\n{}", plane.log()));
    let followed = plane.kubectl_ok(&["logs", "-f", &pod]);
    assert_eq!(followed, plane.kubectl_ok(&["logs", &pod]), "cut off");
    followed
}

/// A followed log has the steps of the training and, as its end, what came of it.
fn logged(plane: &Plane, log: &str, digest: &str) {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let trained = lines.iter().rfind(|line| line["message"] == "trained");
    let trained = trained.unwrap_or_else(|| panic!("no step in\n{log}"));
    let spec = &plane.json(&["get", "pj", "base"])["spec"];
    assert_eq!(trained["step"], spec["training"]["steps"], "{log}");
    let last = &lines[lines.len() - 1];
    assert_eq!(last["message"], "result committed", "{log}");
    assert_eq!(last["digest"], digest, "{log}");
}

/// Every printer column, header and cell, against the status that it is made from.
fn columns(plane: &Plane) {
    let row = |kind: &str, name: &str, column: &str| -> (Row, Value) {
        let printed = plane.kubectl_ok(&["get", kind, name]);
        let header: Vec<&str> = printed.lines().next().unwrap().split_whitespace().collect();
        let expected = ["NAME", "READY", "REASON", "PROGRESS", column, "AGE"];
        assert_eq!(header, expected, "{printed}");
        let mut found = rows(&printed).unwrap_or_else(|blank| panic!("{blank}\n{printed}"));
        assert_eq!(found.len(), 1, "{printed}");
        let row = found.remove(0);
        let reason = if kind == "mdeploy" {
            "Serving"
        } else {
            "Complete"
        };
        for (column, cell) in [
            ("NAME", name),
            ("READY", "True"),
            ("REASON", reason),
            ("PROGRESS", "100%"),
        ] {
            assert_eq!(row[column], cell, "{printed}");
        }
        (row, plane.json(&["get", kind, name])["status"].clone())
    };
    for name in ["docs", "pairs"] {
        let (row, status) = row("dset", name, "TOKENS");
        assert_eq!(row["TOKENS"], status["statistics"]["tokens"].to_string());
    }
    for (kind, name) in [("pj", "base"), ("ft", "tuned")] {
        let (row, status) = row(kind, name, "LOSS");
        let (shown, loss) = (row["LOSS"].parse::<f64>(), &status["losses"]["training"]);
        let difference = shown.unwrap() - loss.as_f64().unwrap();
        assert!(difference.abs() < 0.001, "{row:?}: {status}");
    }
    let (row_of, status) = row("eval", "scores", "METRIC");
    let results = status["results"].as_array().unwrap();
    let shown = results.iter().any(|result| {
        let (metric, value) = (result["metric"].as_str(), result["value"].as_f64());
        row_of["METRIC"] == format!("{} {:.4}", metric.unwrap(), value.unwrap())
    });
    assert!(shown, "{row_of:?}: {status}");
    let (row, status) = row("mdeploy", "chat", "TRAFFIC");
    let digest = status["traffic"][0]["digest"].as_str().unwrap();
    assert_eq!(row["TRAFFIC"], format!("100% {}", &digest[..8]));
}

fn described(plane: &Plane, digest: &str) {
    let event = |object: &str, reason: &str| -> String {
        let printed = plane.kubectl_ok(&["describe", object]);
        let (_, events) = printed.split_once("\nEvents:\n").unwrap();
        let found = events.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, why, ..] = words[..] else {
                return None;
            };
            (kind == "Normal" && why == reason).then(|| words[2..].join(" "))
        });
        found.unwrap_or_else(|| panic!("no event {reason} in\n{printed}"))
    };
    let complete = event("pj/base", "Complete");
    let said = format!("bessemer.dev/operator the artefact is {}", &digest[..12]);
    assert!(complete.ends_with(&said), "{complete}");
    let serving = event("mdeploy/chat", "Serving");
    assert!(serving.contains("bessemer.dev/operator"), "{serving}");
}

/// `-o yaml` is the whole object: read again, it is the one that `-o json` prints.
fn yaml_is_complete(plane: &Plane) {
    let file = plane.directory().join("base.yaml");
    std::fs::write(
        &file,
        plane.kubectl_ok(&["get", "pj", "base", "-o", "yaml"]),
    )
    .unwrap();
    let file = file.display().to_string();
    let plain = |mut object: Value| {
        // `create` writes it anew, from what it reads.
        let annotations = &mut object["metadata"]["annotations"];
        let applied = "kubectl.kubernetes.io/last-applied-configuration";
        annotations.as_object_mut().unwrap().remove(applied);
        object
    };
    let read = plain(plane.json(&["create", "--dry-run=client", "-f", &file]));
    assert_eq!(read, plain(plane.json(&["get", "pj", "base"])));
    assert_eq!(read["status"]["conditions"][0]["type"], "Ready", "{read}");
}

fn explained(plane: &Plane) {
    let rate = plane.kubectl_ok(&["explain", "pretrainjob.spec.training.learningRate"]);
    let told = |line: &str| rate.lines().any(|own| own.trim() == line);
    assert!(told("FIELD: learningRate <number>"), "{rate}");
    assert!(told("Peak learning rate."), "{rate}");
    let family = plane.kubectl_ok(&["explain", "pj.spec.model.family"]);
    assert!(family.contains("ENUM:\n    GPT2\n    Llama\n"), "{family}");
    let who = plane.kubectl_ok(&["auth", "whoami"]);
    let name = who.lines().find_map(|line| line.strip_prefix("Username"));
    assert_eq!(name.map(str::trim), Some("system:admin"), "{who}");
}

/// What is as it was asked for stays as it is, by either way of applying; another's field is not taken in silence.
fn applied_again(plane: &Plane) {
    let manifests = plane.manifests();
    plane.kubectl_ok(&["apply", "-f", &manifests]);
    let applied = plane.kubectl_ok(&["apply", "--server-side", "-f", &manifests]);
    assert_eq!(lines_with(&applied, " serverside-applied"), 6, "{applied}");
    let list = plane.json(&["get", "bessemer"]);
    for object in list["items"].as_array().unwrap() {
        assert_eq!(object["metadata"]["generation"], 1, "{object}");
    }
    let chain = std::fs::read_to_string(format!("{manifests}/chain.yaml")).unwrap();
    let file = plane.directory().join("other.yaml");
    std::fs::write(&file, chain.replace("steps: 20", "steps: 21")).unwrap();
    let file = file.display().to_string();
    let mut other = plane.kubectl(&[
        "apply",
        "--server-side",
        "--field-manager=other",
        "-f",
        &file,
    ]);
    let output = other.output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("conflict with \"kubectl\": .spec.training.steps"),
        "{said}"
    );
}

fn deleted(plane: &Plane) {
    let children = |selector: &str| -> Vec<String> {
        let list = plane.json(&["get", CHILDREN, "-l", selector]);
        let kind = |object: &Value| object["kind"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().map(kind).collect()
    };
    let all_gone = |selector: &str| {
        let gone = until(Duration::from_secs(60), || {
            children(selector).is_empty().then_some(())
        });
        assert!(gone.is_some(), "left: {:?}", children(selector));
    };
    let served = "bessemer.dev/kind=Deployment,bessemer.dev/name=chat";
    let before = children(served);
    for kind in ["Pod", "Deployment", "Service"] {
        assert!(before.iter().any(|own| own == kind), "{kind}: {before:?}");
    }
    let said = plane.kubectl_ok(&["delete", "mdeploy", "chat", "--timeout=60s"]);
    assert!(said.contains("\"chat\" deleted"), "{said}");
    let output = plane.kubectl(&["get", "mdeploy", "chat"]).output().unwrap();
    assert!(text(&output).contains("not found"), "{}", text(&output));
    all_gone(served);

    // What it was made from is still there, with what was made for that.
    let left = children("bessemer.dev/name");
    let jobs = left.iter().filter(|kind| *kind == "Job").count();
    assert_eq!((plane.digests().len(), jobs), (5, 5), "{left:?}");
    plane.kubectl_ok(&[
        "delete",
        "--ignore-not-found",
        "--timeout=60s",
        "-f",
        &plane.manifests(),
    ]);
    assert!(plane.digests().is_empty(), "{:?}", plane.digests());
    all_gone("bessemer.dev/name");
}

//! Owns the cases that the judges of GitOps tools read (`charts/gitops/cases.jsonl`): every status of whole runs, and six
//! states of each kind. What the tools must say follows from the run, not from the conditions that are judged.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bessemer_api::Kind as KindName;
use bessemer_core::Key;
use serde_json::{Value, json};

use crate::cluster::{Cluster, End};
use crate::fixture::chain;

fn keys(cluster: &mut Cluster) -> [Key; 5] {
    let chain = chain(cluster);
    [
        chain.text,
        chain.base,
        chain.chat,
        chain.score,
        chain.served,
    ]
}

/// One line. Only what judges read is kept of the object.
fn case(state: &str, kstatus: &str, argo: &str, object: &Value) -> String {
    let from = &object["metadata"];
    let mut metadata = json!({"name": from["name"], "namespace": from["namespace"], "generation": from["generation"]});
    for field in ["deletionTimestamp", "finalizers"] {
        if !from[field].is_null() {
            metadata[field] = from[field].clone();
        }
    }
    let status = &object["status"];
    let mut kept = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata,
        "spec": {"suspend": object["spec"]["suspend"] == true}
    });
    if !status.is_null() {
        kept["status"] = json!({"observedGeneration": status["observedGeneration"], "conditions": status["conditions"]});
    }
    json!({"state": state, "kstatus": kstatus, "argo": argo, "object": kept}).to_string()
}

/// Whether the object has reached what its manifest asks for, told from its results alone: an artefact, or all traffic
/// in the hands of one revision by the write before this one.
fn reached(object: &Value, before: Option<&Value>) -> bool {
    let status = &object["status"];
    if object["kind"] == "Deployment" {
        let whole = |status: &Value| status["traffic"][0]["percent"] == 100;
        return whole(status) && before.is_some_and(|before| whole(&before["status"]));
    }
    !status["artifact"].is_null() && !status["completionTime"].is_null()
}

fn cases() -> String {
    let mut lines = Vec::new();
    // Every status of a whole chain, from the first write to the last.
    let mut cluster = Cluster::new();
    let all = keys(&mut cluster);
    for key in &all {
        // kstatus's blind spot: an object without any status counts as Current until the operator's first write.
        let object = &cluster.objects[key];
        lines.push(case("new", "Current", "Progressing", object));
    }
    cluster.settle();
    for (index, object) in cluster.history.iter().enumerate() {
        let earlier = &cluster.history[..index];
        let same = |known: &&Value| known["metadata"]["uid"] == object["metadata"]["uid"];
        let before = earlier.iter().rev().find(same);
        let (kstatus, argo) = if reached(object, before) {
            ("Current", "Healthy")
        } else {
            ("InProgress", "Progressing")
        };
        lines.push(case("run", kstatus, argo, object));
    }
    for key in &all {
        let healthy = cluster.objects[key].clone();
        assert!(
            reached(&healthy, Some(&healthy)),
            "{key} ends well: {}",
            healthy["status"]
        );
        lines.push(case("healthy", "Current", "Healthy", &healthy));
        let mut stale = healthy.clone();
        stale["metadata"]["generation"] = json!(2);
        lines.push(case("stale", "InProgress", "Progressing", &stale));
        let mut ending = healthy;
        ending["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
        ending["metadata"]["finalizers"] = json!(["bessemer.dev/artifacts"]);
        lines.push(case("terminating", "Terminating", "Progressing", &ending));
    }
    for (index, key) in all.iter().enumerate() {
        let mut cluster = Cluster::new();
        chain(&mut cluster);
        cluster.edit(key, |spec| spec["suspend"] = json!(true));
        cluster.settle();
        let suspended = &cluster.objects[key];
        lines.push(case("suspended", "InProgress", "Suspended", suspended));
        if let Some(next) = all.get(index + 1) {
            let waiting = &cluster.objects[next];
            lines.push(case("waiting", "InProgress", "Progressing", waiting));
        }
        let mut cluster = Cluster::new();
        chain(&mut cluster);
        if key.kind == KindName::Deployment {
            cluster.edit(key, |spec| {
                spec["gates"][0]["expression"] = json!("results[\"chat\"][\"bleu\"].value > 2.0");
            });
        } else {
            let end = End::Exit(65, "line 3 of docs.txt is no text".into());
            cluster.ends.insert(key.clone(), VecDeque::from([end]));
        }
        cluster.settle();
        lines.push(case(
            "degraded",
            "Failed",
            "Degraded",
            &cluster.objects[key],
        ));
    }
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

#[test]
fn the_cases_of_the_judges_are_what_the_operator_writes() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../charts/gitops/cases.jsonl"
    );
    let text = cases();
    if std::env::var_os("BESSEMER_WRITE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == text,
        "{path} is not what the operator writes; run this test with BESSEMER_WRITE=1 and `charts/test gitops`"
    );
}

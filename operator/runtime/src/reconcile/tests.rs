//! A reconciler before a server that agrees to everything: what it keeps in memory, and what it asks in which order.

use bessemer_core::{Kind as _, Settings};
use bessemer_protocol::Storage;
use bessemer_store::{Layout, MemoryStore};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::clock::SystemClock;
use crate::intake::tests::report;
use crate::lease::Leadership;
use crate::outside::{Artefacts, Live};

type Asked = Arc<parking_lot::Mutex<Vec<String>>>;

/// It creates and patches whatever comes but what is named `forbidden`, and notes the method and the last word of the path in
/// `asked`.
fn reconciler(asked: &Asked) -> Reconciler {
    use kube::client::Body;
    let asked = asked.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let last = request.uri().path().rsplit('/').next();
        let line = format!("{} {}", request.method(), last.unwrap_or_default());
        let code = if last == Some("forbidden") { 403 } else { 200 };
        asked.lock().push(line);
        async move {
            let body = request.into_body().collect_bytes().await?;
            let mut object: serde_json::Value = serde_json::from_slice(&body)?;
            object["metadata"]["uid"] = "given".into();
            object["metadata"]["resourceVersion"] = "2".into();
            if code == 403 {
                object = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": code});
            }
            let body = Body::from(serde_json::to_vec(&object)?);
            Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
        }
    });
    let client = Client::new(service, "default");
    let cluster = Arc::new(Cluster::new());
    let artefacts = Artefacts::new(Arc::new(MemoryStore::default()), Layout::new("b", ""));
    let storage = Storage {
        endpoint: None,
        region: "us-east-1".into(),
        bucket: "b".into(),
        prefix: String::new(),
    };
    Reconciler {
        remote: Remote::new(client.clone(), cluster.clone(), Leadership::always()),
        cluster,
        outside: Arc::new(Live::new(artefacts)),
        board: Arc::default(),
        clock: Arc::new(SystemClock),
        settings: Settings::new(storage, "worker"),
        queue: Arc::default(),
        pace: Pace::default(),
        recorder: Recorder::new(client.clone(), "test"),
        metrics: Metrics::new(),
        namespaces: Vec::new(),
        client,
    }
}

#[tokio::test]
async fn a_hint_may_be_forbidden() {
    let asked = Asked::default();
    let reconciler = reconciler(&asked);
    let executor = Executor {
        remote: &reconciler.remote,
        outside: reconciler.outside.as_ref(),
        uid: "owner",
        manager: "m",
        metrics: &reconciler.metrics,
    };
    let object = |api_version: &str, kind: &str| bessemer_core::ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: "lab".into(),
        name: "forbidden".into(),
        ..bessemer_core::ObjectRef::default()
    };
    let hint = Action::Annotate {
        object: object("v1", "Pod"),
        annotation: "a".into(),
        value: "b".into(),
    };
    executor.perform(&hint).await.unwrap();
    let job = object("batch/v1", "Job");
    let error = executor.perform(&Action::Suspend { job }).await;
    assert_eq!(error.unwrap_err().category(), "Forbidden");
    assert_eq!(*asked.lock(), ["PATCH forbidden", "PATCH forbidden"]);
}

#[tokio::test]
async fn what_is_remembered_of_an_object_goes_with_it() {
    let reconciler = reconciler(&Asked::default());
    let kept: Dataset = serde_json::from_value(json!({
        "apiVersion": "bessemer.dev/v1alpha1", "kind": "Dataset",
        "metadata": {"name": "kept", "namespace": "ns", "uid": "u1"},
        "spec": {"purpose": "Pretraining", "sources": []},
    }))
    .unwrap();
    reconciler.cluster.datasets.apply(kept);
    for uid in ["u1", "u2"] {
        let mut report = report(1.0);
        report.uid = uid.into();
        reconciler.board.put(report, Timestamp::UNIX_EPOCH);
    }
    reconciler.forget_gone();
    let known = ["u1", "u2"].map(|uid| reconciler.board.get(uid).is_some());
    assert_eq!(known, [true, false]);
}

#[tokio::test]
async fn in_a_crowd_children_come_first_and_are_told_of_afterwards() {
    for (others, told) in [(0, true), (CROWD, false)] {
        let asked = Asked::default();
        let reconciler = reconciler(&asked);
        let object: Dataset = serde_json::from_value(json!({
            "apiVersion": "bessemer.dev/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "a", "namespace": "ns", "uid": "u1", "generation": 1, "resourceVersion": "1"},
            "spec": {"purpose": "Instruction", "sources": [{"name": "a", "uri": "s3://bucket/a", "format": "Jsonl"}]},
        }))
        .unwrap();
        let key = object.key();
        reconciler.cluster.datasets.apply(object);
        for number in 0..others {
            reconciler.queue.add(Key {
                name: number.to_string(),
                ..key.clone()
            });
        }
        let (_, outcome) = reconciler.reconcile(&key).await;
        assert!(
            matches!(outcome, Ok(Outcome::Changed { .. })),
            "{outcome:?}"
        );
        let asked = asked.lock().clone();
        assert_eq!(asked[..2], ["POST configmaps", "POST jobs"]);
        assert_eq!(
            asked.contains(&"PATCH status".to_owned()),
            told,
            "{asked:?}"
        );
    }
}

//! A reconciler without a server: what it keeps in memory.

use bessemer_core::Settings;
use bessemer_protocol::Storage;
use bessemer_store::{Layout, MemoryStore};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::clock::SystemClock;
use crate::intake::tests::report;
use crate::lease::Leadership;
use crate::outside::{Artefacts, Live};

fn reconciler() -> Reconciler {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no server"))
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
        pace: Pace::default(),
        recorder: Recorder::new(client.clone(), "test"),
        metrics: Metrics::new(),
        namespaces: Vec::new(),
        client,
    }
}

#[tokio::test]
async fn what_is_remembered_of_an_object_goes_with_it() {
    let reconciler = reconciler();
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

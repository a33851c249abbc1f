//! Objects that an older schema let in, or a hand, and that this operator cannot read.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_core::Settings;
use bessemer_e2e::simulation::server::{apply, call, merge, ours, table, text, whole};
use bessemer_embedded::clock::SystemClock;
use bessemer_embedded::{Api, Options};
use bessemer_protocol::Storage;
use bessemer_runtime::clock::{Random, TokioClock};
use bessemer_runtime::metric::Metrics;
use bessemer_runtime::outside::{Artefacts, Live};
use bessemer_runtime::{Config, Parts, run};
use bessemer_store::{Layout, MemoryStore};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An API whose definitions take any spec.
fn lenient() -> Api {
    let api = Api::open(Options::memory(Arc::new(SystemClock), 1)).unwrap();
    for definition in bessemer_api::definitions() {
        let mut body = serde_json::to_value(definition).unwrap();
        let root = &mut body["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        root["properties"]["spec"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let (code, answer) = call(&api, Method::POST, DEFINITIONS, "application/json", &body);
        assert_eq!(code, 201, "{answer}");
    }
    api
}

/// Brings the definitions up to date, as an upgrade does.
fn upgrade(api: &Api) {
    for definition in bessemer_api::definitions() {
        let body = serde_json::to_value(&definition).unwrap();
        let path = format!("{DEFINITIONS}/{}", text(&body, "/metadata/name"));
        let schema = json!({"spec": {"versions": body["spec"]["versions"]}});
        assert_eq!(merge(api, &path, &schema), 200);
    }
}

fn operator(api: &Api) -> tokio::task::JoinHandle<Result<(), bessemer_runtime::Error>> {
    let storage = Storage {
        endpoint: None,
        region: "us-east-1".into(),
        bucket: "b".into(),
        prefix: String::new(),
    };
    let client = kube::Client::new(api.clone(), "default");
    let artefacts = Artefacts::new(Arc::new(MemoryStore::default()), Layout::new("b", ""));
    let parts = Parts {
        lease_client: client.clone(),
        clock: Arc::new(TokioClock::starting_at(Timestamp::now())),
        random: Random::seeded(1),
        outside: Arc::new(Live::new(artefacts)),
        metrics: Metrics::new(),
    };
    let config = Config::new(Settings::new(storage, "worker"));
    tokio::spawn(run(client, config, parts, CancellationToken::new()))
}

fn dataset(api: &Api, name: &str) -> Value {
    let all = api.objects(&table(Kind::Dataset));
    let found = all.iter().find(|o| text(o, "/metadata/name") == name);
    found.map(|object| (**object).clone()).unwrap_or_default()
}

/// Status, reason and message of a condition.
fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    let found = all.iter().find(|c| c["type"] == kind)?;
    let field = |name: &str| text(found, name).to_owned();
    Some((field("/status"), field("/reason"), field("/message")))
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_says_so_and_holds_up_no_other() {
    let api = lenient();
    let good = json!({"purpose": "Pretraining", "sources": [{"name": "a", "uri": "s3://b/a"}],
        "tokenizer": {"train": {"vocabularySize": "4k"}}});
    for (name, spec) in [
        ("good", good.clone()),
        ("word", json!({"purpose": "Gossip", "sources": []})),
        (
            "shape",
            json!({"purpose": "Pretraining", "sources": "none"}),
        ),
    ] {
        let (code, answer) = apply(&api, Kind::Dataset, name, &spec);
        assert_eq!(code, 201, "{answer}");
    }
    upgrade(&api);
    let _operator = operator(&api);
    for (name, culprit) in [("word", "Gossip"), ("shape", "sequence")] {
        let mut told = None;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            told = condition(&dataset(&api, name), "Stalled");
            if told.is_some() {
                break;
            }
        }
        let object = dataset(&api, name);
        let (status, reason, message) = told.unwrap_or_else(|| panic!("{name}: {object}"));
        assert_eq!((status.as_str(), reason.as_str()), ("True", "InvalidSpec"));
        assert!(message.contains(culprit), "{message}");
        let ready = condition(&object, "Ready").unwrap();
        assert_eq!(
            (ready.0.as_str(), ready.1.as_str()),
            ("False", "InvalidSpec")
        );
        assert_eq!(object["status"]["observedGeneration"], 1);
    }
    let ready = condition(&dataset(&api, "good"), "Ready").unwrap();
    assert_eq!(ready.1, "Starting", "the readable one goes on");

    // At rest nothing is written again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let revision = api.revision();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(api.revision(), revision);

    // Mended, it is like any other.
    let mut mended = whole(Kind::Dataset, "shape", &good);
    mended["metadata"]["resourceVersion"] =
        dataset(&api, "shape")["metadata"]["resourceVersion"].clone();
    let path = ours(Kind::Dataset, "shape");
    let (code, answer) = call(&api, Method::PUT, &path, "application/json", &mended);
    assert_eq!(code, 200, "{answer}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let object = dataset(&api, "shape");
    assert_eq!(
        condition(&object, "Ready").unwrap().1,
        "Starting",
        "{object}"
    );
    assert_eq!(condition(&object, "Stalled"), None);
}

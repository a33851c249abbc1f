//! Replays every scenario against the embedded API and compares with what kube-apiserver answered.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use bessemer_e2e::conformance::{self, differences, transcript};
use bessemer_embedded::clock::SystemClock;
use bessemer_embedded::{Api, Options};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Areas in which the embedded API must not differ at all.
const STRICT: &[&str] = &[
    "apply",
    "conflict",
    "finalizer",
    "garbage",
    "generation",
    "watch",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_api_answers_as_kube_apiserver_does() {
    let mut lines = Vec::new();
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    for scenario in conformance::scenarios().unwrap() {
        if !scenario.name.contains(&wanted) {
            continue;
        }
        let api = Api::open(Options::memory(Arc::new(SystemClock), 7)).unwrap();
        let client = kube::Client::new(api.clone(), "default");
        let namespace = format!("conformance-{}", scenario.name);
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let request =
            http::Request::post("/api/v1/namespaces").header("content-type", "application/json");
        client
            .request_text(request.body(body.to_string().into_bytes()).unwrap())
            .await
            .unwrap();
        let stop = CancellationToken::new();
        if scenario.controllers {
            tokio::spawn(bessemer_embedded::controller::run(
                client.clone(),
                stop.clone(),
            ));
        }
        if scenario.compaction {
            let (api, stop) = (api.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    api.compact();
                }
            });
        }
        let recorded = transcript(&scenario.name).unwrap();
        match conformance::run(&client, &scenario, &namespace).await {
            Ok(answered) => lines.extend(differences(&scenario, &recorded, &answered)),
            Err(error) => lines.push(error.to_string()),
        }
        stop.cancel();
    }
    assert!(
        lines.is_empty(),
        "{} differences:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

#[test]
fn strict_areas_have_no_exceptions() {
    let mut areas = Vec::new();
    for scenario in conformance::scenarios().unwrap() {
        let strict = STRICT.iter().find(|area| scenario.name.starts_with(**area));
        if let Some(area) = strict {
            areas.push(*area);
            assert!(
                scenario.exceptions.is_empty(),
                "{} must not have exceptions",
                scenario.name
            );
        }
        for exception in &scenario.exceptions {
            assert!(
                exception.reason.len() > 10,
                "{}: every exception says why",
                scenario.name
            );
        }
    }
    areas.dedup();
    assert_eq!(areas, STRICT, "every strict area has a scenario");
}

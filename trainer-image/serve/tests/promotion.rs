//! Twenty promotions behind the router under twenty streaming clients: nobody notices.
#![cfg(test)]

mod fixture;

use bessemer_protocol::route::{Backend, RouteConfig, RouteStatus};
use bessemer_route::{RouteOptions, route};
use fixture::{Disk, Running, Start, events};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 20;
const PROMOTIONS: usize = 20;

fn configure(path: &Path, revision: usize, backends: &[(&Running, String, u32)]) {
    let backends = backends.iter().map(|(server, digest, weight)| Backend {
        name: digest.clone(),
        digest: digest.clone(),
        url: server.url.clone(),
        weight: *weight,
    });
    let config = RouteConfig {
        deployment: "tiny".into(),
        revision: revision.to_string(),
        backends: backends.collect(),
        require_api_key: false,
    };
    let partial = path.with_extension("new");
    std::fs::write(&partial, serde_json::to_vec(&config).unwrap()).unwrap();
    std::fs::rename(partial, path).unwrap();
}

async fn in_force(url: &str, revision: usize) {
    for _ in 0..400 {
        let status: RouteStatus = reqwest::get(format!("{url}/-/status"))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        if status.revision == revision.to_string() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("revision {revision} does not come into force");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_promotions_under_twenty_streams_lose_nothing() {
    let disk = Arc::new(Disk::new(1));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("route.json");
    let start = |number: usize| {
        let digest: &'static str = Box::leak(format!("digest-{number}").into_boxed_str());
        Start {
            running: 32,
            digest,
            ..Start::default()
        }
    };
    let mut current = start(0).serve(&disk).await;
    configure(&path, 0, &[(&current, "digest-0".into(), 100)]);
    let listener = bessemer_route::drain::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let options = RouteOptions {
        config: path.clone(),
        keys: None,
        drain: Duration::from_secs(60),
    };
    let router = tokio::spawn(route(listener, options, shutdown.clone()));

    let (stop, answers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (url, stop, answers) = (url.clone(), stop.clone(), answers.clone());
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                let body = json!({"model": "tiny", "prompt": "go", "seed": number, "max_tokens": 30, "ignore_eos": true, "stream": true,
                    "stream_options": {"include_usage": true}});
                let mut digests = std::collections::BTreeSet::new();
                while !stop.load(Ordering::Acquire) {
                    let response = client.post(format!("{url}/v1/completions")).json(&body).send().await.expect("no refused connection");
                    assert_eq!(response.status(), 200);
                    digests.insert(response.headers()["x-bessemer-digest"].to_str().unwrap().to_owned());
                    let events = events(&response.text().await.expect("no cut stream"));
                    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 30);
                    answers.fetch_add(1, Ordering::AcqRel);
                }
                digests
            })
        })
        .collect();

    for number in 1..=PROMOTIONS {
        let next = start(number).serve(&disk).await;
        let (old, new) = (format!("digest-{}", number - 1), format!("digest-{number}"));
        // A canary first, then all of the traffic, then the old one goes.
        configure(
            &path,
            number * 2 - 1,
            &[(&current, old.clone(), 80), (&next, new.clone(), 20)],
        );
        in_force(&url, number * 2 - 1).await;
        configure(&path, number * 2, &[(&current, old, 0), (&next, new, 100)]);
        in_force(&url, number * 2).await;
        let old = std::mem::replace(&mut current, next);
        old.shutdown.cancel();
        old.task.await.unwrap().unwrap();
        let before = answers.load(Ordering::Acquire);
        while answers.load(Ordering::Acquire) < before + CLIENTS {
            assert!(
                !clients.iter().any(tokio::task::JoinHandle::is_finished),
                "a client failed"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Release);
    let mut digests = std::collections::BTreeSet::new();
    for client in clients {
        digests.extend(client.await.unwrap());
    }
    assert_eq!(
        digests.len(),
        PROMOTIONS + 1,
        "every revision has answered: {digests:?}"
    );
    let status: RouteStatus = reqwest::get(format!("{url}/-/status"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(status.backends.last().unwrap().errors, 0);
    shutdown.cancel();
    router.await.unwrap().unwrap();
}

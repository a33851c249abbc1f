//! The undisturbed chain, its progress and its served model.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::run::{Chain, Running, sources};
use crate::store::Store;

type Seen = Arc<Mutex<Vec<Value>>>;

async fn intake(seen: Seen) -> String {
    let take = |State(seen): State<Seen>, Json(report): Json<Value>| async move {
        seen.lock().unwrap().push(report)
    };
    let router = Router::new()
        .route("/v1/progress", post(take))
        .with_state(seen);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Waits until `server` is ready and asks for a completion: digest of the model that answered, and the answer.
pub async fn ask(server: &mut Running) -> (String, Value) {
    let address = format!("http://{}:8080", server.address);
    let client = reqwest::Client::new();
    for _ in 0..600 {
        let ready = client.get(format!("{address}/ready")).send().await;
        if ready.is_ok_and(|answer| answer.status().is_success()) {
            break;
        }
        assert!(
            server.child.try_wait().unwrap().is_none(),
            "the server ended: {}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let body = json!({"model": "chat", "prompt": "The vector", "max_tokens": 8, "temperature": 0, "logprobs": 1});
    let request = client.post(format!("{address}/v1/completions"));
    let answer = request.json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let digest = answer.headers()["x-bessemer-digest"].to_str().unwrap();
    (digest.to_owned(), answer.json().await.unwrap())
}

#[test]
fn the_chain_ends_in_a_served_completion() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let chain = Chain::new(&store, root.path(), "team");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seen = Seen::default();
    let url = runtime.block_on(intake(seen.clone()));

    let (docs, pairs) = (chain.finish(&chain.docs()), chain.finish(&chain.pairs()));
    let base_run = chain.base(&docs);
    let ended = base_run.start(&[("BESSEMER_PROGRESS_URL", &url)]).wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let base = chain.made(&base_run).unwrap();
    {
        let seen = seen.lock().unwrap();
        let percents: Vec<f64> = seen
            .iter()
            .map(|report| report["percent"].as_f64().unwrap())
            .collect();
        assert!(
            percents.is_sorted() && percents.last() == Some(&100.0),
            "{percents:?}"
        );
        assert!(
            seen.iter()
                .all(|report| report["runKey"] == json!(base_run.key) && report["uid"] == "u")
        );
        let last = seen.last().unwrap();
        assert!(
            last["loss"].as_f64().unwrap() > 0.0
                && last["checkpoint"]["step"].as_u64().unwrap() > 0,
            "{last}"
        );
    }
    assert!(
        store
            .checkpoints("team", "PretrainJob", "base", &base_run.key)
            .len()
            <= 2,
        "two checkpoints are kept"
    );
    let manifest: Value = serde_json::from_slice(
        &std::fs::read(store.path(&base.uri).join("manifest.json")).unwrap(),
    )
    .unwrap();
    assert!(
        manifest["statistics"]["losses"]["training"]
            .as_f64()
            .unwrap()
            < 5.0,
        "{}",
        manifest["statistics"]
    );
    assert_eq!(
        manifest["inputs"],
        json!([{"kind": "Dataset", "digest": docs.digest}])
    );

    // Again: the result is there, so nothing is done, on a node that never saw the run.
    base_run.move_on();
    let again = base_run.start(&[]).wait();
    assert_eq!(again.code, Some(0));
    assert!(
        again.log.contains("the result exists already") && !again.log.contains("input verified"),
        "{}",
        again.log
    );

    let chat = chain.finish(&chain.chat(&base, &pairs));
    let manifest = std::fs::read_to_string(store.path(&chat.uri).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let number = |field: &str| {
        manifest["statistics"]
            .pointer(field)
            .and_then(Value::as_f64)
            .unwrap()
    };
    let (trained, all) = (number("/trainableParameters"), number("/parameters"));
    assert!(
        trained > 0.0 && trained < all,
        "an adapter is smaller: {trained} of {all}"
    );
    let (before, after) = (
        number("/losses/initialValidation"),
        number("/losses/validation"),
    );
    assert!(after < before, "held-out answers: {before} -> {after}");
    let eval = chain.finish(&chain.eval(&chat, &base, &docs, &pairs));
    let results: Value =
        serde_json::from_slice(&std::fs::read(store.path(&eval.uri).join("results.json")).unwrap())
            .unwrap();
    let find = |suite: &str, metric: &str| -> Value {
        results["results"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["suite"] == suite && one["metric"] == metric)
            .unwrap()
            .clone()
    };
    let delta = find("answers", "delta.loss");
    assert!(
        delta["high"].as_f64().unwrap() < 0.0,
        "tuning lowers the loss on held-out answers: {delta}"
    );
    assert!(
        find("text", "bytePerplexity")["value"].as_f64().unwrap() > 1.0
            && find("chat", "rougeL")["samples"] == 8
    );

    let mut server = chain.served(&chat).start(&[]);
    let (answered, answer) = runtime.block_on(ask(&mut server));
    assert_eq!(answered, chat.digest);
    assert!(
        !answer["choices"][0]["text"].as_str().unwrap().is_empty(),
        "{answer}"
    );
    // A second server on the same address says so.
    let mut config = chain.served(&chat);
    config.work = config.work.with_extension("second");
    let second = config.start(&[("POD_IP", &server.address)]).wait();
    assert_eq!(second.code, Some(78));
    assert!(
        second.said().contains("cannot listen on"),
        "{}",
        second.said()
    );
    server.terminate();
    assert_eq!(server.wait().code, Some(0), "a drained server ends well");
}

//! The server around the model: errors, keys, limits, disconnects, drain.
#![cfg(test)]

mod fixture;

use fixture::{CONTEXT, Disk, Start, events, post};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_openais_errors_that_name_the_field() {
    let disk = Disk::new(1);
    let server = Start {
        running: 2,
        queue: 3,
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let long = "x".repeat(CONTEXT as usize + 1);
    let cases = [
        (json!({"prompt": "a"}), 400, "model"),
        (json!({"model": "other", "prompt": "a"}), 404, ""),
        (json!({"model": "tiny"}), 400, "prompt"),
        (json!({"model": "tiny", "prompt": ""}), 400, "prompt"),
        (json!({"model": "tiny", "prompt": []}), 400, "prompt"),
        (json!({"model": "tiny", "prompt": {"a": 1}}), 400, "prompt"),
        (json!({"model": "tiny", "prompt": [5, 260]}), 400, "prompt"),
        (json!({"model": "tiny", "prompt": long}), 400, "prompt"),
        (
            json!({"model": "tiny", "prompt": "abc", "max_tokens": CONTEXT - 1}),
            400,
            "max_tokens",
        ),
        (
            json!({"model": "tiny", "prompt": "a", "max_tokens": 0}),
            400,
            "max_tokens",
        ),
        (
            json!({"model": "tiny", "prompt": "a", "temperature": "hot"}),
            400,
            "temperature",
        ),
        (
            json!({"model": "tiny", "prompt": "a", "logit_bias": {"5": 1}}),
            400,
            "logit_bias",
        ),
        (
            json!({"model": "tiny", "prompt": vec!["a"; 6]}),
            400,
            "prompt",
        ),
    ];
    for (body, status, parameter) in cases {
        let response = server.post("/v1/completions", &body).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(response.headers()["x-bessemer-digest"], "d1");
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            error["error"]["param"].as_str().unwrap_or(""),
            parameter,
            "{error}"
        );
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    let client = reqwest::Client::new();
    // The answer comes before the body is read, so the client may find the connection closed while it still writes.
    let mut large = None;
    for _ in 0..50 {
        let sent = client
            .post(format!("{}/v1/completions", server.url))
            .body(vec![b' '; 9 << 20])
            .send()
            .await;
        large = large.or(sent.ok());
    }
    assert_eq!(large.unwrap().status(), 413);
    assert_eq!(
        client
            .get(format!("{}/v1/completions", server.url))
            .send()
            .await
            .unwrap()
            .status(),
        405
    );
    assert_eq!(
        client
            .get(format!("{}/nowhere", server.url))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    assert_eq!(
        post(
            &server.url,
            "/v1/chat/completions",
            &json!({"model": "tiny"})
        )
        .await
        .status(),
        400
    );
    assert_eq!(
        server
            .metric("bessemer_request_errors_total{model_name=\"tiny\",cause=\"InvalidRequest\"}")
            .await,
        13.0
    );
    assert!(
        server
            .metric("bessemer_request_errors_total{model_name=\"tiny\",cause=\"RequestTooLarge\"}")
            .await
            >= 1.0
    );
    // A prompt that fills the context can be scored and continued by one token.
    let full = "x".repeat(CONTEXT as usize);
    let answer = server
        .complete(json!({"model": "tiny", "prompt": full, "max_tokens": 1}))
        .await;
    assert_eq!(answer["usage"]["completion_tokens"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_guard_the_api_and_not_the_probes() {
    let disk = Disk::new(1);
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("key"), "sesame\n").unwrap();
    let server = Start {
        keys: Some(keys.path().to_owned()),
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let body = json!({"model": "tiny", "prompt": "a", "max_tokens": 1});
    let response = server.post("/v1/completions", &body).await;
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.json::<Value>().await.unwrap()["error"]["code"],
        "InvalidApiKey"
    );
    let client = reqwest::Client::new();
    let with = |key: &'static str| {
        client
            .post(format!("{}/v1/completions", server.url))
            .bearer_auth(key)
            .json(&body)
            .send()
    };
    assert_eq!(with("sesame").await.unwrap().status(), 200);
    assert_eq!(with("sesam").await.unwrap().status(), 401);
    assert_eq!(
        reqwest::get(format!("{}/v1/models", server.url))
            .await
            .unwrap()
            .status(),
        401
    );
    for path in ["health", "ready", "metrics"] {
        assert_eq!(
            reqwest::get(format!("{}/{path}", server.url))
                .await
                .unwrap()
                .status(),
            200
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let disk = Disk::new(1);
    let server = Start {
        running: 1,
        queue: 1,
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let long = json!({"model": "tiny", "prompt": "a", "max_tokens": 250, "ignore_eos": true, "n": 2, "stream": true});
    let busy = server.post("/v1/completions", &long).await;
    let refused = server
        .post("/v1/completions", &json!({"model": "tiny", "prompt": "a"}))
        .await;
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.headers()["retry-after"].to_str().unwrap()
        ),
        (429, "1")
    );
    events(&busy.text().await.unwrap());
    server
        .complete(json!({"model": "tiny", "prompt": "a"}))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_place() {
    let disk = Disk::new(1);
    let server = Start {
        running: 2,
        queue: 0,
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let long = json!({"model": "tiny", "prompt": "a", "max_tokens": 250, "ignore_eos": true, "n": 2, "stream": true});
    for round in 1..=5 {
        let mut stream = server.post("/v1/completions", &long).await.bytes_stream();
        stream.next().await.unwrap().unwrap();
        drop(stream);
        let line = "bessemer_requests_aborted_total{";
        for _ in 0..200 {
            if server.metric(line).await >= f64::from(round)
                && server.metric("vllm:num_requests_running{").await == 0.0
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(server.metric("vllm:kv_cache_usage_perc{").await, 0.0);
    }
    // Whole answers are abandoned as well.
    let mut whole = long;
    whole["stream"] = json!(false);
    let before = server.metric("bessemer_requests_aborted_total{").await;
    let request = reqwest::Client::new()
        .post(format!("{}/v1/completions", server.url))
        .json(&whole)
        .timeout(Duration::from_millis(5));
    if request.send().await.is_err() {
        for _ in 0..200 {
            if server.metric("vllm:num_requests_running{").await == 0.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(server.metric("bessemer_requests_aborted_total{").await >= before);
    }
    server
        .complete(json!({"model": "tiny", "prompt": "a"}))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_survive_the_end_of_the_server() {
    const STREAMS: usize = 1000;
    let disk = Disk::new(1);
    let server = Start {
        running: 64,
        queue: STREAMS as u32,
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let client = reqwest::Client::new();
    let body = json!({"model": "tiny", "prompt": "a", "max_tokens": 120, "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}});
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let request = client
                .post(format!("{}/v1/completions", server.url))
                .json(&body);
            tokio::spawn(async move { request.send().await })
        })
        .collect();
    // All are accepted, and only the first have ended. In this order: who moves on meanwhile is missed, not counted twice.
    let mut accepted = 0.0;
    let mut left = 0.0;
    while accepted < STREAMS as f64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let ended = server.metric("vllm:request_queue_time_seconds_count{");
        accepted = ended.await;
        left = server.metric("vllm:num_requests_running{").await;
        left += server.metric("vllm:num_requests_waiting{").await;
        accepted += left;
    }
    assert!(left > 0.0, "the end has to come in the middle");
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(20)).await;
    // While streams run, new requests are refused with a reason; once they are done, nobody listens.
    match client
        .post(format!("{}/v1/completions", server.url))
        .json(&body)
        .send()
        .await
    {
        Ok(refused) => {
            assert_eq!(
                (
                    refused.status().as_u16(),
                    refused.headers().contains_key("retry-after")
                ),
                (503, true)
            );
            assert!(refused.headers().contains_key("x-bessemer-draining"));
        }
        Err(error) => assert!(error.is_connect() || error.is_request(), "{error}"),
    }
    let texts = streams.into_iter().map(async |stream| {
        let response = stream.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        response.text().await
    });
    for text in futures::future::join_all(texts).await {
        let last = events(&text.unwrap()).pop().unwrap();
        assert_eq!(last["usage"]["completion_tokens"], 120);
    }
    server.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_deadline() {
    let disk = Disk::new(1);
    let server = Start {
        drain_seconds: 0,
        ..Start::default()
    }
    .serve(&disk)
    .await;
    let body = json!({"model": "tiny", "prompt": "a", "max_tokens": 250, "ignore_eos": true, "n": 8, "stream": true});
    let mut stream = server.post("/v1/completions", &body).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), server.task)
        .await
        .expect("bounded")
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_find_the_metric_names_they_read() {
    let disk = Disk::new(1);
    let server = Start::default().serve(&disk).await;
    server
        .complete(json!({"model": "tiny", "prompt": "abc", "max_tokens": 5, "ignore_eos": true}))
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for name in [
        "vllm:num_requests_waiting{",
        "vllm:num_requests_running{",
        "vllm:kv_cache_usage_perc{",
        "vllm:gpu_cache_usage_perc{",
    ] {
        assert_eq!(server.metric(name).await, 0.0);
    }
    assert_eq!(server.metric("vllm:prompt_tokens_total{").await, 3.0);
    assert_eq!(server.metric("vllm:generation_tokens_total{").await, 5.0);
    assert_eq!(
        server
            .metric("vllm:time_to_first_token_seconds_count{")
            .await,
        1.0
    );
    assert_eq!(
        server
            .metric("vllm:inter_token_latency_seconds_count{")
            .await,
        4.0
    );
    assert_eq!(
        server
            .metric("vllm:request_success_total{model_name=\"tiny\",finished_reason=\"length\"}")
            .await,
        1.0
    );
    assert_eq!(server.metric("vllm:cache_config_info{").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_and_a_taken_port_are_said_plainly() {
    let disk = Disk::new(1);
    let server = Start::default().serve(&disk).await;
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let error = bessemer_route::drain::bind(address).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("cannot listen on {address}")),
        "{error}"
    );
    let weights = disk.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let listener = bessemer_route::drain::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let task = bessemer_protocol::task::ServeTask {
        model_name: "m".into(),
        max_concurrency: 1,
        max_queue: 1,
        require_api_key: false,
        drain_seconds: 1,
    };
    let options = bessemer_serve::ServeOptions {
        model: disk.path().to_owned(),
        digest: "d".into(),
        keys: None,
        threads: 1,
        backend: bessemer_serve::Backend::Native,
    };
    let error = bessemer_serve::serve(
        listener,
        task,
        options,
        tokio_util::sync::CancellationToken::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.category(), "ModelDamaged");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

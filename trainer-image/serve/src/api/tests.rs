use super::*;
use crate::engine::tests::{Behaviour, request as engine_request, start};
use axum::body::Body;
use tower::ServiceExt;

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,
    "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4},"merges":[]}}"#;

fn served(behaviour: Behaviour) -> Served {
    let (engine, metrics) = start(2, 8, behaviour);
    Served {
        model: "fake".into(),
        vocabulary: Arc::new(Vocabulary::new(TOKENIZER.parse().unwrap()).unwrap()),
        template: None,
        context: 64,
        vocabulary_size: 5,
        engine,
        metrics,
    }
}

fn server(served: Option<Served>) -> Arc<Server> {
    let cell = OnceLock::new();
    if let Some(served) = served {
        cell.set(Arc::new(served)).unwrap();
    }
    let stuck_after = Duration::from_millis(800);
    Arc::new(Server {
        served: cell,
        digest: "d".into(),
        keys: None,
        drain: Drain::default(),
        stuck_after,
        span: Mutex::default(),
    })
}

async fn call(server: &Arc<Server>, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = axum::http::Request::builder().uri(path);
    let request = match body {
        Some(body) => request
            .method("POST")
            .body(Body::from(body.to_string()))
            .unwrap(),
        None => request.body(Body::empty()).unwrap(),
    };
    let response = router(server.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["x-bessemer-digest"], "d");
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn while_loading_the_process_is_healthy_and_not_ready() {
    let server = server(None);
    assert_eq!(call(&server, "/health", None).await.0, 200);
    let (status, body) = call(&server, "/ready", None).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("Loading")));
    assert_eq!(
        call(&server, "/v1/completions", Some(json!({}))).await.0,
        503
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_is_not_ready_and_recovers() {
    let gate = Arc::new(Mutex::new(()));
    let inner = gate.clone();
    let server = server(Some(served(Box::new(move |_| drop(inner.lock().unwrap())))));
    assert_eq!(call(&server, "/ready", None).await.0, 200);
    let mut receiver = {
        let held = gate.lock().unwrap();
        let (frozen, receiver) = engine_request(&[0], 1);
        server
            .served
            .get()
            .unwrap()
            .engine
            .submit(vec![frozen])
            .unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        let served = server.served.get().unwrap();
        assert!(served.engine.pulse().silence() > server.stuck_after);
        assert_eq!(server.ready().unwrap_err().category, "EngineStuck");
        drop(held);
        receiver
    };
    while receiver.recv().await.is_some() {}
    assert_eq!(call(&server, "/ready", None).await.0, 200);
    assert_eq!(call(&server, "/health", None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_fails_requests_and_health() {
    let server = server(Some(served(Box::new(|rows| {
        assert!(rows[0].token != 3, "the model fails on purpose")
    }))));
    let body = json!({"model": "fake", "prompt": "a", "max_tokens": 3, "temperature": 0});
    let (status, answer) = call(&server, "/v1/completions", Some(body.clone())).await;
    assert_eq!(
        (status, &answer["choices"][0]["text"]),
        (200, &json!("bcd"))
    );
    let (status, answer) = call(
        &server,
        "/v1/completions",
        Some(json!({"model": "fake", "prompt": [3], "max_tokens": 3})),
    )
    .await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (500, &json!("EngineStopped"))
    );
    let pulse = server.served.get().unwrap().engine.pulse();
    while !pulse.stopped() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(call(&server, "/health", None).await.0, 500);
    assert_eq!(call(&server, "/ready", None).await.0, 503);
    assert_eq!(call(&server, "/v1/completions", Some(body)).await.0, 503);
}

#[tokio::test]
async fn a_model_without_template_says_what_to_use() {
    let server = server(Some(served(Box::new(|_| {}))));
    let (status, body) = call(
        &server,
        "/v1/chat/completions",
        Some(json!({"model": "fake", "messages": [{"role": "user", "content": "a"}]})),
    )
    .await;
    assert_eq!(status, 400);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/v1/completions")
    );
    assert_eq!(
        call(&server, "/v1/models/fake", None).await.1["digest"],
        "d"
    );
    assert_eq!(call(&server, "/v1/models/other", None).await.0, 404);
}

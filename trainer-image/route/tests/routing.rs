//! The router over HTTP, in front of servers that do what each test tells them.
#![cfg(test)]

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bessemer_protocol::route::{Backend, RouteConfig, RouteStatus};
use bessemer_route::{RouteOptions, route};
use futures::StreamExt;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a server does with `/v1/completions`.
#[derive(Clone)]
enum Way {
    Answer,
    /// One event, then nothing until told, then the end.
    Hold(Arc<Notify>),
    /// One event, then the connection breaks.
    Cut,
    Fail(StatusCode),
    Draining,
}

struct Upstream {
    url: String,
    calls: Arc<AtomicUsize>,
}

async fn handle(
    State((way, calls)): State<(Way, Arc<AtomicUsize>)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    calls.fetch_add(1, Ordering::AcqRel);
    let first = || Ok::<_, std::io::Error>(Bytes::from_static(b"data: 1\n\n"));
    match way {
        Way::Answer => {
            let seen = json!({"echo": String::from_utf8_lossy(&body), "key": headers.get("authorization").map(|v| v.to_str().unwrap()),
                "usage": {"completion_tokens": 7}});
            axum::Json(seen).into_response()
        }
        Way::Hold(go_on) => {
            let rest = futures::stream::once(async move {
                go_on.notified().await;
                Ok(Bytes::from_static(b"data: [DONE]\n\n"))
            });
            Body::from_stream(futures::stream::iter([first()]).chain(rest)).into_response()
        }
        Way::Cut => {
            let broken = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(futures::stream::iter([first()]).chain(broken)).into_response()
        }
        Way::Fail(status) => (status, "broken").into_response(),
        Way::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            [("x-bessemer-draining", "1")],
            "draining",
        )
            .into_response(),
    }
}

async fn upstream_on(listener: tokio::net::TcpListener, way: Way) -> Upstream {
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let app = axum::Router::new()
        .route("/ready", get(|| async { "ok" }))
        .route("/v1/models", get(|| async { "models" }))
        .route("/v1/completions", post(handle))
        .with_state((way, calls.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Upstream { url, calls }
}

async fn upstream(way: Way) -> Upstream {
    upstream_on(
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        way,
    )
    .await
}

struct Router {
    url: String,
    config: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), bessemer_route::RouteError>>,
    _directory: tempfile::TempDir,
}

fn write(
    path: &std::path::Path,
    revision: &str,
    backends: &[(&str, &str, u32)],
    require_api_key: bool,
) {
    let backend = |(name, url, weight): &(&str, &str, u32)| Backend {
        name: (*name).into(),
        digest: format!("digest-{name}"),
        url: (*url).into(),
        weight: *weight,
    };
    let config = RouteConfig {
        deployment: "m".into(),
        revision: revision.into(),
        backends: backends.iter().map(backend).collect(),
        require_api_key,
    };
    std::fs::write(
        path.with_extension("new"),
        serde_json::to_vec(&config).unwrap(),
    )
    .unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

impl Router {
    async fn start(backends: &[(&str, &str, u32)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("route.json");
        write(&config, "0", backends, false);
        std::fs::create_dir(directory.path().join("keys")).unwrap();
        std::fs::write(directory.path().join("keys/one"), "sesame").unwrap();
        let listener = bessemer_route::drain::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let options = RouteOptions {
            config: config.clone(),
            keys: Some(directory.path().join("keys")),
            drain: Duration::from_secs(30),
        };
        let task = tokio::spawn(route(listener, options, shutdown.clone()));
        Self {
            url,
            config,
            shutdown,
            task,
            _directory: directory,
        }
    }

    async fn configure(
        &self,
        revision: &str,
        backends: &[(&str, &str, u32)],
        require_api_key: bool,
    ) {
        write(&self.config, revision, backends, require_api_key);
        self.until(|status| status.revision == revision).await;
    }

    async fn until(&self, condition: impl Fn(&RouteStatus) -> bool) -> RouteStatus {
        for _ in 0..400 {
            let status: RouteStatus = reqwest::get(format!("{}/-/status", self.url))
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            if condition(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the status never got there");
    }

    async fn post(&self) -> reqwest::Response {
        reqwest::Client::new()
            .post(format!("{}/v1/completions", self.url))
            .body("hello")
            .send()
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_kept_exactly_and_answers_name_their_weights() {
    let (stable, canary) = (upstream(Way::Answer).await, upstream(Way::Answer).await);
    let router = Router::start(&[("stable", &stable.url, 90), ("canary", &canary.url, 10)]).await;
    let mut from_canary = 0;
    for request in 1..=50 {
        let response = router.post().await;
        assert_eq!(response.status(), 200);
        from_canary += usize::from(response.headers()["x-bessemer-digest"] == "digest-canary");
        assert!(from_canary * 10 <= request, "never more than a tenth");
        assert_eq!(response.json::<Value>().await.unwrap()["echo"], "hello");
    }
    assert_eq!((from_canary, canary.calls.load(Ordering::Acquire)), (5, 5));
    assert_eq!(
        reqwest::get(format!("{}/v1/models", router.url))
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "models"
    );
    let status = router.until(|_| true).await;
    let counts: Vec<u64> = status
        .backends
        .iter()
        .map(|backend| backend.requests)
        .collect();
    assert_eq!(counts, [45, 5], "lists of models are not counted");
    assert!(status.backends.iter().all(|b| b.errors == 0
        && b.in_flight == 0
        && b.ttft_p50_ms <= b.ttft_p99_ms
        && b.ttft_p50_ms.is_some()));
    assert!(status.backends[0].tokens_per_second.unwrap() > 0.0);
    let metrics = reqwest::get(format!("{}/metrics", router.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains(
            "bessemer_route_requests_total{backend=\"canary\",digest=\"digest-canary\"} 5"
        ),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_configuration_leaves_streams_alone() {
    let go_on = Arc::new(Notify::new());
    let (old, new) = (
        upstream(Way::Hold(go_on.clone())).await,
        upstream(Way::Answer).await,
    );
    let router = Router::start(&[("old", &old.url, 100)]).await;
    let mut stream = router.post().await.bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    router
        .configure("1", &[("new", &new.url, 100)], false)
        .await;
    assert_eq!(
        router.post().await.headers()["x-bessemer-digest"],
        "digest-new"
    );
    let status = router.until(|_| true).await;
    assert_eq!(
        status
            .backends
            .iter()
            .map(|b| (b.name.as_str(), b.in_flight))
            .collect::<Vec<_>>(),
        [("new", 0), ("old", 1)]
    );
    go_on.notify_one();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: [DONE]\n\n");
    assert!(stream.next().await.is_none());
    router.until(|status| status.backends.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_again_and_counted_once() {
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let other = upstream(Way::Answer).await;
    let router = Router::start(&[
        ("late", &format!("http://{address}"), 100),
        ("other", &other.url, 0),
    ])
    .await;
    let answer = tokio::spawn({
        let url = router.url.clone();
        async move {
            reqwest::Client::new()
                .post(format!("{url}/v1/completions"))
                .body("x")
                .send()
                .await
                .unwrap()
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let late = upstream_on(
        tokio::net::TcpListener::bind(address).await.unwrap(),
        Way::Answer,
    )
    .await;
    let response = answer.await.unwrap();
    // Whether the probe or the request came first: an answer, or a 503 with the reason.
    if response.status() == 200 {
        assert_eq!(late.calls.load(Ordering::Acquire), 1);
    } else {
        assert_eq!(response.status(), 503);
    }
    for _ in 0..200 {
        if router.post().await.status() == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(router.post().await.status(), 200, "it is taken in again");
    assert_eq!(
        other.calls.load(Ordering::Acquire),
        0,
        "a backend without weight gets nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ready_revision_the_reason_is_told() {
    let canary = upstream(Way::Answer).await;
    let router = Router::start(&[
        ("stable", "http://127.0.0.1:9", 75),
        ("canary", &canary.url, 25),
    ])
    .await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let response = router.post().await;
        statuses.push(response.status().as_u16());
        if response.status() == 503 {
            assert!(response.headers().contains_key("retry-after"));
            let body: Value = response.json().await.unwrap();
            assert!(
                body["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("stable"),
                "{body}"
            );
        }
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        3,
        "the canary keeps to its quarter: {statuses:?}"
    );
    router
        .configure(
            "1",
            &[
                ("stable", "http://127.0.0.1:9", 0),
                ("canary", &canary.url, 0),
            ],
            false,
        )
        .await;
    let body: Value = router.post().await.json().await.unwrap();
    assert_eq!(body["error"]["code"], "NoRevisionReady");
    assert_eq!(
        reqwest::get(format!("{}/ready", router.url))
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_streams_and_server_errors_count_against_the_revision() {
    let (cut, broken) = (
        upstream(Way::Cut).await,
        upstream(Way::Fail(StatusCode::INTERNAL_SERVER_ERROR)).await,
    );
    let router = Router::start(&[("cut", &cut.url, 100)]).await;
    assert!(
        router.post().await.text().await.is_err(),
        "the client sees that the answer is not whole"
    );
    let status = router.until(|status| status.backends[0].errors > 0).await;
    assert_eq!(
        (status.backends[0].errors, status.backends[0].requests),
        (1, 1)
    );
    router
        .configure("1", &[("broken", &broken.url, 100)], false)
        .await;
    let response = router.post().await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.text().await.unwrap().as_str()
        ),
        (500, "broken")
    );
    let status = router.until(|_| true).await;
    assert_eq!(
        (status.backends[0].errors, status.backends[0].ttft_p50_ms),
        (1, None)
    );
    assert_eq!(
        broken.calls.load(Ordering::Acquire),
        1,
        "an answered request is never tried again"
    );
    // A client that leaves is no error of the revision.
    let hold = upstream(Way::Hold(Arc::new(Notify::new()))).await;
    router
        .configure("2", &[("hold", &hold.url, 100)], false)
        .await;
    let mut stream = router.post().await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    let status = router
        .until(|status| status.backends[0].in_flight == 0)
        .await;
    assert_eq!(
        (status.backends[0].requests, status.backends[0].errors),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_passes_the_request_on_to_where_the_traffic_went() {
    let (draining, new) = (upstream(Way::Draining).await, upstream(Way::Answer).await);
    let router = Router::start(&[("draining", &draining.url, 100)]).await;
    let url = router.url.clone();
    let request = tokio::spawn(async move {
        reqwest::Client::new()
            .post(format!("{url}/v1/completions"))
            .body("x")
            .send()
            .await
            .unwrap()
    });
    while draining.calls.load(Ordering::Acquire) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    write(&router.config, "1", &[("new", &new.url, 100)], false);
    let response = request.await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["x-bessemer-digest"].to_str().unwrap()
        ),
        (200, "digest-new")
    );
    assert_eq!(new.calls.load(Ordering::Acquire), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_sizes_are_checked_at_the_edge() {
    let server = upstream(Way::Answer).await;
    let router = Router::start(&[("a", &server.url, 100)]).await;
    assert_eq!(router.post().await.status(), 200);
    router
        .configure("1", &[("a", &server.url, 100)], true)
        .await;
    let response = router.post().await;
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.json::<Value>().await.unwrap()["error"]["code"],
        "InvalidApiKey"
    );
    let client = reqwest::Client::new();
    let with = client
        .post(format!("{}/v1/completions", router.url))
        .bearer_auth("sesame")
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(
        with.json::<Value>().await.unwrap()["key"],
        "Bearer sesame",
        "the server can check it again"
    );
    let large = client
        .post(format!("{}/v1/completions", router.url))
        .bearer_auth("sesame")
        .body(vec![0; 9 << 20])
        .send()
        .await
        .unwrap();
    assert_eq!(large.status(), 413);
    assert_eq!(server.calls.load(Ordering::Acquire), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routers_own_end_waits_for_its_streams() {
    let go_on = Arc::new(Notify::new());
    let server = upstream(Way::Hold(go_on.clone())).await;
    let router = Router::start(&[("a", &server.url, 100)]).await;
    let mut stream = router.post().await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    router.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = router.post().await;
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.headers().contains_key("x-bessemer-draining")
        ),
        (503, true)
    );
    assert!(!router.task.is_finished());
    go_on.notify_one();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: [DONE]\n\n");
    router.task.await.unwrap().unwrap();
}

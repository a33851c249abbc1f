use super::*;

use std::sync::Mutex;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

fn config() -> RunConfig {
    serde_json::from_value(json!({
        "schemaVersion": 1,
        "run": {"namespace": "ns", "kind": "Deployment", "name": "chat", "uid": "u", "generation": 1, "runKey": "k", "attempt": 0},
        "storage": {"region": "us-east-1", "bucket": "b"},
        "task": {"command": "serve", "modelName": "chat", "maxConcurrency": 4, "maxQueue": 8, "drainSeconds": 10}
    }))
    .unwrap()
}

fn environment(url: Option<String>, token: Option<PathBuf>) -> Environment {
    Environment {
        work: "/nowhere".into(),
        termination_log: "/nowhere".into(),
        progress_url: url,
        token_file: token,
        keys: None,
        pod_ip: None,
        rank: None,
        rendezvous: None,
        otlp_endpoint: None,
        traceparent: None,
        image: None,
    }
}

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

async fn take(State(seen): State<Seen>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let token = headers
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default();
    seen.lock().unwrap().push((token, body));
    "".into_response()
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn the_last_report_arrives_at_the_leader_with_the_token_and_percent_never_falls() {
    let seen = Seen::default();
    let leader = serve(
        Router::new()
            .route("/v1/progress", post(take))
            .with_state(seen.clone()),
    )
    .await;
    let standby = serve(Router::new().route(
        "/v1/progress",
        post(move || {
            let leader = leader.clone();
            async move { Redirect::temporary(&format!("{leader}/v1/progress")) }
        }),
    ))
    .await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret\n").unwrap();
    let environment = environment(Some(standby), Some(token.path().to_owned()));
    let (reporter, delivery) = Reporter::start(&config(), &environment, Arc::default());
    for (percent, loss) in [(10.0, 3.0), (50.0, f64::NAN), (20.0, 2.0), (f64::NAN, 1.0)] {
        reporter.update(|report| (report.percent, report.loss) = (percent, Some(loss)));
        tokio::task::yield_now().await;
    }
    reporter.stage(Stage::Publishing, 98.0);
    reporter.update(|report| report.percent = 40.0);
    drop(reporter);
    delivery.finish().await;
    let seen = seen.lock().unwrap();
    assert!(
        seen.len() <= 3,
        "a report a second, not one each: {}",
        seen.len()
    );
    let (token, last) = seen.last().unwrap();
    assert_eq!(token, "Bearer secret");
    assert_eq!(
        (last["stage"].as_str(), last["percent"].as_f64()),
        (Some("Publishing"), Some(98.0))
    );
    let percents: Vec<f64> = seen
        .iter()
        .map(|(_, report)| report["percent"].as_f64().unwrap())
        .collect();
    assert!(percents.is_sorted(), "{percents:?}");
}

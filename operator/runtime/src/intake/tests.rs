//! Tests of the intake over its own routes, with a signer in place of the API server's.

use super::token::tests::{Signer, claims};
use super::*;
use axum::body::Body;
use axum::http::Request;
use bessemer_protocol::Stage;
use serde_json::json;
use tower::ServiceExt;

struct Pods(Mutex<Vec<String>>);

impl Directory for Pods {
    fn worker(&self, namespace: &str, name: &str) -> Option<Worker> {
        (namespace == "ns" && name == "train-0").then(|| Worker {
            uid: "u1".into(),
            kind: "PretrainJob".into(),
            name: "base".into(),
        })
    }
    fn reported(&self, report: &ProgressReport) {
        self.0.lock().push(report.uid.clone());
    }
}

pub(crate) fn report(percent: f64) -> ProgressReport {
    ProgressReport {
        namespace: "ns".into(),
        kind: "PretrainJob".into(),
        name: "base".into(),
        uid: "o1".into(),
        run_key: "r".into(),
        attempt: 0,
        stage: Stage::Training,
        percent,
        step: 1,
        total_steps: 10,
        eta_seconds: None,
        tokens_per_second: None,
        model_flops_utilization: None,
        loss: None,
        validation_loss: None,
        checkpoint: None,
    }
}

struct Fixture {
    signer: Signer,
    intake: Arc<Intake>,
    pods: Arc<Pods>,
}

fn fixture(leadership: Leadership) -> Fixture {
    let signer = Signer::new();
    let keys = signer.keys().to_string();
    let service = tower::service_fn(move |_request: http::Request<kube::client::Body>| {
        let keys = keys.clone();
        async move { Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(keys))) }
    });
    let pods = Arc::new(Pods(Mutex::default()));
    let clock = crate::clock::TokioClock::starting_at(Timestamp::from_second(1000).unwrap());
    let intake = Intake {
        client: kube::Client::new(service, "default"),
        leadership,
        clock: Arc::new(clock),
        board: Arc::default(),
        directory: pods.clone(),
        keys: Mutex::default(),
    };
    Fixture {
        signer,
        intake: Arc::new(intake),
        pods,
    }
}

impl Fixture {
    async fn post(&self, pod: &str, uid: &str, report: &ProgressReport) -> Response {
        let token = self
            .signer
            .sign(&json!({"alg": "ES256", "kid": "k1"}), &claims(pod, uid));
        let request = Request::post("/v1/progress")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(report).unwrap()))
            .unwrap();
        self.intake.clone().routes().oneshot(request).await.unwrap()
    }
}

#[tokio::test]
async fn takes_reports_of_the_runs_own_pod_only() {
    let fixture = fixture(Leadership::always());
    assert_eq!(
        fixture.post("train-0", "u1", &report(10.0)).await.status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(
        fixture.post("train-0", "u0", &report(20.0)).await.status(),
        StatusCode::FORBIDDEN,
        "an older pod"
    );
    assert_eq!(
        fixture.post("other", "u1", &report(20.0)).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let foreign = ProgressReport {
        name: "victim".into(),
        ..report(20.0)
    };
    assert_eq!(
        fixture.post("train-0", "u1", &foreign).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(fixture.intake.board.get("o1").unwrap().report.percent, 10.0);
    assert_eq!(*fixture.pods.0.lock(), ["o1"]);
}

#[tokio::test]
async fn progress_never_falls_within_an_attempt() {
    let fixture = fixture(Leadership::always());
    for percent in [10.0, 30.0, 20.0] {
        assert_eq!(
            fixture
                .post("train-0", "u1", &report(percent))
                .await
                .status(),
            StatusCode::ACCEPTED
        );
    }
    assert_eq!(fixture.intake.board.get("o1").unwrap().report.percent, 30.0);
    let again = ProgressReport {
        attempt: 1,
        ..report(15.0)
    };
    fixture.post("train-0", "u1", &again).await;
    assert_eq!(fixture.intake.board.get("o1").unwrap().report.percent, 15.0);
}

#[tokio::test]
async fn a_request_without_token_is_refused() {
    let fixture = fixture(Leadership::always());
    let request = Request::post("/v1/progress")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(serde_json::to_vec(&report(1.0)).unwrap()))
        .unwrap();
    let response = fixture
        .intake
        .clone()
        .routes()
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_standby_that_knows_no_leader_says_so() {
    let fixture = fixture(Leadership::default());
    assert_eq!(
        fixture.post("train-0", "u1", &report(1.0)).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

//! Elections on a Lease kept in memory: two electors, partitions, lost answers; time is virtual.

use super::*;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<Lease>>>,
    version: Arc<Mutex<u64>>,
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
        "reason": reason, "code": code.as_u16()});
    Response::builder()
        .status(code)
        .body(Body::from(body.to_string().into_bytes()))
        .unwrap()
}

impl Server {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let method = request.method().clone();
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let mut held = self.lease.lock();
        if method == Method::GET {
            return match &*held {
                Some(lease) => Response::new(Body::from(serde_json::to_vec(lease).unwrap())),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        let mut lease: Lease = serde_json::from_slice(&bytes).unwrap();
        match (&*held, method) {
            (Some(_), Method::POST) => return status(StatusCode::CONFLICT, "AlreadyExists"),
            (Some(old), Method::PUT)
                if old.metadata.resource_version != lease.metadata.resource_version =>
            {
                return status(StatusCode::CONFLICT, "Conflict");
            }
            _ => {}
        }
        let mut version = self.version.lock();
        *version += 1;
        lease.metadata.resource_version = Some(version.to_string());
        *held = Some(lease.clone());
        Response::new(Body::from(serde_json::to_vec(&lease).unwrap()))
    }
}

struct Candidate {
    elector: Elector,
    leadership: Leadership,
    /// Requests and answers are lost while set.
    cut: Arc<AtomicBool>,
}

fn candidate(server: &Server, identity: &str) -> Candidate {
    let (server, cut) = (server.clone(), Arc::new(AtomicBool::new(false)));
    let broken = cut.clone();
    let service = tower::service_fn(move |request| {
        let (server, broken) = (server.clone(), broken.clone());
        async move {
            if broken.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(server.answer(request).await)
        }
    });
    let leadership = Leadership::default();
    let clock = Arc::new(crate::clock::TokioClock::starting_at(Timestamp::UNIX_EPOCH));
    let mut config = Config::new("ns".into(), "bessemer".into(), identity.into());
    config.progress_url = Some(format!("http://{identity}"));
    let client = kube::Client::new(service, "ns");
    let elector = Elector::new(client, config, clock, Random::seeded(3), leadership.clone());
    Candidate {
        elector,
        leadership,
        cut,
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_only_after_the_leader_has_stopped() {
    let server = Server::default();
    let (mut a, mut b) = (candidate(&server, "a"), candidate(&server, "b"));
    a.elector.acquire().await;
    let (stop, cut, lead_a) = (
        CancellationToken::new(),
        a.cut.clone(),
        a.leadership.clone(),
    );
    let first = tokio::spawn(async move { a.elector.keep(&stop).await });
    let lead_b = b.leadership.clone();
    let second = tokio::spawn(async move { b.elector.acquire().await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(lead_a.holds() && !lead_b.holds());
    assert_eq!(
        lead_b.leader_url().as_deref(),
        Some("http://a"),
        "a standby knows where to redirect to"
    );
    cut.store(true, Ordering::Relaxed);
    let start = Instant::now();
    while !second.is_finished() {
        assert!(!(lead_a.holds() && lead_b.holds()), "two leaders");
        assert!(
            start.elapsed() < Duration::from_secs(25),
            "fail-over takes a lease time"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(10));
    assert!(matches!(first.await.unwrap(), Err(Error::Expired { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_at_once() {
    let server = Server::default();
    let (mut a, mut b) = (candidate(&server, "a"), candidate(&server, "b"));
    a.elector.acquire().await;
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(a.elector.keep(&stop).await, Ok(()));
    assert!(!a.leadership.holds());
    let start = Instant::now();
    b.elector.acquire().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let spec = server.lease.lock().clone().unwrap().spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_transitions),
        (Some("b"), Some(1))
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_is_judged_by_our_own_clock() {
    let server = Server::default();
    let mut a = candidate(&server, "a");
    a.elector.acquire().await;
    // The holder's clock is a year behind: by its timestamps the record expired long ago.
    let mut lease = server.lease.lock().clone().unwrap();
    let old = Timestamp::from_second(-31_536_000).unwrap();
    lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(old));
    *server.lease.lock() = Some(lease);
    let mut b = candidate(&server, "b");
    let start = Instant::now();
    b.elector.acquire().await;
    assert!(
        start.elapsed() >= Duration::from_secs(15),
        "took over after {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_replaced_stops() {
    let server = Server::default();
    let mut a = candidate(&server, "a");
    a.elector.acquire().await;
    let mut lease = server.lease.lock().clone().unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("b".into());
    lease.metadata.resource_version = Some("99".into());
    *server.lease.lock() = Some(lease);
    let result = a.elector.keep(&CancellationToken::new()).await;
    assert_eq!(
        result,
        Err(Error::Taken {
            name: "bessemer".into(),
            holder: "b".into()
        })
    );
}

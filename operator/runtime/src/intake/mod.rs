//! Owns the intake of progress reports: who may report for which run, and the newest report of each run.
//! It must not interpret a report; losing one loses nothing.

pub mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bessemer_protocol::{PROGRESS_AUDIENCE, ProgressReport};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::lease::Leadership;
use token::{Expected, Identity, KeySet};

/// Largest accepted report in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Keys are fetched again for an unknown key id, but not more often than this.
const KEY_REFRESH: Duration = Duration::from_secs(10);

/// A report and when it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The report.
    pub report: ProgressReport,
    /// Time of arrival.
    pub at: Timestamp,
}

/// The newest report per object UID, and when its newest checkpoint was announced.
#[derive(Default)]
pub struct Board(
    Mutex<BTreeMap<String, Received>>,
    Mutex<BTreeMap<String, (String, Timestamp)>>,
);

impl Board {
    /// Keeps `report` unless it is older than what is known of the same run and attempt. Returns whether it was kept.
    pub fn put(&self, report: ProgressReport, at: Timestamp) -> bool {
        if let Some(checkpoint) = &report.checkpoint {
            let mut announced = self.1.lock();
            if announced
                .get(&report.uid)
                .is_none_or(|(digest, _)| *digest != checkpoint.digest)
            {
                announced.insert(report.uid.clone(), (checkpoint.digest.clone(), at));
            }
        }
        let mut board = self.0.lock();
        if let Some(known) = board.get(&report.uid) {
            let same = known.report.run_key == report.run_key;
            let older = (report.attempt, report.stage) < (known.report.attempt, known.report.stage)
                || (report.attempt == known.report.attempt
                    && report.percent < known.report.percent);
            if same && older {
                return false;
            }
        }
        board.insert(report.uid.clone(), Received { report, at });
        true
    }

    /// The newest report for the object with `uid`.
    pub fn get(&self, uid: &str) -> Option<Received> {
        self.0.lock().get(uid).cloned()
    }

    /// When the checkpoint with `digest` was announced, if it is the newest of any object.
    pub fn announced(&self, digest: &str) -> Option<Timestamp> {
        self.1
            .lock()
            .values()
            .find(|(known, _)| known == digest)
            .map(|(_, at)| *at)
    }

    /// Forgets objects other than those with `alive` UIDs.
    pub fn retain(&self, alive: &std::collections::BTreeSet<String>) {
        self.0.lock().retain(|uid, _| alive.contains(uid));
        self.1.lock().retain(|uid, _| alive.contains(uid));
    }
}

/// The object a pod works for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// UID of the pod.
    pub uid: String,
    /// Kind of the object it works for.
    pub kind: String,
    /// Name of that object.
    pub name: String,
}

/// What the intake needs from the rest of the runtime.
pub trait Directory: Send + Sync + 'static {
    /// The worker pod `name`, if there is such a pod.
    fn worker(&self, namespace: &str, name: &str) -> Option<Worker>;
    /// A new report has been put on the board.
    fn reported(&self, report: &ProgressReport);
}

/// The intake's HTTP service.
pub struct Intake {
    /// Client for the published keys.
    pub client: kube::Client,
    /// Whether this process leads, and who does otherwise.
    pub leadership: Leadership,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where reports go.
    pub board: Arc<Board>,
    /// Who may report.
    pub directory: Arc<dyn Directory>,
    /// Published keys as last fetched.
    pub keys: Mutex<Option<(KeySet, Instant)>>,
}

impl Intake {
    /// The routes of the intake: `POST /v1/progress`.
    pub fn routes(self: Arc<Self>) -> axum::Router {
        axum::Router::new()
            .route("/v1/progress", post(progress))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        let token = bearer
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or(Refusal::NoToken)?;
        let expected = Expected {
            audience: PROGRESS_AUDIENCE,
            issuer: None,
            now: self.clock.now(),
        };
        let (keys, fresh) = self.keys(Duration::MAX).await?;
        match token::verify(token, &keys, &expected) {
            Err(token::Error::UnknownKey) if !fresh => {
                let (keys, _) = self.keys(KEY_REFRESH).await?;
                Ok(token::verify(token, &keys, &expected)?)
            }
            result => Ok(result?),
        }
    }

    /// The published keys, at most `age` old, and whether they were fetched for this call.
    async fn keys(&self, age: Duration) -> Result<(KeySet, bool), Refusal> {
        if let Some((keys, at)) = &*self.keys.lock()
            && at.elapsed() < age
        {
            return Ok((keys.clone(), false));
        }
        let request = http::Request::get("/openid/v1/jwks")
            .body(Vec::new())
            .map_err(|e| Refusal::Keys(e.to_string()))?;
        let fetch = self.client.request::<KeySet>(request);
        let keys = tokio::time::timeout(Duration::from_secs(5), fetch)
            .await
            .map_err(|_| Refusal::Keys("no answer within 5 s".into()))?
            .map_err(|e| Refusal::Keys(e.to_string()))?;
        *self.keys.lock() = Some((keys.clone(), Instant::now()));
        Ok((keys, true))
    }

    async fn take(&self, headers: &HeaderMap, report: ProgressReport) -> Result<(), Refusal> {
        let identity = self.identify(headers).await?;
        let worker = self
            .directory
            .worker(&identity.namespace, &identity.pod)
            .ok_or(Refusal::UnknownPod)?;
        let own = worker.uid == identity.uid
            && identity.namespace == report.namespace
            && worker.kind == report.kind
            && worker.name == report.name;
        if !own {
            return Err(Refusal::NotYours);
        }
        if self.board.put(report.clone(), self.clock.now()) {
            self.directory.reported(&report);
        }
        Ok(())
    }
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No bearer token.
    #[error("no bearer token; send the projected service-account token")]
    NoToken,
    /// The token does not verify.
    #[error("token refused: {0}")]
    Token(#[from] token::Error),
    /// The keys could not be fetched.
    #[error("the cluster's keys cannot be read: {0}")]
    Keys(String),
    /// The pod is not known here (yet).
    #[error("the pod is not known; try again")]
    UnknownPod,
    /// The pod works for another object.
    #[error("the pod does not work for this object")]
    NotYours,
    /// This process neither leads nor knows who does.
    #[error("no leader known; try again")]
    NoLeader,
}

impl Refusal {
    /// Stable word for metrics and logs.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NoToken => "TokenMissing",
            Self::Token(error) => error.category(),
            Self::Keys(_) => "KeysUnreachable",
            Self::UnknownPod => "PodUnknown",
            Self::NotYours => "PodOfAnother",
            Self::NoLeader => "NoLeader",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::NoToken | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::NotYours => StatusCode::FORBIDDEN,
            Self::Keys(_) | Self::UnknownPod | Self::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
        };
        tracing::debug!(category = self.category(), error = %self, "progress report refused");
        (code, self.to_string()).into_response()
    }
}

async fn progress(
    State(intake): State<Arc<Intake>>,
    headers: HeaderMap,
    Json(report): Json<ProgressReport>,
) -> Response {
    if !intake.leadership.holds() {
        return match intake.leadership.leader_url() {
            Some(url) => {
                let to = format!("{}/v1/progress", url.trim_end_matches('/'));
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
            }
            None => Refusal::NoLeader.into_response(),
        };
    }
    match intake.take(&headers, report).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
pub(crate) mod tests;

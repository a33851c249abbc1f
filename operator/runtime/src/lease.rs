//! Owns leadership: one operator at a time acts. It must not decide what a leader does.
//!
//! The rules are client-go's (reference B6): correctness comes from `resourceVersion` alone; expiry is judged by how
//! long *this* process has seen the record unchanged, never by the holder's clock; a leader that could not renew for
//! the renew deadline stops before others may take over. Election only saves work: every write carries its own
//! precondition.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bug::{Bug, planted};
use crate::clock::{Clock, Random};

/// Annotation of the Lease that says where the leader takes progress reports.
pub const PROGRESS_URL: &str = "bessemer.dev/progress-url";

/// Names and times of the election.
#[derive(Debug, Clone)]
pub struct Config {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; unique per process.
    pub identity: String,
    /// Where this process takes progress reports when it leads.
    pub progress_url: Option<String>,
    /// How long a record that does not change stays valid.
    pub duration: Duration,
    /// A leader without a successful renewal for this long stops.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl Config {
    /// The usual times: 15 s, 10 s, 2 s.
    #[must_use]
    pub fn new(namespace: String, name: String, identity: String) -> Self {
        Self {
            namespace,
            name,
            identity,
            progress_url: None,
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Another process holds the Lease.
    #[error("lease {name} was taken by {holder}")]
    Taken {
        /// The Lease.
        name: String,
        /// The present holder.
        holder: String,
    },
    /// No renewal succeeded within the deadline.
    #[error("lease {name} could not be renewed for {seconds} s")]
    Expired {
        /// The Lease.
        name: String,
        /// The renew deadline in seconds.
        seconds: u64,
    },
}

impl Error {
    /// Stable word for metrics and logs.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "LeaseTaken",
            Self::Expired { .. } => "LeaseExpired",
        }
    }
}

/// What everyone in the process may ask about leadership.
#[derive(Clone, Default)]
pub struct Leadership(Arc<Mutex<Standing>>);

#[derive(Default)]
struct Standing {
    valid_until: Option<Instant>,
    leader_url: Option<String>,
    transitions: u64,
}

impl Leadership {
    /// Leadership without an election, for a control plane with one operator only.
    #[must_use]
    pub fn always() -> Self {
        let this = Self::default();
        this.0.lock().valid_until = Some(Instant::now() + Duration::from_secs(86_400 * 365 * 30));
        this
    }

    /// Whether this process may write now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0
            .lock()
            .valid_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Where the present leader takes progress reports, as far as known.
    #[must_use]
    pub fn leader_url(&self) -> Option<String> {
        self.0.lock().leader_url.clone()
    }

    /// How often this process became leader.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        self.0.lock().transitions
    }
}

/// The record as last seen, and since when.
struct Seen {
    lease: Lease,
    since: Instant,
}

enum Step {
    Held { asked: Instant },
    Other { holder: String },
}

/// Takes part in one election.
pub struct Elector {
    api: Api<Lease>,
    config: Config,
    clock: Arc<dyn Clock>,
    random: Random,
    leadership: Leadership,
    seen: Option<Seen>,
}

impl Elector {
    /// An elector on `client`, which should be its own and must not retry by itself.
    pub fn new(
        client: kube::Client,
        config: Config,
        clock: Arc<dyn Clock>,
        random: Random,
        leadership: Leadership,
    ) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        Self {
            api,
            config,
            clock,
            random,
            leadership,
            seen: None,
        }
    }

    /// Waits until this process leads.
    ///
    /// # Cancel safety
    /// A dropped future may leave the Lease held by us; it then expires by itself.
    pub async fn acquire(&mut self) {
        loop {
            match self.step().await {
                Ok(Step::Held { asked }) => {
                    let mut standing = self.leadership.0.lock();
                    standing.valid_until = Some(asked + self.config.renew_deadline);
                    standing.transitions += 1;
                    drop(standing);
                    tracing::info!(
                        lease = self.config.name,
                        identity = self.config.identity,
                        "leading"
                    );
                    return;
                }
                Ok(Step::Other { holder }) => {
                    tracing::debug!(lease = self.config.name, holder, "standing by")
                }
                Err(error) => {
                    tracing::warn!(lease = self.config.name, %error, "lease not reachable")
                }
            }
            tokio::time::sleep(self.random.jitter(self.config.retry_period, 0.2)).await;
        }
    }

    /// Renews until `stop`, then releases. Returns the reason if leadership was lost instead.
    ///
    /// # Errors
    /// The Lease was taken, or could not be renewed before the deadline.
    pub async fn keep(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let result = self.renew(stop).await;
        self.leadership.0.lock().valid_until = None;
        if result.is_ok() {
            self.release().await;
        }
        result
    }

    async fn renew(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        loop {
            let deadline = self
                .leadership
                .0
                .lock()
                .valid_until
                .unwrap_or_else(Instant::now);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let step = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(deadline) => return Err(self.expired()),
                step = self.step() => step,
            };
            match step {
                Ok(Step::Held { asked }) => {
                    self.leadership.0.lock().valid_until = Some(asked + self.config.renew_deadline);
                }
                Ok(Step::Other { holder }) => {
                    return Err(Error::Taken {
                        name: self.config.name.clone(),
                        holder,
                    });
                }
                Err(error) => tracing::warn!(lease = self.config.name, %error, "lease not renewed"),
            }
            if Instant::now() >= self.leadership.0.lock().valid_until.unwrap_or(deadline) {
                return Err(self.expired());
            }
        }
    }

    fn expired(&self) -> Error {
        Error::Expired {
            name: self.config.name.clone(),
            seconds: self.config.renew_deadline.as_secs(),
        }
    }

    /// One try to take or renew. Each request ends before the next try is due.
    async fn step(&mut self) -> Result<Step, kube::Error> {
        let asked = Instant::now();
        let live = self.call(self.api.get_opt(&self.config.name)).await?;
        let Some(live) = live else {
            let lease = self.record(None);
            let created = self
                .call(self.api.create(&PostParams::default(), &lease))
                .await;
            return match created {
                Ok(lease) => {
                    self.see(lease);
                    Ok(Step::Held { asked })
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Step::Other {
                    holder: "another process".into(),
                }),
                Err(error) => Err(error),
            };
        };
        self.see(live);
        let Some(seen) = self.seen.as_ref() else {
            return Ok(Step::Other {
                holder: String::new(),
            });
        };
        let holder = holder(&seen.lease).to_owned();
        let valid = Duration::from_secs(
            duration(&seen.lease)
                .unwrap_or(self.config.duration.as_secs())
                .max(1),
        );
        let other = !holder.is_empty() && holder != self.config.identity;
        if other && seen.since.elapsed() <= valid && !planted(Bug::StolenLease) {
            return Ok(Step::Other { holder });
        }
        let lease = self.record(Some(&seen.lease));
        match self
            .call(
                self.api
                    .replace(&self.config.name, &PostParams::default(), &lease),
            )
            .await
        {
            Ok(lease) => {
                self.see(lease);
                Ok(Step::Held { asked })
            }
            // Someone else was faster, or our own renewal got through although its answer did not: the next look tells.
            Err(error) => Err(error),
        }
    }

    async fn call<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        match tokio::time::timeout(self.config.retry_period, request).await {
            Ok(result) => result,
            Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
        }
    }

    fn see(&mut self, lease: Lease) {
        let url = lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(PROGRESS_URL))
            .cloned();
        self.leadership.0.lock().leader_url = url;
        let changed = self
            .seen
            .as_ref()
            .is_none_or(|seen| seen.lease.spec != lease.spec);
        let since = match &self.seen {
            Some(seen) if !changed => seen.since,
            _ => Instant::now(),
        };
        self.seen = Some(Seen { lease, since });
    }

    /// The record we want to write over `before`.
    fn record(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(micros(self.clock.now()));
        let mut lease = before.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.config.name.clone());
        lease.metadata.namespace = Some(self.config.namespace.clone());
        lease.metadata.managed_fields = None;
        if let Some(url) = &self.config.progress_url {
            lease
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(PROGRESS_URL.into(), url.clone());
        }
        let mut spec = lease.spec.take().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.config.identity) {
            spec.lease_transitions =
                Some(spec.lease_transitions.unwrap_or(0) + i32::from(before.is_some()));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.config.duration.as_secs()).ok();
        spec.renew_time = Some(now);
        lease.spec = Some(spec);
        lease
    }

    /// Gives the Lease back so that a standby need not wait for it to expire.
    async fn release(&self) {
        let Some(seen) = &self.seen else { return };
        if holder(&seen.lease) != self.config.identity {
            return;
        }
        let mut lease = seen.lease.clone();
        let transitions = lease.spec.as_ref().and_then(|s| s.lease_transitions);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: transitions,
            renew_time: Some(MicroTime(micros(self.clock.now()))),
            ..LeaseSpec::default()
        });
        if let Err(error) = self
            .call(
                self.api
                    .replace(&self.config.name, &PostParams::default(), &lease),
            )
            .await
        {
            tracing::warn!(lease = self.config.name, %error, "lease not released; it will expire");
        }
    }
}

/// MicroTime carries microseconds; finer digits would make our copy differ from the server's.
fn micros(now: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|s| s.holder_identity.as_deref())
        .unwrap_or("")
}

fn duration(lease: &Lease) -> Option<u64> {
    lease
        .spec
        .as_ref()?
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
}

#[cfg(test)]
mod tests;

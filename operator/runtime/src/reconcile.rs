//! Owns the one way an object is worked on: observe, plan, answer questions, execute, publish. It must not know a kind.

use std::sync::Arc;
use std::time::Duration;

use bessemer_core::{
    Action, Answer, Facts, Key, Plan, Query, Received, Settings, label, observe, reason,
};
use k8s_openapi::api::core::v1::{Event, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use bessemer_api::{Dataset, Evaluation, FineTune, Kind as KindName, ModelDeployment, PretrainJob};

use crate::clock::Clock;
use crate::cluster::{Cached, Cluster, Surroundings, place};
use crate::event::{Note, Recorder};
use crate::execute::{self, Executor};
use crate::intake::Board;
use crate::metric::{Controller, Metrics};
use crate::outside::{Outside, Trouble};
use crate::publish::{self, Pace, Published};
use crate::queue::Queue;
use crate::remote::{self, Remote, Target};
use crate::telemetry;

/// Longest work on one object.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Longest wait for one answer from outside.
const QUERY_DEADLINE: Duration = Duration::from_secs(60);
/// Rounds of questions before the plan is taken to be broken.
const ROUNDS: usize = 8;
/// From so many waiting objects on, children are made first and told of afterwards.
const CROWD: usize = 32;

/// What a reconcile works with.
pub struct Reconciler {
    /// Caches.
    pub cluster: Arc<Cluster>,
    /// For reads that must be live.
    pub client: Client,
    /// Writes.
    pub remote: Remote,
    /// Object store and routers.
    pub outside: Arc<dyn Outside>,
    /// Progress reports.
    pub board: Arc<Board>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What the installer decided.
    pub settings: Settings,
    /// Objects that wait for their turn.
    pub queue: Arc<Queue<Key>>,
    /// Status writes.
    pub pace: Pace,
    /// Events.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: Metrics,
    /// Namespaces that are watched; empty means all.
    pub namespaces: Vec<String>,
}

/// How a reconcile ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object does not exist (any more).
    Gone,
    /// Nothing was to be done.
    Settled {
        /// When to look again without a change.
        again: Option<Duration>,
    },
    /// Something was written: look again soon.
    Changed {
        /// When to look again without a change.
        again: Option<Duration>,
    },
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An action was not carried out.
    #[error(transparent)]
    Execute(#[from] execute::Error),
    /// The status was not written.
    #[error("the status was not written: {0}")]
    Publish(#[source] remote::Error),
    /// The plan asks on and on.
    #[error("the plan asked more than {ROUNDS} rounds of questions; report this as a bug")]
    EndlessQuestions,
    /// The work took too long.
    #[error("not done within {} s", DEADLINE.as_secs())]
    Deadline,
}

impl Error {
    /// Stable word for metrics and logs.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Execute(error) => error.category(),
            Self::Publish(error) => error.category(),
            Self::EndlessQuestions => "EndlessQuestions",
            Self::Deadline => "DeadlineExceeded",
        }
    }

    /// Whether the snapshot was stale, which is no fault: the next one will be newer.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Execute(execute::Error::Remote(remote::Error::Stale { .. }))
                | Self::Publish(remote::Error::Stale { .. })
        )
    }
}

impl Reconciler {
    /// Works once on `key`. Returns the object's generation too, for the backoff.
    pub async fn reconcile(&self, key: &Key) -> (i64, Result<Outcome, Error>) {
        match key.kind {
            KindName::Dataset => self.bounded::<Dataset>(key).await,
            KindName::PretrainJob => self.bounded::<PretrainJob>(key).await,
            KindName::FineTune => self.bounded::<FineTune>(key).await,
            KindName::Evaluation => self.bounded::<Evaluation>(key).await,
            KindName::Deployment => self.bounded::<ModelDeployment>(key).await,
        }
    }

    /// Drops what is remembered of objects that are gone.
    pub fn forget_gone(&self) {
        self.board.retain(&self.cluster.uids());
    }

    async fn bounded<K: Cached>(&self, key: &Key) -> (i64, Result<Outcome, Error>) {
        if let Some(why) = self.cluster.unreadable(key) {
            let work = self.tell_unreadable::<K>(key, &why);
            let result = tokio::time::timeout(DEADLINE, work).await;
            return (0, result.unwrap_or(Err(Error::Deadline)));
        }
        let Some(object) = K::cache(&self.cluster).get(&place(key)) else {
            return (0, Ok(Outcome::Gone));
        };
        let meta = object.meta();
        let generation = meta.generation.unwrap_or(0);
        let span = tracing::info_span!(
            "reconcile",
            kind = key.kind.name(),
            namespace = key.namespace,
            name = key.name,
            uid = meta.uid,
            generation,
            trace_id = tracing::field::Empty,
            plan = tracing::field::Empty,
            result = tracing::field::Empty,
        );
        if let Some(trace) = object.peer().trace_id
            && let Some(context) = telemetry::within(&trace)
        {
            span.record("trace_id", &trace);
            // Without an exporter there is no trace to join.
            let _ = span.set_parent(context);
        }
        let work = self.work::<K>(key, &object).instrument(span.clone());
        let result = tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or(Err(Error::Deadline));
        span.record(
            "result",
            result.as_ref().map_or_else(Error::category, |_| "ok"),
        );
        (generation, result)
    }

    async fn work<K: Cached>(&self, key: &Key, object: &K) -> Result<Outcome, Error> {
        let uid = object.meta().uid.clone().unwrap_or_default();
        let plan = self.plan::<K>(key, object, &uid).await?;
        let span = tracing::Span::current();
        span.record(
            "plan",
            plan.actions
                .iter()
                .map(Action::category)
                .collect::<Vec<_>>()
                .join(","),
        );
        let manager = label::manager(key.kind);
        let executor = Executor {
            remote: &self.remote,
            outside: self.outside.as_ref(),
            uid: &uid,
            manager: &manager,
            metrics: &self.metrics,
        };
        for action in &plan.actions {
            let span = tracing::info_span!("action", action = action.category());
            if let Err(error) = executor.perform(action).instrument(span).await {
                if error.needs_person() {
                    self.tell_refusal(key, object, &error).await?;
                }
                return Err(error.into());
            }
        }
        if self.may_tell_later(&plan) {
            return Ok(Outcome::Changed {
                again: plan.requeue.map(Duration::from_secs),
            });
        }
        self.tell(key, object, &plan).await
    }

    /// Whether the status can wait for the look that the writes of `plan` bring about, so that the children of others come
    /// first: a child that was created holds all that its object's status says of it.
    fn may_tell_later(&self, plan: &Plan) -> bool {
        !plan.actions.is_empty()
            && plan.actions.iter().all(Action::creates)
            && self.queue.load().ready >= CROWD
    }

    /// Plans until the plan asks nothing more, over one snapshot. Facts live for this pass only.
    async fn plan<K: Cached>(&self, key: &Key, object: &K, uid: &str) -> Result<Plan, Error> {
        let progress = self.board.get(uid).map(|r| Received {
            report: r.report,
            at: r.at,
        });
        let facts = Facts {
            progress,
            ..Facts::default()
        };
        let world = Surroundings {
            cluster: &self.cluster,
            key,
        };
        let mut observed = observe(object, &world, facts, self.clock.now());
        for _ in 0..ROUNDS {
            let plan = K::plan(&observed, &self.settings);
            if plan.queries.is_empty() {
                return Ok(plan);
            }
            for query in plan.queries {
                let answer = self.answer(&query).await;
                observed.facts.answers.insert(query, answer);
            }
            observed.now = self.clock.now();
        }
        Err(Error::EndlessQuestions)
    }

    async fn answer(&self, query: &Query) -> Answer {
        let word = match query {
            Query::Run { .. } => "Run",
            Query::Checkpoint { .. } => "Checkpoint",
            Query::Manifest { .. } => "Manifest",
            Query::Route { .. } => "Route",
            Query::HttpRoute { .. } => "HttpRoute",
            Query::PodRefusal { .. } => "PodRefusal",
            Query::Completion { .. } => "Completion",
            Query::DigestsInUse { .. } => "DigestsInUse",
        };
        let asked = tokio::time::timeout(QUERY_DEADLINE, self.ask(query)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(Trouble::Unavailable(format!(
                "no answer within {} s",
                QUERY_DEADLINE.as_secs()
            )))
        });
        let category = answer.as_ref().map_or_else(Trouble::category, |_| "ok");
        self.metrics.acted(&self.metrics.queries, word, category);
        match answer {
            Ok(answer) => answer,
            Err(Trouble::Unavailable(why)) => Answer::Unavailable(why),
            Err(Trouble::Refused(why)) => Answer::Refused(why),
        }
    }

    async fn ask(&self, query: &Query) -> Result<Answer, Trouble> {
        Ok(match query {
            Query::Run { object, run_key } => Answer::Run(self.outside.run(object, run_key).await?),
            Query::Checkpoint { object, run_key } => {
                let mut found = self.outside.checkpoint(object, run_key).await?;
                if let Some(checkpoint) = found.as_mut()
                    && let Some(at) = self.board.announced(&checkpoint.digest)
                {
                    checkpoint.time = at;
                }
                Answer::Checkpoint(found)
            }
            Query::Manifest { uri } => Answer::Run(self.outside.manifest(uri).await?),
            Query::Route { url } => Answer::Route(self.outside.route(url).await?),
            Query::HttpRoute { route } => {
                Answer::HttpRoute(self.http_route(&execute::target(route)).await?)
            }
            Query::PodRefusal { namespace, job } => {
                Answer::Refusal(self.pod_refusal(namespace, job).await?)
            }
            Query::Completion {
                url,
                model,
                api_keys_secret,
                object,
            } => {
                let key = match api_keys_secret {
                    Some(secret) => Some(self.api_key(&object.namespace, secret).await?),
                    None => None,
                };
                Answer::Completion(self.outside.complete(url, model, key.as_deref()).await)
            }
            Query::DigestsInUse { object } => {
                Answer::DigestsInUse(self.digests_in_use(object).await?)
            }
        })
    }

    async fn http_route(&self, target: &Target) -> Result<Option<serde_json::Value>, Trouble> {
        let found = self.remote.find(target).await;
        let found = found.map_err(|error| match error {
            remote::Error::NoKind { .. } | remote::Error::Forbidden { .. } => {
                Trouble::Refused(error.to_string())
            }
            _ => Trouble::Unavailable(error.to_string()),
        })?;
        Ok(found.map(|object| object.value()))
    }

    async fn pod_refusal(&self, namespace: &str, job: &str) -> Result<Option<String>, Trouble> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let fields = format!("involvedObject.uid={job},reason=FailedCreate");
        let list = api.list(&ListParams::default().fields(&fields)).await;
        let list = list.map_err(|e| {
            Trouble::Unavailable(format!("Events of {namespace} cannot be listed: {e}"))
        })?;
        let newest = list.items.into_iter().max_by_key(|event| {
            let counted = event.last_timestamp.as_ref().map(|time| time.0);
            counted.or_else(|| event.event_time.as_ref().map(|time| time.0))
        });
        Ok(newest.and_then(|event| event.message))
    }

    async fn api_key(&self, namespace: &str, name: &str) -> Result<String, Trouble> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = api
            .get(name)
            .await
            .map_err(|e| Trouble::Unavailable(format!("Secret {name} cannot be read: {e}")))?;
        let value = secret.data.and_then(|data| data.into_values().next());
        let text = value
            .and_then(|bytes| String::from_utf8(bytes.0).ok())
            .map(|text| text.trim().to_owned());
        text.ok_or_else(|| {
            Trouble::Unavailable(format!(
                "Secret {name} holds no API key; add one as a value"
            ))
        })
    }

    /// Read live: an artefact must not go because a cache is behind.
    async fn digests_in_use(
        &self,
        but: &Key,
    ) -> Result<std::collections::BTreeSet<String>, Trouble> {
        let mut digests = std::collections::BTreeSet::new();
        digests.extend(self.digests_of::<Dataset>(but).await?);
        digests.extend(self.digests_of::<PretrainJob>(but).await?);
        digests.extend(self.digests_of::<FineTune>(but).await?);
        digests.extend(self.digests_of::<Evaluation>(but).await?);
        digests.extend(self.digests_of::<ModelDeployment>(but).await?);
        Ok(digests)
    }

    async fn digests_of<K: Cached + Resource<Scope = k8s_openapi::NamespaceResourceScope>>(
        &self,
        but: &Key,
    ) -> Result<Vec<String>, Trouble> {
        let apis: Vec<Api<K>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            self.namespaces
                .iter()
                .map(|n| Api::namespaced(self.client.clone(), n))
                .collect()
        };
        let mut digests = Vec::new();
        for api in apis {
            let list = api.list(&ListParams::default()).await;
            let list = list.map_err(|e| {
                Trouble::Unavailable(format!("{} cannot be listed: {e}", K::kind(&())))
            })?;
            // One that is on its way out itself needs nothing any more.
            let living = list.items.iter().filter(|object| {
                object.key() != *but && object.meta().deletion_timestamp.is_none()
            });
            for object in living {
                digests.extend(object.peer().digests());
            }
        }
        Ok(digests)
    }

    async fn tell<K: Cached>(&self, key: &Key, object: &K, plan: &Plan) -> Result<Outcome, Error> {
        let again = plan.requeue.map(Duration::from_secs);
        let acted = !plan.actions.is_empty();
        let controller = Controller {
            controller: controller(key),
        };
        let published = match &plan.status {
            None => Published::Unchanged,
            Some(status) => {
                // Our own finalizer write moved the version; the spec it rests on is still the observed one.
                let current = K::cache(&self.cluster).get(&place(key));
                let same = current.as_deref().filter(|now| {
                    now.meta().generation == object.meta().generation
                        && now.meta().uid == object.meta().uid
                });
                let base = if acted {
                    same.unwrap_or(object)
                } else {
                    object
                };
                let version = base.meta().resource_version.clone().unwrap_or_default();
                publish::publish(
                    &self.remote,
                    &self.pace,
                    base,
                    &version,
                    status,
                    !plan.events.is_empty(),
                )
                .await
                .map_err(Error::Publish)?
            }
        };
        if published == Published::Written {
            self.metrics.status_writes.get_or_create(&controller).inc();
            for event in &plan.events {
                let note = Note {
                    warning: event.warning,
                    reason: event.reason.clone(),
                    action: "Reconcile",
                    text: event.message.clone(),
                };
                tracing::info!(reason = note.reason, message = note.text, "transition");
                self.recorder
                    .record(&reference::<K>(object.meta()), &note, self.clock.now())
                    .await;
            }
        }
        let again = match published {
            Published::Later(wait) => Some(again.map_or(wait, |again| again.min(wait))),
            _ => again,
        };
        if acted || published == Published::Written {
            return Ok(Outcome::Changed { again });
        }
        self.metrics.no_ops.get_or_create(&controller).inc();
        Ok(Outcome::Settled { again })
    }

    /// A write that will be refused again is shown where people look.
    async fn tell_refusal<K: Cached>(
        &self,
        key: &Key,
        object: &K,
        error: &execute::Error,
    ) -> Result<(), Error> {
        let current = K::cache(&self.cluster).get(&place(key));
        let base = current.as_deref().unwrap_or(object);
        let (message, now) = (error.to_string(), self.clock.now());
        let generation = base.meta().generation.unwrap_or(0);
        let status = publish::refused(
            &publish::present(base),
            error.category(),
            &message,
            generation,
            now,
        );
        let version = base.meta().resource_version.clone().unwrap_or_default();
        let published =
            publish::publish(&self.remote, &self.pace, base, &version, &status, false).await;
        if published.map_err(Error::Publish)? == Published::Written {
            self.warn::<K>(base.meta(), error.category(), message).await;
        }
        Ok(())
    }

    /// What cannot be read is shown where people look; what belongs to it is left alone.
    async fn tell_unreadable<K: Cached>(&self, key: &Key, why: &str) -> Result<Outcome, Error> {
        let target = Target::ours(key.kind, &key.namespace, &key.name);
        let live = self.remote.look(&target).await.map_err(Error::Publish)?;
        let Some(live) = live else {
            self.cluster.readable(key.clone(), None);
            return Ok(Outcome::Gone);
        };
        let reason = reason::INVALID_SPEC;
        let message = format!("the object cannot be read: {why}. {}", reason.next);
        let (remote, now) = (&self.remote, self.clock.now());
        let published = publish::publish_unreadable::<K>(remote, key, &live, &message, now).await;
        if published.map_err(Error::Publish)? == Published::Written {
            self.warn::<K>(&live.metadata, reason.word, message).await;
        }
        Ok(Outcome::Settled { again: None })
    }

    async fn warn<K: Cached>(&self, meta: &ObjectMeta, reason: &str, text: String) {
        let note = Note {
            warning: true,
            reason: reason.into(),
            action: "Reconcile",
            text,
        };
        self.recorder
            .record(&reference::<K>(meta), &note, self.clock.now())
            .await;
    }
}

/// Name of the controller of `key` in metrics.
#[must_use]
pub const fn controller(key: &Key) -> &'static str {
    match key.kind {
        KindName::Dataset => "dataset",
        KindName::PretrainJob => "pretrainjob",
        KindName::FineTune => "finetune",
        KindName::Evaluation => "evaluation",
        KindName::Deployment => "deployment",
    }
}

fn reference<K: Cached>(meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;

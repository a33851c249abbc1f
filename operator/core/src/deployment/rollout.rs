//! Owns the moves around a candidate: keep what serves, let it pass its gates, drain, clear away. It must keep what serves
//! serving whatever becomes of a candidate.

use bessemer_api::ModelDeployment;
use bessemer_protocol::route::RouteStatus;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::observe::{Revision, has_run, hindered, pods, revisions};
use super::render::{self, ROUTER, Servers, apply};
use super::resolve::Desired;
use super::traffic::{Traffic, config_map};
use crate::action::{Action, ObjectRef, Propagation};
use crate::condition::Verdict;
use crate::kind::Observed;
use crate::label;
use crate::query::{Answer, Query};
use crate::reason::{self, Reason};
use crate::run::Told;
use crate::run::attempt::phase;
use crate::settings::Settings;

/// Seconds between two looks at a router during a rollout.
pub(super) const LOOK_SECONDS: u64 = 5;
/// Seconds between two looks at a router at rest, for the speed in status.
pub(super) const REST_SECONDS: u64 = 60;

pub(super) type Asked = Result<(), Vec<Query>>;

/// Whether the configuration in force at the router has the revision.
fn knows(route: &RouteStatus, short: &str) -> bool {
    route.backends.iter().any(|backend| backend.name == short)
}

/// A rollout in one pass: what is observed, and what should become of it.
pub(super) struct Rollout<'a> {
    pub observed: &'a Observed<ModelDeployment>,
    pub(super) settings: &'a Settings,
    pub(super) before: Traffic,
    pub traffic: Traffic,
    pub(super) router_wanted: bool,
    pub(super) candidate: Option<String>,
    pub refused: Option<String>,
    pub checked_since: Option<Timestamp>,
    pub route: Option<RouteStatus>,
    pub told: Told,
    pub actions: Vec<Action>,
    /// What becomes of the HTTPRoute, after the router's configuration: that is what a stale plan stops at.
    pub(super) exposed: Option<Action>,
    pub requeue: Option<u64>,
}

impl<'a> Rollout<'a> {
    pub fn new(observed: &'a Observed<ModelDeployment>, settings: &'a Settings) -> Self {
        let before = Traffic::read(observed);
        Self {
            observed,
            settings,
            traffic: before.clone(),
            router_wanted: before.stable.is_some() || config_map(observed).is_some(),
            before,
            candidate: None,
            refused: None,
            checked_since: None,
            route: None,
            told: Told::new(Verdict::InProgress, reason::ACCEPTED, "accepted"),
            actions: Vec::new(),
            exposed: None,
            requeue: None,
        }
    }

    pub(super) fn object(&self) -> &'a ModelDeployment {
        &self.observed.object
    }

    pub fn look_again(&mut self, seconds: u64) {
        let seconds = seconds.max(1);
        self.requeue = Some(self.requeue.map_or(seconds, |known| known.min(seconds)));
    }

    pub(super) fn in_progress(&mut self, reason: Reason, message: impl Into<String>) {
        self.told = Told::new(Verdict::InProgress, reason, message);
    }

    /// Brings what serves in line with the spec and finishes drains; nothing else moves.
    pub fn hold(&mut self) -> Asked {
        if let Some(stable) = self.traffic.stable.clone() {
            self.sync(&stable, self.object().spec.replicas);
        }
        self.drain()
    }

    /// Takes all servers down; traffic stays as it is divided, so a resume goes on where it was.
    pub fn suspend(&mut self) -> Asked {
        let mut left = 0;
        for short in revisions(self.observed) {
            self.candidate =
                Some(short.clone()).filter(|_| self.traffic.stable.as_ref() != Some(&short));
            self.sync(&short, 0);
            let status = Revision::of(self.observed, &short)
                .deployment
                .and_then(|d| d.status.as_ref());
            left += status.and_then(|status| status.replicas).unwrap_or(0);
        }
        self.told = if left > 0 {
            Told::new(
                Verdict::InProgress,
                reason::SUSPENDING,
                "the servers finish their answers",
            )
        } else {
            Told::new(
                Verdict::Suspended,
                reason::SUSPENDED,
                "spec.suspend is true",
            )
        };
        self.router_wanted = self.before.stable.is_some();
        Ok(())
    }

    /// The next move towards `desired`.
    pub fn advance(&mut self, desired: &Desired) -> Asked {
        if self.traffic.stable.as_ref() == Some(&desired.revision) {
            return self.steady(desired);
        }
        if let Err(invalid) = &desired.passed {
            let verdict = if invalid.terminal {
                Verdict::Stalled
            } else {
                Verdict::InProgress
            };
            let serving = match &self.traffic.stable {
                Some(stable) => format!("{}; revision {stable} goes on serving", invalid.message),
                None => invalid.message.clone(),
            };
            self.told = Told::new(verdict, invalid.reason, serving);
            self.refused = invalid.terminal.then(|| invalid.reason.word.to_owned());
            if self.traffic.is_divided() {
                self.traffic.restore(self.observed.now);
            }
            return self.hold();
        }
        self.candidate = Some(desired.revision.clone());
        // A candidate that was overtaken by a newer one gives its share back at once: nobody watches it any more.
        let overtaken =
            |name: &String| *name != desired.revision && Some(name) != self.traffic.stable.as_ref();
        if self
            .traffic
            .backends
            .iter()
            .any(|backend| backend.weight > 0 && overtaken(&backend.name))
        {
            self.traffic.restore(self.observed.now);
        }
        self.check(desired)?;
        if let Some(stable) = self
            .traffic
            .stable
            .clone()
            .filter(|stable| *stable != desired.revision)
        {
            self.sync(&stable, self.object().spec.replicas);
        }
        self.drain()
    }

    /// The revision asked for has the traffic.
    fn steady(&mut self, desired: &Desired) -> Asked {
        let short = &desired.revision;
        if self.traffic.is_divided() {
            self.traffic.restore(self.observed.now); // the user went back in the middle of a rollout
        }
        let wanted = self.object().spec.replicas;
        if !self
            .observed
            .children
            .config_maps
            .iter()
            .any(|map| has_run(map, short))
        {
            self.actions.push(Action::Create {
                object: render::revision_config(self.object(), desired, self.settings),
            });
        }
        self.sync(short, wanted);
        self.measure()?;
        let revision = Revision::of(self.observed, short);
        let digest: String = desired.model.digest.chars().take(12).collect();
        let why = |short: &str| {
            hindered(self.observed, short)
                .map(|(_, message)| format!(": {message}"))
                .unwrap_or_default()
        };
        if Revision::of(self.observed, ROUTER).ready() < 1 {
            let message = format!("the router is starting{}", why(ROUTER));
            self.in_progress(reason::ROUTER_STARTING, message);
        } else if revision.ready() < wanted {
            let message = format!(
                "{} of {wanted} servers are ready{}",
                revision.ready(),
                why(short)
            );
            self.in_progress(reason::SCALING, message);
        } else if self
            .route
            .as_ref()
            .is_some_and(|route| !knows(route, short))
        {
            let message =
                format!("{digest} runs; the router has not read its new configuration yet");
            self.in_progress(reason::ROLLING_OUT, message);
            self.look_again(LOOK_SECONDS);
        } else if self.traffic.draining().next().is_some() {
            self.in_progress(
                reason::DRAINING,
                format!("{digest} serves; the revision before finishes its answers"),
            );
        } else {
            self.told = Told::new(
                Verdict::Ready,
                reason::SERVING,
                format!("{digest} takes all traffic"),
            );
            self.look_again(REST_SECONDS);
        }
        self.drain()
    }

    /// Brings a revision's servers and address in line with the spec.
    fn sync(&mut self, short: &str, replicas: i32) {
        let revision = Revision::of(self.observed, short);
        let backend = self
            .traffic
            .backends
            .iter()
            .find(|backend| backend.name == short);
        let digest = revision
            .annotation(label::DIGEST)
            .map(str::to_owned)
            .or(backend.map(|b| b.digest.clone()));
        let Some(digest) = digest else { return };
        let servers = Servers {
            short,
            digest: &digest,
            replicas,
            since: revision.annotation(label::SINCE).unwrap_or_default(),
            generation: revision
                .annotation(label::GENERATION)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            rejected: revision.annotation(label::REJECTED),
        };
        let rendered = render::servers(self.object(), &servers, revision.deployment, self.settings);
        self.actions.extend(apply(
            render::service(self.object(), short),
            revision.service,
        ));
        self.actions.extend(apply(rendered, revision.deployment));
        if let Some(url) = revision.url()
            && let Some(backend) = self
                .traffic
                .backends
                .iter_mut()
                .find(|backend| backend.name == short)
        {
            backend.url = url;
        }
    }

    /// Lets revisions without a share go when the router says that their answers are finished.
    fn drain(&mut self) -> Asked {
        if self.traffic.draining().next().is_none() {
            return Ok(());
        }
        self.look_again(1);
        if self.traffic != self.before {
            return Ok(()); // first the router has to learn of it
        }
        let since = self.traffic.since.unwrap_or(self.observed.now).as_second();
        let deadline = i64::try_from(self.settings.drain_deadline_seconds).unwrap_or(i64::MAX);
        let overdue = since.saturating_add(deadline) <= self.observed.now.as_second();
        if self.traffic.gateway && !overdue {
            return Ok(()); // the router does not see what a Gateway sends
        }
        let revision = self.traffic.config(self.object()).revision;
        let idle: Vec<String> = if overdue {
            self.traffic
                .draining()
                .map(|backend| backend.name.clone())
                .collect()
        } else {
            let Some(status) = self.ask_router()? else {
                return Ok(());
            };
            if status.revision != revision {
                return Ok(());
            }
            let busy = |name: &str| {
                status
                    .backends
                    .iter()
                    .any(|b| b.name == name && b.in_flight > 0)
            };
            self.traffic
                .draining()
                .map(|b| b.name.clone())
                .filter(|name| !busy(name))
                .collect()
        };
        self.traffic
            .backends
            .retain(|backend| backend.weight > 0 || !idle.contains(&backend.name));
        Ok(())
    }

    fn measure(&mut self) -> Asked {
        self.route = self.ask_router()?;
        Ok(())
    }

    /// The router's own numbers; `None` when there is no router that answers.
    pub(super) fn ask_router(&self) -> Result<Option<RouteStatus>, Vec<Query>> {
        let router = Revision::of(self.observed, ROUTER);
        let Some(url) = router.url().filter(|_| router.ready() > 0) else {
            return Ok(None);
        };
        let query = Query::Route { url };
        match self.observed.facts.get(&query) {
            None => Err(vec![query]),
            Some(Answer::Route(status)) => Ok(Some(status.clone())),
            Some(_) => Ok(None),
        }
    }

    /// Writes the router's objects, then clears away what nothing refers to any more.
    pub fn settle(&mut self) {
        let config = self
            .router_wanted
            .then(|| self.traffic.config(self.object()));
        if let Some(config) = &config {
            let rendered = render::route_config(self.object(), config, &self.traffic.notes());
            self.actions
                .extend(render::fenced(rendered, config_map(self.observed)));
            let router = Revision::of(self.observed, ROUTER);
            let rendered = render::router(self.object(), router.deployment, self.settings);
            self.actions.extend(apply(rendered, router.deployment));
            self.actions.extend(apply(
                render::service(self.object(), ROUTER),
                router.service,
            ));
        }
        self.actions.extend(self.exposed.take());
        if let Some(config) = config {
            self.tell_kubelets(&config.revision);
        }
        for short in revisions(self.observed) {
            let kept = self.traffic.stable.as_ref() == Some(&short)
                || self.candidate.as_ref() == Some(&short);
            let routed =
                self.before.weight(&short).is_some() || self.traffic.weight(&short).is_some();
            if !kept && !routed && !self.object().spec.policy.suspend {
                self.clear(&short);
            }
        }
    }

    /// A kubelet brings a changed ConfigMap to a running pod up to a minute and a half later, but at once when the pod changes:
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-pod-configmap/>.
    fn tell_kubelets(&mut self, revision: &str) {
        let behind = pods(self.observed, ROUTER).filter(|pod| {
            let told = pod.annotations().get(label::CONFIGURED);
            pod.metadata.deletion_timestamp.is_none()
                && phase(pod) == "Running"
                && told.is_none_or(|told| told != revision)
        });
        self.actions.extend(behind.map(|pod| Action::Annotate {
            object: ObjectRef::of(pod).any_version(),
            annotation: label::CONFIGURED.into(),
            value: revision.to_owned(),
        }));
    }

    fn clear(&mut self, short: &str) {
        fn of<'b, R: Resource<DynamicType = ()>>(
            all: &'b [R],
            short: &'b str,
        ) -> impl Iterator<Item = Action> + 'b {
            let living = all
                .iter()
                .filter(|object| object.meta().deletion_timestamp.is_none());
            living
                .filter(move |object| {
                    object
                        .labels()
                        .get(label::RUN)
                        .is_some_and(|run| run == short)
                })
                .map(|object| Action::Delete {
                    object: ObjectRef::of(object).any_version(),
                    propagation: Propagation::Background,
                })
        }
        let children = &self.observed.children;
        self.actions.extend(of(&children.deployments, short));
        self.actions.extend(of(&children.services, short));
        self.actions.extend(of(&children.config_maps, short));
    }
}

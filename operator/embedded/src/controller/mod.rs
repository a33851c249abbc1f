//! The controllers of a cluster that Bessemer's children need: owns their start and wiring.
//! They must reach the API only through a client, so they run on a real API server as well.
//!
//! Each controller is a pure function from cached objects to [`action::Action`]s; this module
//! feeds it from the caches and sends what it decides.

pub mod action;
pub mod cache;
mod deployment;
mod endpoint;
mod garbage;
mod job;
mod kind;
mod namespace;
pub mod queue;
mod replicaset;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

pub use replicaset::ready_since;

use crate::clock::{Clock, SystemClock};
use action::{ActionError, execute};
use cache::{Key, Store, controller_uid, watch};
use job::Plan;
use queue::Queue;

/// What the controllers may be told.
#[derive(Clone)]
pub struct Options {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Delay before a Job's pod is replaced after its first failure; it doubles each time.
    pub job_backoff: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            job_backoff: Duration::from_secs(1),
        }
    }
}

/// Runs all controllers with the machine's clock until `shutdown`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    run_with(client, Options::default(), shutdown).await;
}

#[derive(Clone)]
struct Queues {
    jobs: Queue,
    sets: Queue,
    deployments: Queue,
    services: Queue,
    namespaces: Queue,
}

/// Runs all controllers until `shutdown`.
pub async fn run_with(client: Client, options: Options, shutdown: CancellationToken) {
    let queues = Queues {
        jobs: Queue::default(),
        sets: Queue::default(),
        deployments: Queue::default(),
        services: Queue::default(),
        namespaces: Queue::default(),
    };
    let kinds = kind::Kinds::discover(client.clone(), shutdown.clone());
    let q = queues.clone();
    let jobs = watch::<Job>(&client, shutdown.clone(), move |job| {
        q.jobs.add(Key::of(job))
    });
    let q = queues.clone();
    let deployments = watch::<Deployment>(&client, shutdown.clone(), move |d| {
        q.deployments.add(Key::of(d))
    });
    let q = queues.clone();
    let sets = watch::<ReplicaSet>(&client, shutdown.clone(), move |set| {
        q.sets.add(Key::of(set));
        owner(set)
            .into_iter()
            .for_each(|key| q.deployments.add(key));
    });
    let q = queues.clone();
    let services = watch::<Service>(&client, shutdown.clone(), move |s| {
        q.services.add(Key::of(s))
    });
    let q = queues.clone();
    let slices = watch::<EndpointSlice>(&client, shutdown.clone(), move |s| {
        q.services.add(Key::of(s))
    });
    let (q, known) = (queues.clone(), services.clone());
    let pods = watch::<Pod>(&client, shutdown.clone(), move |pod| {
        if let Some(key) = owner(pod) {
            q.jobs.add(key.clone());
            q.sets.add(key);
        }
        for service in known.namespaced(&pod.namespace().unwrap_or_default()) {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            if selector.is_some_and(|s| s.iter().all(|(k, v)| pod.labels().get(k) == Some(v))) {
                q.services.add(Key::of(&*service));
            }
        }
    });
    let q = queues.clone();
    let namespaces = watch::<Namespace>(&client, shutdown.clone(), move |n| {
        q.namespaces.add(Key::of(n))
    });

    // Planning on half a cache would make what already exists.
    tokio::join!(
        jobs.clone().into_ready(),
        deployments.clone().into_ready(),
        sets.clone().into_ready(),
        services.clone().into_ready(),
        slices.clone().into_ready(),
        pods.clone().into_ready(),
    );

    let world = World {
        client: client.clone(),
        options,
        jobs,
        deployments,
        sets,
        services,
        slices,
        pods,
    };
    let w = &world;
    let stop = || shutdown.clone();
    let spaces = |key: Key| {
        let (client, kinds, namespaces) = (client.clone(), kinds.clone(), namespaces.clone());
        async move {
            match namespaces.get(&key) {
                Some(found) => namespace::reconcile(&client, &kinds, &found).await,
                None => Ok(None),
            }
        }
    };
    tokio::join!(
        queues.jobs.run("job", stop(), |key| w.job(key)),
        queues.sets.run("replicaset", stop(), |key| w.set(key)),
        queues
            .deployments
            .run("deployment", stop(), |key| w.deployment(key)),
        queues
            .services
            .run("endpointslice", stop(), |key| w.service(key)),
        queues.namespaces.run("namespace", stop(), spaces),
        garbage::run(client.clone(), kinds.clone(), stop()),
    );
}

/// The controlling owner, in the object's namespace.
fn owner<K: ResourceExt>(object: &K) -> Option<Key> {
    let owner = object
        .owner_references()
        .iter()
        .find(|o| o.controller == Some(true))?;
    Some(Key {
        namespace: object.namespace().unwrap_or_default(),
        name: owner.name.clone(),
    })
}

struct World {
    client: Client,
    options: Options,
    jobs: Store<Job>,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    pods: Store<Pod>,
}

impl World {
    async fn send(&self, plan: Plan) -> Result<Option<Duration>, ActionError> {
        execute(&self.client, self.options.clock.now(), plan.actions).await?;
        Ok(plan.again)
    }

    async fn job(&self, key: Key) -> Result<Option<Duration>, ActionError> {
        let Some(found) = self.jobs.get(&key) else {
            return self.orphans(&key).await;
        };
        let pods = self.pods.controlled_by(&found.uid().unwrap_or_default());
        self.send(job::plan(
            &found,
            &pods,
            self.options.clock.now(),
            self.options.job_backoff,
        ))
        .await
    }

    /// Pods of a Job that is gone are counted by nobody: their finalizer goes.
    async fn orphans(&self, key: &Key) -> Result<Option<Duration>, ActionError> {
        let pods = self.pods.namespaced(&key.namespace);
        let theirs = pods.iter().filter(|p| owner(&***p).as_ref() == Some(key));
        let live = |pod: &Pod| {
            controller_uid(pod).is_some_and(|uid| {
                self.jobs
                    .all()
                    .iter()
                    .any(|j| j.uid().as_ref() == Some(&uid))
            })
        };
        let actions = theirs
            .filter(|p| !live(p))
            .filter_map(job::release)
            .collect();
        self.send(Plan {
            actions,
            again: None,
        })
        .await
    }

    async fn set(&self, key: Key) -> Result<Option<Duration>, ActionError> {
        let Some(found) = self.sets.get(&key) else {
            return Ok(None);
        };
        let pods = self.pods.controlled_by(&found.uid().unwrap_or_default());
        self.send(replicaset::plan(&found, &pods, self.options.clock.now()))
            .await
    }

    async fn deployment(&self, key: Key) -> Result<Option<Duration>, ActionError> {
        let Some(found) = self.deployments.get(&key) else {
            return Ok(None);
        };
        let sets = self.sets.controlled_by(&found.uid().unwrap_or_default());
        self.send(deployment::plan(&found, &sets, self.options.clock.now()))
            .await
    }

    async fn service(&self, key: Key) -> Result<Option<Duration>, ActionError> {
        let Some(found) = self.services.get(&key) else {
            return Ok(None);
        };
        let pods = self.pods.namespaced(&key.namespace);
        let slice = self
            .slices
            .get(&key)
            .filter(|s| controller_uid(&**s) == found.uid());
        self.send(endpoint::plan(&found, &pods, slice.as_deref()))
            .await
    }
}

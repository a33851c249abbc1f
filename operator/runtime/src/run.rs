//! Owns the wiring: watches, queue, workers, election, endpoints. It must not know what any of them decide.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bessemer_core::{Key, Settings, label};
use bessemer_protocol::ProgressReport;
use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::api::Api;
use kube::core::ApiResource;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Change, Place};
use crate::clock::{Clock, Random};
use crate::cluster::{Cluster, Kept};
use crate::event::Recorder;
use crate::http::Health;
use crate::intake::{Board, Directory, Intake, Worker};
use crate::lease::{self, Elector, Leadership};
use crate::metric::{self, Metrics};
use crate::outside::Outside;
use crate::publish::Pace;
use crate::queue::Queue;
use crate::reconcile::{self, Reconciler};
use crate::remote::Remote;
use crate::requeue::Requeue;
use crate::watch::{Pulse, Watch};

/// What the installer decided about the operator itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// What decisions need.
    pub settings: Settings,
    /// Namespaces to watch; empty means all.
    pub namespaces: Vec<String>,
    /// Reconciles at once.
    pub concurrency: usize,
    /// Every object is looked at again after this long, plus up to a fifth, whatever happens.
    pub resync: Duration,
    /// The election, or none where this is the only operator.
    pub election: Option<lease::Config>,
    /// Who we are in Events.
    pub identity: String,
    /// Where metrics and health are served.
    pub health: Option<Arc<std::net::TcpListener>>,
    /// Where progress reports are taken.
    pub intake: Option<Arc<std::net::TcpListener>>,
}

impl Config {
    /// One operator without election or endpoints.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            namespaces: Vec::new(),
            concurrency: 16,
            resync: Duration::from_secs(600),
            election: None,
            identity: "bessemer".into(),
            health: None,
            intake: None,
        }
    }
}

/// What is injected: everything about time, chance and the outside.
pub struct Parts {
    /// Client of the election; it should be its own.
    pub lease_client: Client,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Random,
    /// Object store and routers.
    pub outside: Arc<dyn Outside>,
    /// Counters.
    pub metrics: Metrics,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Leadership was lost; the process must exit and start again.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A worker ended by itself: without the process's end its object would never be looked at again.
    #[error("a worker panicked, see above; start again and report this as a bug")]
    Worker,
}

impl Error {
    /// Stable word for exit messages.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Lease(error) => error.category(),
            Self::Listen { .. } => "AddressInUse",
            Self::Worker => "WorkerPanicked",
        }
    }
}

struct Pods {
    cluster: Arc<Cluster>,
    queue: Arc<Queue<Key>>,
    metrics: Metrics,
}

impl Directory for Pods {
    fn worker(&self, namespace: &str, name: &str) -> Option<Worker> {
        let pod = self.cluster.pods.get(&Place::new(namespace, name))?;
        let key = crate::cluster::owner_key(pod.as_ref())?;
        Some(Worker {
            uid: pod.metadata.uid.clone()?,
            kind: key.kind.name().to_owned(),
            name: key.name,
        })
    }

    fn reported(&self, report: &ProgressReport) {
        self.metrics.progress.inc();
        let kind = bessemer_api::Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == report.kind);
        if let Some(kind) = kind {
            // Numbers are written at most once in ten seconds; looking more often would be for nothing.
            let key = Key {
                kind,
                namespace: report.namespace.clone(),
                name: report.name.clone(),
            };
            self.queue.add_after(key, Duration::from_secs(1));
        }
    }
}

/// Runs the operator until `stop`, or until leadership is lost.
///
/// # Errors
/// Leadership was lost, or an address cannot be listened on.
///
/// # Cancel safety
/// Dropping the future ends all its tasks; writes under way may or may not have happened, as in a crash.
pub async fn run(
    client: Client,
    config: Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), Error> {
    let cluster = Arc::new(Cluster::new());
    let queue: Arc<Queue<Key>> = Arc::new(Queue::new());
    let leadership = if config.election.is_some() {
        Leadership::default()
    } else {
        Leadership::always()
    };
    let pulse = Pulse::default();
    let board = Arc::new(Board::default());
    let mut tasks = JoinSet::new();

    let adds = parts
        .metrics
        .queue_adds
        .get_or_create(&metric::Name {
            name: "objects".into(),
        })
        .clone();
    let touched = queue.clone();
    cluster.on_touch(move |key, new| {
        adds.inc();
        touched.ask(key, new);
    });
    watch_all(&mut tasks, &client, &config, &parts, &cluster, &pulse);

    if let Some(listener) = &config.intake {
        let directory = Pods {
            cluster: cluster.clone(),
            queue: queue.clone(),
            metrics: parts.metrics.clone(),
        };
        let intake = Arc::new(Intake {
            client: client.clone(),
            leadership: leadership.clone(),
            clock: parts.clock.clone(),
            board: board.clone(),
            directory: Arc::new(directory),
            keys: parking_lot::Mutex::default(),
        });
        serve(&mut tasks, listener, intake.routes())?;
    }
    if let Some(listener) = &config.health {
        let health = health(&parts, &pulse, &cluster, &queue, &leadership, &config);
        serve(&mut tasks, listener, Arc::new(health).routes())?;
    }

    while !cluster.unsynced().is_empty() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    let mut elector = config.election.clone().map(|election| {
        Elector::new(
            parts.lease_client.clone(),
            election,
            parts.clock.clone(),
            parts.random.clone(),
            leadership.clone(),
        )
    });
    if let Some(elector) = elector.as_mut() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = elector.acquire() => {}
        }
    }
    for key in cluster.keys() {
        queue.add(key);
    }
    let reconciler = Arc::new(Reconciler {
        cluster: cluster.clone(),
        client: client.clone(),
        remote: Remote::new(client.clone(), cluster, leadership),
        outside: parts.outside.clone(),
        board,
        clock: parts.clock.clone(),
        settings: config.settings.clone(),
        queue: queue.clone(),
        pace: Pace::default(),
        recorder: Recorder::new(client, &config.identity),
        metrics: parts.metrics.clone(),
        namespaces: config.namespaces.clone(),
    });
    tasks.spawn(forget(reconciler.clone(), config.resync));
    let requeue = Arc::new(Requeue::new(
        queue.clone(),
        parts.random.clone(),
        config.resync,
    ));
    let mut workers = JoinSet::new();
    for _ in 0..config.concurrency.max(1) {
        let worker = Work {
            queue: queue.clone(),
            reconciler: reconciler.clone(),
            requeue: requeue.clone(),
        };
        workers.spawn(worker.run());
    }
    // The lease is kept until the last worker has ended, so that nobody else starts while one still writes.
    let done = CancellationToken::new();
    let keep = async {
        match elector.as_mut() {
            Some(elector) => elector.keep(&done).await,
            None => {
                done.cancelled().await;
                Ok(())
            }
        }
    };
    let drain = async {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = workers.join_next() => return Err(Error::Worker),
        }
        queue.close();
        while workers.join_next().await.is_some() {}
        done.cancel();
        // The lease is released by `keep`, which ends the select below.
        std::future::pending().await
    };
    tokio::select! {
        result = keep => Ok(result?),
        result = drain => result,
    }
}

/// Drops, now and then, what is remembered of objects that are gone.
async fn forget(reconciler: Arc<Reconciler>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        reconciler.forget_gone();
    }
}

struct Work {
    queue: Arc<Queue<Key>>,
    reconciler: Arc<Reconciler>,
    requeue: Arc<Requeue>,
}

impl Work {
    async fn run(self) {
        let metrics = self.reconciler.metrics.clone();
        let name = metric::Name {
            name: "objects".into(),
        };
        while let Some(taken) = self.queue.next().await {
            let key = taken.key;
            let controller = reconcile::controller(&key);
            let label = metric::Controller { controller };
            metrics
                .queue_seconds
                .get_or_create(&name)
                .observe(taken.waited.as_secs_f64());
            metrics.active_workers.get_or_create(&label).inc();
            let start = Instant::now();
            let (generation, result) = self.reconciler.reconcile(&key).await;
            metrics.active_workers.get_or_create(&label).dec();
            metrics
                .work_seconds
                .get_or_create(&name)
                .observe(start.elapsed().as_secs_f64());
            let word = self.requeue.settle(&key, generation, result);
            metrics.reconciled(controller, word, start.elapsed());
            if word == "error" {
                metrics.errors.get_or_create(&label).inc();
                metrics.queue_retries.get_or_create(&name).inc();
            }
            self.queue.done(&key);
        }
    }
}

/// Opens `address` (port 0 takes any), so that whoever must know the port does before the operator runs.
///
/// # Errors
/// The address cannot be listened on.
pub fn listen(address: SocketAddr) -> Result<Arc<std::net::TcpListener>, Error> {
    std::net::TcpListener::bind(address)
        .map(Arc::new)
        .map_err(|source| Error::Listen { address, source })
}

fn serve(
    tasks: &mut JoinSet<()>,
    listener: &std::net::TcpListener,
    routes: axum::Router,
) -> Result<(), Error> {
    let address = listener
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let own = listener.try_clone().and_then(|own| {
        own.set_nonblocking(true)?;
        TcpListener::from_std(own)
    });
    let listener = own.map_err(|source| Error::Listen { address, source })?;
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%address, %error, "endpoint ended");
        }
    });
    Ok(())
}

fn health(
    parts: &Parts,
    pulse: &Pulse,
    cluster: &Arc<Cluster>,
    queue: &Arc<Queue<Key>>,
    leadership: &Leadership,
    config: &Config,
) -> Health {
    let (metrics, load, leader) = (parts.metrics.clone(), queue.clone(), leadership.clone());
    let lease = config
        .election
        .as_ref()
        .map_or("none".to_owned(), |election| election.name.clone());
    let concurrency = i64::try_from(config.concurrency).unwrap_or(i64::MAX);
    let refresh = move || {
        let (name, now) = (
            metric::Name {
                name: "objects".into(),
            },
            load.load(),
        );
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics
            .queue_depth
            .get_or_create(&name)
            .set(size(now.ready));
        let longest = i64::try_from(now.longest_active.as_secs()).unwrap_or(i64::MAX);
        metrics.longest_running.get_or_create(&name).set(longest);
        metrics
            .leader
            .get_or_create(&metric::Name {
                name: lease.clone(),
            })
            .set(i64::from(leader.holds()));
        for controller in [
            "dataset",
            "pretrainjob",
            "finetune",
            "evaluation",
            "deployment",
        ] {
            metrics
                .max_concurrent
                .get_or_create(&metric::Controller { controller })
                .set(concurrency);
        }
    };
    let (lists, work) = (cluster.clone(), queue.clone());
    Health {
        metrics: parts.metrics.clone(),
        pulse: pulse.clone(),
        refresh: Box::new(refresh),
        unsynced: Box::new(move || lists.unsynced()),
        longest: Box::new(move || work.load().longest_active),
    }
}

struct Watching<'a> {
    tasks: &'a mut JoinSet<()>,
    client: &'a Client,
    config: &'a Config,
    parts: &'a Parts,
    cluster: &'a Arc<Cluster>,
    pulse: &'a Pulse,
}

fn watch_all(
    tasks: &mut JoinSet<()>,
    client: &Client,
    config: &Config,
    parts: &Parts,
    cluster: &Arc<Cluster>,
    pulse: &Pulse,
) {
    let mut w = Watching {
        tasks,
        client,
        config,
        parts,
        cluster,
        pulse,
    };
    w.object("Dataset", &cluster.datasets);
    w.object("PretrainJob", &cluster.pretrain_jobs);
    w.object("FineTune", &cluster.fine_tunes);
    w.object("Evaluation", &cluster.evaluations);
    w.object("ModelDeployment", &cluster.model_deployments);
    w.child("Job", &cluster.jobs);
    w.child("Pod", &cluster.pods);
    w.child("ConfigMap", &cluster.config_maps);
    w.child("Deployment", &cluster.deployments);
    w.child("Service", &cluster.services);
}

impl Watching<'_> {
    fn object<K>(&mut self, kind: &'static str, cache: &Arc<Cache<K>>)
    where
        K: bessemer_core::Kind + Kept + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let (cluster, told) = (self.cluster.clone(), self.cluster.clone());
        let changed = move |change| cluster.object_changed(change);
        let readable =
            move |place: Place, why| told.readable(crate::cluster::key(K::KIND, &place), why);
        self.start(kind, cache, "", changed, readable);
    }

    fn child<K>(&mut self, kind: &'static str, cache: &Arc<Cache<K>>)
    where
        K: Kept + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let cluster = self.cluster.clone();
        let changed = move |change| cluster.child_changed(change);
        self.start(kind, cache, label::KIND, changed, |_, _| {});
    }

    fn start<K>(
        &mut self,
        kind: &'static str,
        cache: &Arc<Cache<K>>,
        selector: &'static str,
        changed: impl Fn(Change<K>) + Clone + Send + Sync + 'static,
        readable: impl Fn(Place, Option<String>) + Clone + Send + Sync + 'static,
    ) where
        K: Kept + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let all = vec![String::new()];
        let scopes = if self.config.namespaces.is_empty() {
            &all
        } else {
            &self.config.namespaces
        };
        cache.expect(scopes.len());
        let resource = ApiResource::erase::<K>(&());
        for scope in scopes {
            let client = self.client.clone();
            let watch = Watch {
                api: if scope.is_empty() {
                    Api::all_with(client, &resource)
                } else {
                    Api::namespaced_with(client, scope, &resource)
                },
                scope: scope.clone(),
                kind,
                selector,
                prune: K::prune,
                cache: cache.clone(),
                changed: Box::new(changed.clone()),
                readable: Box::new(readable.clone()),
                random: self.parts.random.clone(),
                metrics: self.parts.metrics.clone(),
                pulse: self.pulse.clone(),
            };
            self.tasks.spawn(watch.run());
        }
    }
}

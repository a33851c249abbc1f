//! The whole operator in virtual time: real reconcilers on the embedded API, seeded faults, oracles. One number decides
//! everything. It must not contain a second implementation of anything it tests.

pub mod actor;
pub mod election;
pub mod fault;
pub mod fuzz;
mod life;
pub mod object;
pub mod oracle;
pub mod server;
pub mod store;
pub mod wire;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bessemer_core::Settings;
use bessemer_embedded::{Api, Options};
use bessemer_protocol::Storage;
use bessemer_runtime::bug::{Bug, plant};
use bessemer_runtime::clock::{Random, TokioClock};
use bessemer_runtime::metric::Metrics;
use bessemer_runtime::{Config, Parts, cache, lease, run};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use actor::Actor;
use fault::{Coverage, Plan, Watches};
use object::{NAMESPACE, Wishes};
use store::{Store, World};
use wire::Wire;

/// Virtual time within which a fixpoint must be reached (O1). Resync is longer, so that it cannot hide a missed event.
const FIXPOINT: Duration = Duration::from_secs(40 * 60);
const RESYNC: Duration = Duration::from_secs(6 * 3600);
/// Name of the operators' Lease.
const LEASE: &str = "bessemer-operator";
/// Minutes of a day.
const DAY: u64 = 24 * 60;
/// A seed has at least this many faults.
const LEAST: u32 = 3;
/// Nothing may change for this long before the state counts as a fixpoint.
const CALM: Duration = Duration::from_secs(60);

/// What a simulation is to do.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Decides everything.
    pub seed: u64,
    /// Faults to inject.
    pub faults: u32,
    /// Only this crash: index of a write, doubled, plus one for after.
    pub crash_at: Option<u64>,
    /// Watches show only the last of what happened to an object (O6).
    pub skip: bool,
    /// The operator has to be elected.
    pub election: bool,
    /// Virtual minutes at rest (O8).
    pub rest_minutes: u64,
    /// Whether the end is compared with a fresh install (O2), which costs half as much as the life itself.
    pub compare: bool,
}

impl Scenario {
    /// What a seed stands for: at least three faults; some skip, some elect, some rest for a whole day.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            faults: LEAST + u32::try_from(seed % 6).unwrap_or(0),
            crash_at: None,
            skip: seed % 8 == 5,
            election: seed % 64 == 3,
            rest_minutes: if seed % 100 == 98 { DAY } else { 20 },
            compare: seed % 2 == 1,
        }
    }

    /// The same life without faults.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self {
            faults: 0,
            skip: false,
            ..Self::of(seed)
        }
    }
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Objects.
    pub objects: usize,
    /// Broken oracles; empty is well.
    pub broken: Vec<String>,
    /// Faults injected.
    pub coverage: Coverage,
    /// Requests of the operator.
    pub requests: u64,
    /// Writes of the operator that faults could strike.
    pub writes: u64,
}

/// An API with our definitions, made once per process: parsing schemas and compiling CEL takes longer than a simulation.
fn template() -> &'static Api {
    static TEMPLATE: OnceLock<Api> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let api = match Api::open(Options::memory(Arc::new(Epoch), 0)) {
            Ok(api) => api,
            Err(error) => unreachable!("a store in memory cannot fail: {error}"),
        };
        for definition in bessemer_api::definitions() {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let body = serde_json::to_value(definition).unwrap_or_default();
            let (code, answer) = server::call(&api, Method::POST, path, "application/json", &body);
            assert!(code == 201, "definition refused: {answer}");
        }
        api
    })
}

struct Simulation {
    api: Api,
    wire: Arc<Wire>,
    store: Arc<Store>,
    clock: TokioClock,
    seed: u64,
    election: bool,
}

/// Runs one simulation in a runtime of its own with paused time.
#[must_use]
pub fn simulate(options: &Scenario) -> Report {
    alone(scenario(options))
}

/// `objects` objects without faults: from apply to rest, then 24 virtual hours in which nothing is written; who writes has no
/// Lease here.
#[must_use]
pub fn rest(objects: usize) -> Report {
    alone(resting(objects))
}

/// Everything that one seed stands for: a life, and with some seeds a round of random specs or of partitions.
#[must_use]
pub fn trial(seed: u64) -> Report {
    let mut report = simulate(&Scenario::of(seed));
    if seed.is_multiple_of(10) {
        report.broken.extend(fuzz::fuzz(seed).broken);
    }
    if seed.is_multiple_of(250) {
        report.broken.extend(election::elect(seed).broken);
    }
    report
}

/// Looks for a planted bug: the first of `seeds` that breaks an oracle, and what it broke.
pub fn hunt(bug: Bug, seeds: std::ops::Range<u64>) -> Option<(u64, Vec<String>)> {
    plant(Some(bug));
    let found = seeds.into_iter().find_map(|seed| {
        let report = match bug {
            Bug::StolenLease => election::elect(seed),
            _ => simulate(&Scenario::of(seed)),
        };
        (!report.broken.is_empty()).then_some((seed, report.broken))
    });
    plant(None);
    found
}

fn alone(simulation: impl Future<Output = Report>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(simulation),
        Err(error) => Report {
            broken: vec![format!("no runtime: {error}")],
            ..Report::default()
        },
    }
}

impl Simulation {
    fn new(seed: u64, plan: Plan, election: bool) -> Arc<Self> {
        let epoch = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(500_000);
        let clock = TokioClock::starting_at(epoch);
        let mut options = Options::memory(Arc::new(Ticking(clock)), seed);
        options.fault = Some(Arc::new(Watches(plan.clone())));
        let api = template().fork(options);
        Arc::new(Self {
            wire: Wire::new("operator", api.clone(), plan),
            api,
            store: Arc::default(),
            clock,
            seed,
            election,
        })
    }

    /// The rest of the cluster and an operator that is started again whenever a fault kills it.
    fn start(self: &Arc<Self>, calm: bool) -> [Owned; 2] {
        let operator = self.clone().supervise(self.wire.clone());
        [self.act(calm), Owned(tokio::spawn(operator))]
    }

    /// The rest of the cluster alone.
    fn act(&self, calm: bool) -> Owned {
        let actor = Actor::new(
            self.api.clone(),
            self.store.objects.clone(),
            self.seed,
            calm,
        );
        Owned(tokio::spawn(actor.run()))
    }

    /// Adds what was counted and what broke.
    fn tell(&self, report: &mut Report) {
        report.broken.extend(self.complaints());
        report.coverage = self.wire.plan.coverage();
        report.requests = self.wire.requests.load(Ordering::Relaxed);
        report.writes = self.wire.plan.writes();
    }

    /// Broken rules of single requests and calls.
    fn complaints(&self) -> Vec<String> {
        let mut found = std::mem::take(&mut *self.wire.broken.lock());
        found.append(&mut self.store.broken.lock());
        found
    }

    /// Starts an operator at the end of `wire`; it lives until the handle is aborted.
    fn operator(&self, wire: &Arc<Wire>, identity: String) -> tokio::task::JoinHandle<()> {
        let storage = Storage {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: store::BUCKET.into(),
            prefix: String::new(),
        };
        let mut settings = Settings::new(storage, "bessemer/worker:1");
        settings.local = true;
        let mut config = Config::new(settings);
        config.resync = RESYNC;
        config.concurrency = 4;
        if self.election {
            let lease = lease::Config::new(NAMESPACE.into(), LEASE.into(), identity.clone());
            config.election = Some(lease);
        }
        let parts = Parts {
            lease_client: wire.client(),
            clock: Arc::new(self.clock),
            random: Random::seeded(self.seed ^ cache::fingerprint(&identity)),
            outside: Arc::new(World::new(
                self.store.clone(),
                self.api.clone(),
                wire.plan.clone(),
            )),
            metrics: Metrics::new(),
        };
        let (client, wire) = (wire.client(), wire.clone());
        tokio::spawn(async move {
            match run(client, config, parts, CancellationToken::new()).await {
                // Who does not lead any more must exit; Kubernetes starts it again.
                Err(bessemer_runtime::Error::Lease(_)) => wire.crash.notify_one(),
                ended => wire.complain(format!("the operator ended: {ended:?}")),
            }
        })
    }

    /// Keeps an operator alive: it is started again whenever a fault kills it.
    async fn supervise(self: Arc<Self>, wire: Arc<Wire>) {
        for incarnation in 0.. {
            let identity = format!("{}-{incarnation}", wire.name);
            *wire.identity.lock() = identity.clone();
            let operator = Owned(self.operator(&wire, identity));
            wire.crash.notified().await;
            drop(operator);
            tokio::time::sleep(wire.plan.delay(500, 5000)).await;
        }
    }

    /// Waits until nothing changes any more. Returns what is not at rest if that takes too long.
    async fn settle(&self, wishes: &Wishes) -> Result<(), Vec<String>> {
        let start = Instant::now();
        let (mut revision, mut change, mut since) = (0, (0, 0), Instant::now());
        let mut restless = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if self.api.revision() != revision {
                revision = self.api.revision();
                let last = oracle::last_change(&self.api);
                if change != last {
                    (change, since) = (last, Instant::now());
                }
                let lies = oracle::lies(&self.api);
                if !lies.is_empty() {
                    return Err(lies);
                }
                restless = oracle::restless(&self.api, wishes);
            }
            if restless.is_empty() && since.elapsed() >= CALM {
                return Ok(());
            }
            if start.elapsed() > FIXPOINT {
                let endless = format!("O1: still changing after {} s", FIXPOINT.as_secs());
                let what = restless
                    .iter()
                    .map(|what| format!("O1: not at rest: {what}"));
                return Err(what.chain([endless]).collect());
            }
        }
    }
}

/// Aborts its task when dropped.
struct Owned(tokio::task::JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The clock of the template, whose objects are as old as every simulation is.
struct Epoch;

impl bessemer_embedded::clock::Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

struct Ticking(TokioClock);

impl bessemer_embedded::clock::Clock for Ticking {
    fn now(&self) -> Timestamp {
        bessemer_runtime::clock::Clock::now(&self.0)
    }
}

async fn scenario(options: &Scenario) -> Report {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut wishes = object::chain(&mut random);
    let mut plan = options
        .crash_at
        .map_or_else(|| Plan::new(options.seed, options.faults), Plan::crash_at);
    if options.skip {
        plan = plan.skipping();
    }
    let simulation = Simulation::new(options.seed, plan.clone(), options.election);
    let mut report = Report {
        seed: options.seed,
        objects: wishes.len(),
        ..Report::default()
    };
    let calm = options.faults == 0 && options.crash_at.is_none();
    let _running = simulation.start(calm);
    if let Err(broken) = life::live(&simulation, &mut wishes, &mut random, options).await {
        report.broken = broken;
    }
    simulation.tell(&mut report);
    report
}

async fn resting(objects: usize) -> Report {
    let options = Scenario {
        rest_minutes: DAY,
        // Each renewal of a Lease would make the rest of the cluster look at every object again.
        election: false,
        ..Scenario::calm(0)
    };
    let wishes = object::objects(objects, 0, &mut ChaCha8Rng::seed_from_u64(options.seed));
    let simulation = Simulation::new(options.seed, Plan::new(options.seed, 0), options.election);
    let mut report = Report {
        objects,
        ..Report::default()
    };
    let _running = simulation.start(true);
    if let Err(broken) = life::rest(&simulation, &wishes, &options).await {
        report.broken = broken;
    }
    simulation.tell(&mut report);
    report
}

#[cfg(test)]
mod tests;

//! The whole operator in virtual time: real reconcilers on the embedded API, seeded faults, oracles. One number decides
//! everything. It must not contain a second implementation of anything it tests.

pub mod actor;
pub mod fault;
pub mod object;
pub mod oracle;
pub mod server;
pub mod store;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_core::Settings;
use bessemer_embedded::{Api, Options};
use bessemer_protocol::Storage;
use bessemer_runtime::clock::{Random, TokioClock};
use bessemer_runtime::metric::Metrics;
use bessemer_runtime::{Config, Parts, run};
use http::Method;
use jiff::Timestamp;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use actor::Actor;
use fault::{Coverage, Plan, Watches};
use object::{Deed, NAMESPACE, Wishes};
use store::{Store, World};
use wire::Wire;

/// Virtual time within which a fixpoint must be reached (O1). Resync is longer, so that it cannot hide a missed event.
const FIXPOINT: Duration = Duration::from_secs(40 * 60);
const RESYNC: Duration = Duration::from_secs(6 * 3600);
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
    /// Virtual hours at rest (O8).
    pub rest_hours: u64,
}

/// What came of it.
#[derive(Debug, Default)]
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

/// The definitions, serialised once per process: they are the same for every seed.
fn definitions() -> &'static [Value] {
    static DEFINITIONS: std::sync::OnceLock<Vec<Value>> = std::sync::OnceLock::new();
    DEFINITIONS.get_or_init(|| {
        bessemer_api::definitions()
            .iter()
            .filter_map(|definition| serde_json::to_value(definition).ok())
            .collect()
    })
}

struct Simulation {
    api: Api,
    wire: Arc<Wire>,
    store: Arc<Store>,
    clock: TokioClock,
    seed: u64,
}

/// Runs one simulation in a runtime of its own with paused time.
#[must_use]
pub fn simulate(options: &Scenario) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(scenario(options)),
        Err(error) => Report {
            broken: vec![format!("no runtime: {error}")],
            ..Report::default()
        },
    }
}

impl Simulation {
    fn new(seed: u64, plan: Plan) -> Option<Self> {
        let clock = TokioClock::starting_at(Timestamp::from_second(1_800_000_000).ok()?);
        let mut options = Options::memory(Arc::new(Ticking(clock)), seed);
        options.fault = Some(Arc::new(Watches(plan.clone())));
        let api = Api::open(options).ok()?;
        for definition in definitions() {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let (code, answer) =
                server::call(&api, Method::POST, path, "application/json", definition);
            assert!(code == 201, "definition refused: {answer}");
        }
        Some(Self {
            wire: Wire::new(api.clone(), plan),
            api,
            store: Arc::default(),
            clock,
            seed,
        })
    }

    /// Starts an operator; it lives until the handle is aborted.
    fn operator(&self, incarnation: u64) -> tokio::task::JoinHandle<()> {
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
        let parts = Parts {
            lease_client: self.wire.client(),
            clock: Arc::new(self.clock),
            random: Random::seeded(self.seed ^ incarnation),
            outside: Arc::new(World::new(
                self.store.clone(),
                self.api.clone(),
                self.wire.plan.clone(),
            )),
            metrics: Metrics::new(),
        };
        let client = self.wire.client();
        tokio::spawn(async move {
            if let Err(error) = run(client, config, parts, CancellationToken::new()).await {
                tracing::error!(%error, "operator ended");
            }
        })
    }

    /// Keeps an operator alive: it is started again whenever a fault kills it.
    async fn supervise(self: Arc<Self>) {
        for incarnation in 0.. {
            let operator = Owned(self.operator(incarnation));
            self.wire.crash.notified().await;
            drop(operator);
            tokio::time::sleep(self.wire.plan.delay(500, 5000)).await;
        }
    }

    /// Waits until nothing changes any more. Returns what is not at rest if that takes too long.
    async fn settle(&self, wishes: &Wishes) -> Result<(), Vec<String>> {
        let start = Instant::now();
        let (mut revision, mut since) = (self.api.revision(), Instant::now());
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let lies = oracle::lies(&self.api);
            if !lies.is_empty() {
                return Err(lies);
            }
            if self.api.revision() != revision {
                (revision, since) = (self.api.revision(), Instant::now());
            }
            let restless = oracle::restless(&self.api, wishes);
            if restless.is_empty() && since.elapsed() >= CALM {
                return Ok(());
            }
            if start.elapsed() > FIXPOINT {
                return Err(restless
                    .into_iter()
                    .map(|what| format!("O1: not at rest: {what}"))
                    .collect());
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

struct Ticking(TokioClock);

impl bessemer_embedded::clock::Clock for Ticking {
    fn now(&self) -> Timestamp {
        bessemer_runtime::clock::Clock::now(&self.0)
    }
}

async fn scenario(options: &Scenario) -> Report {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut wishes = object::chain(&mut random);
    let plan = options
        .crash_at
        .map_or_else(|| Plan::new(options.seed, options.faults), Plan::crash_at);
    let mut report = Report {
        seed: options.seed,
        objects: wishes.len(),
        ..Report::default()
    };
    let Some(simulation) = Simulation::new(options.seed, plan.clone()) else {
        report.broken.push("the API cannot be opened".into());
        return report;
    };
    let simulation = Arc::new(simulation);
    let calm = options.faults == 0 && options.crash_at.is_none();
    let _actor = Owned(tokio::spawn(
        Actor::new(
            simulation.api.clone(),
            simulation.store.clone(),
            options.seed,
            calm,
        )
        .run(),
    ));
    let _operator = Owned(tokio::spawn(simulation.clone().supervise()));
    report.broken = match live(&simulation, &mut wishes, &mut random, options).await {
        Ok(()) => Vec::new(),
        Err(broken) => broken,
    };
    report
        .broken
        .extend(std::mem::take(&mut *simulation.wire.broken.lock()));
    report.coverage = plan.coverage();
    report.requests = simulation.wire.requests.load(Ordering::Relaxed);
    report.writes = plan.writes();
    report
}

async fn live(
    simulation: &Simulation,
    wishes: &mut Wishes,
    random: &mut ChaCha8Rng,
    options: &Scenario,
) -> Result<(), Vec<String>> {
    let api = &simulation.api;
    let mut order: Vec<(Kind, String)> = wishes.keys().cloned().collect();
    order.shuffle(random);
    for (kind, name) in &order {
        let Some(spec) = wishes.get(&(*kind, name.clone())) else {
            continue;
        };
        let (code, answer) = server::apply(api, *kind, name, spec);
        if code != 201 {
            return Err(vec![format!(
                "O10: {kind} {name} refused with {code}: {answer}"
            )]);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4000))).await;
    }
    if options.crash_at.is_none() {
        for _ in 0..random.random_range(0..4) {
            tokio::time::sleep(Duration::from_secs(random.random_range(0..90))).await;
            change(simulation, wishes, &order, random).await?;
        }
    }
    simulation.settle(wishes).await?;
    simulation.wire.plan.stop();
    simulation.settle(wishes).await?;
    quiet(simulation, options.rest_hours).await?;
    // With history in sight, or this being the fresh install itself, there is nothing to compare with.
    if options.crash_at.is_none() && options.faults > 0 && !oracle::has_history(api) {
        let fresh = Box::pin(fresh_install(options.seed, wishes)).await?;
        let found = oracle::face(api);
        for (name, face) in &fresh {
            if found.get(name) != Some(face) {
                let now = found.get(name).cloned().unwrap_or_default();
                return Err(vec![format!(
                    "O2: {name} is {now}, a fresh install gives {face}"
                )]);
            }
        }
    }
    delete_all(simulation, wishes, random).await
}

async fn change(
    simulation: &Simulation,
    wishes: &mut Wishes,
    order: &[(Kind, String)],
    random: &mut ChaCha8Rng,
) -> Result<(), Vec<String>> {
    let Some((kind, name)) = order.get(random.random_range(0..order.len())) else {
        return Ok(());
    };
    let Some(spec) = wishes.get(&(*kind, name.clone())).cloned() else {
        return Ok(());
    };
    for deed in object::change(*kind, &spec, random) {
        let wished = match deed {
            Deed::Apply(spec) => spec,
            Deed::Replace => {
                server::delete(&simulation.api, *kind, name);
                gone(simulation, *kind, name).await?;
                spec.clone()
            }
        };
        let (code, answer) = server::apply(&simulation.api, *kind, name, &wished);
        if code != 200 && code != 201 {
            return Err(vec![format!(
                "O10: change of {kind} {name} refused with {code}: {answer}"
            )]);
        }
        wishes.insert((*kind, name.clone()), wished);
        tokio::time::sleep(Duration::from_secs(random.random_range(0..30))).await;
    }
    Ok(())
}

async fn gone(simulation: &Simulation, kind: Kind, name: &str) -> Result<(), Vec<String>> {
    let start = Instant::now();
    let there = || {
        simulation
            .api
            .objects(&server::table(kind))
            .iter()
            .any(|o| server::text(o, "/metadata/name") == name)
    };
    while there() {
        if start.elapsed() > FIXPOINT {
            return Err(vec![format!(
                "P6: {kind} {name} is not gone {} s after its deletion",
                FIXPOINT.as_secs()
            )]);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// O8: at rest nothing is written.
async fn quiet(simulation: &Simulation, hours: u64) -> Result<(), Vec<String>> {
    let before = simulation.wire.writes.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(hours * 3600)).await;
    let writes = simulation.wire.writes.load(Ordering::Relaxed) - before;
    if writes == 0 {
        Ok(())
    } else {
        Err(vec![format!("O8: {writes} writes in {hours} h at rest")])
    }
}

/// O2: the same wishes on an empty cluster without faults.
async fn fresh_install(
    seed: u64,
    wishes: &Wishes,
) -> Result<std::collections::BTreeMap<String, Value>, Vec<String>> {
    let Some(simulation) = Simulation::new(seed, Plan::new(seed, 0)) else {
        return Err(vec!["the API cannot be opened".into()]);
    };
    let simulation = Arc::new(simulation);
    let _actor = Owned(tokio::spawn(
        Actor::new(simulation.api.clone(), simulation.store.clone(), seed, true).run(),
    ));
    let _operator = Owned(tokio::spawn(simulation.clone().supervise()));
    for ((kind, name), spec) in wishes {
        server::apply(&simulation.api, *kind, name, spec);
    }
    let settled = simulation.settle(wishes).await;
    settled.map_err(|broken| {
        broken
            .into_iter()
            .map(|what| format!("fresh install: {what}"))
            .collect::<Vec<_>>()
    })?;
    Ok(oracle::face(&simulation.api))
}

/// O7 and O9: deletion in any order leaves no object, artefacts only where the policy keeps them, and all of those.
async fn delete_all(
    simulation: &Simulation,
    wishes: &Wishes,
    random: &mut ChaCha8Rng,
) -> Result<(), Vec<String>> {
    let before = simulation.store.objects.keys();
    let mut order: Vec<&(Kind, String)> = wishes.keys().collect();
    order.shuffle(random);
    for (kind, name) in order {
        server::delete(&simulation.api, *kind, name);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
    }
    let start = Instant::now();
    while !oracle::remains(&simulation.api).is_empty() {
        if start.elapsed() > FIXPOINT {
            return Err(oracle::remains(&simulation.api)
                .into_iter()
                .map(|what| format!("O7: left over: {what}"))
                .collect());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let after = simulation.store.objects.keys();
    let mut broken = Vec::new();
    for ((kind, name), spec) in wishes {
        let directory = format!("{NAMESPACE}/{}/{name}/", kind.name().to_lowercase());
        let count = |keys: &[String]| {
            keys.iter()
                .filter(|key| key.starts_with(&directory))
                .count()
        };
        let policy = spec
            .get("artifactPolicy")
            .cloned()
            .unwrap_or(json!("Retain"));
        if policy == json!("Retain") && count(&after) != count(&before) {
            broken.push(format!(
                "O9: artefacts of {kind} {name} were deleted although they are to be kept"
            ));
        }
        if policy == json!("Delete") && count(&after) > 0 && !kept_for_others(wishes) {
            broken.push(format!("O7: artefacts of {kind} {name} were not deleted"));
        }
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken)
    }
}

/// A digest that a living object refers to is kept; in a random order of deletion that may be any of those upstream.
fn kept_for_others(wishes: &Wishes) -> bool {
    wishes.len() > 1
}

#[cfg(test)]
mod tests;

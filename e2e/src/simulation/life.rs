//! Owns the life of one simulated cluster: users apply, change and delete, oracles judge in between. It must not look into
//! the operator.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bessemer_api::Kind;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fault::Plan;
use super::object::{self, Deed, Wishes};
use super::{FIXPOINT, LEAST, Scenario, Simulation, oracle, server};

type Key = (Kind, String);

/// Requests that no object needs to come to rest and to stay so for a day.
const ENDLESS_EACH: u64 = 1000;

/// A whole life.
///
/// # Errors
/// The broken oracles.
pub(super) async fn live(
    simulation: &Simulation,
    wishes: &mut Wishes,
    random: &mut ChaCha8Rng,
    options: &Scenario,
) -> Result<(), Vec<String>> {
    let (api, plan) = (&simulation.api, &simulation.wire.plan);
    let first = wishes.clone();
    let mut order: Vec<Key> = wishes.keys().cloned().collect();
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
    if options.faults >= LEAST {
        strike(simulation, wishes, &order, random).await?;
    }
    plan.stop();
    simulation.settle(wishes).await?;
    quiet(simulation, options).await?;
    // With history in sight, or this being the fresh install itself, there is nothing to compare with.
    let disturbed = options.crash_at.is_some() || options.faults > 0 || options.skip;
    if disturbed && options.compare && !oracle::has_history(api) {
        let fresh = Box::pin(fresh_install(options.seed, wishes)).await?;
        let found = oracle::face(api);
        let differences = fresh.iter().filter_map(|(name, face)| {
            let now = found.get(name).cloned().unwrap_or_default();
            let same = now == *face || (first != *wishes && kept(wishes, name, &now, face));
            (!same).then(|| format!("O2: {name} is {now}, a fresh install gives {face}"))
        });
        let differences: Vec<String> = differences.collect();
        if !differences.is_empty() {
            return Err(differences);
        }
    }
    delete_all(simulation, wishes, random).await
}

/// Gates are for candidates: what they let through is served on when an Evaluation, or the Deployment itself, is changed
/// so that it would not be let through today.
fn kept(wishes: &Wishes, name: &str, now: &Value, fresh: &Value) -> bool {
    let gated = name.split_once('/').is_some_and(|(_, name)| {
        let spec = wishes.get(&(Kind::Deployment, name.to_owned()));
        spec.is_some_and(|spec| spec.get("gates").is_some())
    });
    let (reason, held) = (server::text(now, "/reason"), server::text(fresh, "/reason"));
    gated
        && held.starts_with("Gate")
        && (reason == "Serving" || reason == held)
        && now.pointer("/traffic/0/1") == Some(&json!(100))
}

/// A short life may end before the least number of faults has struck: more changes, each call struck, until it has.
async fn strike(
    simulation: &Simulation,
    wishes: &mut Wishes,
    order: &[Key],
    random: &mut ChaCha8Rng,
) -> Result<(), Vec<String>> {
    let plan = &simulation.wire.plan;
    for _ in 0..20 {
        if plan.injected() >= u64::from(LEAST) {
            return Ok(());
        }
        plan.hurry();
        change(simulation, wishes, order, random).await?;
        simulation.settle(wishes).await?;
    }
    let injected = plan.injected();
    Err(vec![format!("only {injected} faults could be injected")])
}

async fn change(
    simulation: &Simulation,
    wishes: &mut Wishes,
    order: &[Key],
    random: &mut ChaCha8Rng,
) -> Result<(), Vec<String>> {
    let Some((kind, name)) = order.choose(random) else {
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

/// Objects, however many, from apply to rest and a day of rest.
pub(super) async fn rest(
    simulation: &Simulation,
    wishes: &Wishes,
    options: &Scenario,
) -> Result<(), Vec<String>> {
    let most = ENDLESS_EACH * wishes.len() as u64;
    simulation.wire.most.store(most, Ordering::Relaxed);
    for ((kind, name), spec) in wishes {
        let (code, answer) = server::apply(&simulation.api, *kind, name, spec);
        if code != 201 {
            return Err(vec![format!("{kind} {name} refused with {code}: {answer}")]);
        }
    }
    simulation.settle(wishes).await?;
    quiet(simulation, options).await
}

/// O8: at rest nothing is written but the lease.
async fn quiet(simulation: &Simulation, options: &Scenario) -> Result<(), Vec<String>> {
    let (minutes, wire) = (options.rest_minutes, &simulation.wire);
    let count = || {
        (
            wire.writes.load(Ordering::Relaxed),
            wire.lease_writes.load(Ordering::Relaxed),
        )
    };
    let before = count();
    tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
    let (writes, leases) = (count().0 - before.0, count().1 - before.1);
    if writes > 0 {
        return Err(vec![format!(
            "O8: {writes} writes in {minutes} min at rest"
        )]);
    }
    if options.election && leases < minutes * 10 {
        return Err(vec![format!(
            "the lease was renewed {leases} times in {minutes} min"
        )]);
    }
    Ok(())
}

/// O2: the same wishes on an empty cluster without faults.
async fn fresh_install(seed: u64, wishes: &Wishes) -> Result<BTreeMap<String, Value>, Vec<String>> {
    let simulation = Simulation::new(seed, Plan::new(seed, 0), false);
    let _running = simulation.start(true);
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

/// O7 and O9: deletion in any order leaves no object; artefacts stay where the policy keeps them, all of them, and
/// elsewhere only those that another object referred to when the deletion was asked for.
async fn delete_all(
    simulation: &Simulation,
    wishes: &Wishes,
    random: &mut ChaCha8Rng,
) -> Result<(), Vec<String>> {
    let (api, store) = (&simulation.api, &simulation.store.objects);
    let before = store.keys();
    let mut order: Vec<&Key> = wishes.keys().collect();
    // Downstream first, one after the other, nothing may stay; in a random order, at once, what is in use may.
    let orderly = random.random_bool(0.5);
    if orderly {
        order.reverse();
    } else {
        order.shuffle(random);
    }
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (kind, name) in order {
        let path = oracle::directory(*kind, name);
        let digests = oracle::artefacts(&before, &path);
        let in_use = digests
            .into_iter()
            .filter(|digest| oracle::holder(api, &path, digest).is_some());
        held.insert(path.clone(), in_use.collect());
        server::delete(api, *kind, name);
        if orderly {
            gone(simulation, *kind, name).await?;
        } else {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
        }
    }
    let start = Instant::now();
    while !oracle::remains(api).is_empty() {
        if start.elapsed() > FIXPOINT {
            let left = oracle::remains(api).into_iter();
            return Err(left.map(|what| format!("O7: left over: {what}")).collect());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let after = store.keys();
    let mut broken = Vec::new();
    for ((kind, name), spec) in wishes {
        let path = oracle::directory(*kind, name);
        let count = |keys: &[String]| keys.iter().filter(|key| key.starts_with(&path)).count();
        if spec.get("artifactPolicy") != Some(&json!("Delete")) {
            if count(&after) != count(&before) {
                broken.push(format!("O9: artefacts of {kind} {name} are gone"));
            }
            continue;
        }
        let held = held.get(&path).cloned().unwrap_or_default();
        let stray: Vec<String> = oracle::artefacts(&after, &path)
            .into_iter()
            .filter(|digest| !held.contains(digest))
            .collect();
        if !stray.is_empty() || (held.is_empty() && count(&after) > 0) {
            broken.push(format!(
                "O7: artefacts of {kind} {name} were not deleted: {stray:?}, {} keys left",
                count(&after)
            ));
        }
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken)
    }
}

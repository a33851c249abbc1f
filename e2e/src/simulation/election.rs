//! Owns the simulation of leader election: two operators, partitions of one or both from the API server. Nobody may write
//! while the other leads, and when the network is whole again the chain comes to rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bessemer_api::Kind;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fault::Plan;
use super::object::{self, Deed, Wishes};
use super::wire::{Cut, Wire};
use super::{Owned, Report, Simulation, alone, server};

/// Partitions of one seed.
pub const PARTITIONS: usize = 5;

/// One life of two operators.
#[must_use]
pub fn elect(seed: u64) -> Report {
    alone(async move {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x1EAD);
        let mut wishes = object::chain(&mut random);
        let simulation = Simulation::new(seed, Plan::new(seed, 0), true);
        let _actor = simulation.act(true);
        let wires = ["left", "right"].map(|name| {
            let wire = Wire::new(name, simulation.api.clone(), simulation.wire.plan.clone());
            wire.exclusive.store(true, Ordering::Relaxed);
            wire
        });
        let _operators = wires
            .clone()
            .map(|wire| Owned(tokio::spawn(Arc::clone(&simulation).supervise(wire))));
        let mut report = Report {
            seed,
            objects: wishes.len(),
            ..Report::default()
        };
        for ((kind, name), spec) in &wishes {
            server::apply(&simulation.api, *kind, name, spec);
        }
        let order: Vec<_> = wishes.keys().cloned().collect();
        for _ in 0..PARTITIONS {
            wait(&mut random, 5..40).await;
            let cut = [Cut::Refused, Cut::Silent, Cut::Deaf]
                .choose(&mut random)
                .copied();
            let who: &[usize] = [&[0][..], &[1], &[0, 1]]
                .choose(&mut random)
                .copied()
                .unwrap_or(&[0]);
            for wire in who.iter().filter_map(|index| wires.get(*index)) {
                *wire.cut.lock() = cut;
            }
            wait(&mut random, 1..45).await;
            change(&simulation, &mut wishes, &order, &mut random);
            wait(&mut random, 0..20).await;
            for wire in &wires {
                *wire.cut.lock() = None;
            }
        }
        if let Err(broken) = simulation.settle(&wishes).await {
            report.broken.extend(broken);
        }
        report.broken.extend(simulation.complaints());
        for wire in &wires {
            report.broken.append(&mut wire.broken.lock());
            report.requests += wire.requests.load(Ordering::Relaxed);
            report.writes += wire.writes.load(Ordering::Relaxed);
        }
        report
    })
}

/// A user's change that waits for nobody: the partition may last longer than it would take.
fn change(
    simulation: &Simulation,
    wishes: &mut Wishes,
    order: &[(Kind, String)],
    random: &mut ChaCha8Rng,
) {
    let Some((key, spec)) = order
        .choose(random)
        .and_then(|key| Some((key.clone(), wishes.get(key)?.clone())))
    else {
        return;
    };
    for deed in object::change(key.0, &spec, random) {
        if let Deed::Apply(spec) = deed {
            server::apply(&simulation.api, key.0, &key.1, &spec);
            wishes.insert(key.clone(), spec);
        }
    }
}

async fn wait(random: &mut ChaCha8Rng, seconds: std::ops::Range<u64>) {
    let seconds = random.random_range(seconds);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

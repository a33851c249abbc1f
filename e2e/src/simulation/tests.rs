//! Tests of the simulation: some of the seeds, every crash point of one life, partitions, random specs, planted bugs.

use super::election::{PARTITIONS, elect};
use super::*;

fn assert_whole(report: &Report) {
    let (seed, broken) = (report.seed, &report.broken);
    assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
}

#[test]
fn seeds_reach_a_fixpoint_under_faults() {
    for seed in 0..32 {
        let report = simulate(&Scenario::of(seed));
        assert_whole(&report);
        assert!(report.coverage.values().sum::<u64>() >= 3);
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in 5..9 {
        let (first, second) = (simulate(&Scenario::of(seed)), simulate(&Scenario::of(seed)));
        assert!(first.requests > 50);
        assert_eq!(first, second);
    }
}

#[test]
fn at_rest_nothing_but_the_lease_is_written_for_a_day() {
    assert_whole(&simulate(&Scenario {
        rest_minutes: DAY,
        election: true,
        ..Scenario::of(3)
    }));
}

/// O4: the operator dies before and after every single write of a whole life.
#[test]
fn every_crash_point_converges() {
    let life = |crash_at| Scenario {
        crash_at,
        rest_minutes: 5,
        compare: false,
        ..Scenario::calm(2)
    };
    let calm = simulate(&life(None));
    assert_whole(&calm);
    let points = calm.writes * 2;
    assert!(points > 40, "only {points} crash points");
    for point in 0..points {
        let report = simulate(&life(Some(point)));
        assert!(
            report.broken.is_empty(),
            "crash point {point} of {points}: {:#?}",
            report.broken
        );
    }
}

#[test]
fn nobody_writes_while_another_leads() {
    let seeds = 200_u64.div_ceil(PARTITIONS as u64);
    for seed in 0..seeds {
        assert_whole(&elect(seed));
    }
}

#[test]
fn every_accepted_spec_leads_to_a_condition() {
    for seed in 0..12 {
        assert_whole(&fuzz::fuzz(seed));
    }
}

/// Every planted bug is found within a few seeds, and none is found where none is planted (the tests above).
#[test]
fn planted_bugs_are_found() {
    const { assert!(Bug::ALL.len() >= 12) };
    let missed = Bug::ALL.into_iter().filter(|bug| {
        let found = hunt(*bug, 0..60);
        match &found {
            Some((seed, broken)) => println!("{bug:?}: seed {seed}: {:?}", broken.first()),
            None => println!("{bug:?}: not found"),
        }
        found.is_none()
    });
    let missed: Vec<Bug> = missed.collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

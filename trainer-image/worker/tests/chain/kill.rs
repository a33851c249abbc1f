//! SIGKILL and SIGTERM at random moments end in the same digests as an undisturbed run.

use std::time::Duration;

use crate::run::{Chain, Made, Run, sources};
use crate::store::Store;

/// A small generator; the seed makes a failing round repeatable as far as the machine's timing allows.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// Kills the run until it gets through, now and then on another node; returns what it made and how often it died.
fn stubborn(chain: &Chain<'_>, run: &Run, random: &mut Random) -> (Made, u32) {
    let mut killed = 0;
    loop {
        let mut running = run.start(&[]);
        // Each attempt lives longer, so that the run ends.
        let patience = random.below(150 + 250 * u64::from(killed));
        std::thread::sleep(Duration::from_millis(patience));
        if running.child.try_wait().unwrap().is_none() {
            running.child.kill().unwrap();
        }
        let ended = running.wait();
        match ended.code {
            Some(0) => return (chain.made(run).unwrap(), killed),
            None => killed += 1,
            other => panic!("{other:?}: {}", ended.said()),
        }
        if random.below(2) == 0 {
            run.move_on();
        }
    }
}

#[test]
fn killed_at_random_moments_the_chain_ends_in_the_same_digests() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let calm = Chain::new(&store, root.path(), "calm");
    let docs = calm.finish(&calm.docs());
    let pairs = calm.finish(&calm.pairs());
    let base = calm.finish(&calm.base(&docs));
    let chat = calm.finish(&calm.chat(&base, &pairs));
    let eval = calm.finish(&calm.eval(&chat, &base, &docs, &pairs));
    let rounds: u64 = std::env::var("KILL_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(2);
    let mut deaths = 0;
    for round in 0..rounds {
        let mut random = Random(round + 1);
        let storm = Chain::new(&store, root.path(), &format!("storm{round}"));
        let mut through = |run: &Run, calm: &Made| {
            let (made, killed) = stubborn(&storm, run, &mut random);
            assert_eq!(
                made.digest, calm.digest,
                "round {round}: {} {}",
                run.kind, run.name
            );
            deaths += killed;
            made
        };
        let storm_docs = through(&storm.docs(), &docs);
        let storm_pairs = through(&storm.pairs(), &pairs);
        let storm_base = through(&storm.base(&storm_docs), &base);
        let storm_chat = through(&storm.chat(&storm_base, &storm_pairs), &chat);
        through(
            &storm.eval(&storm_chat, &storm_base, &storm_docs, &storm_pairs),
            &eval,
        );
    }
    assert!(
        deaths >= 3 * u32::try_from(rounds).unwrap(),
        "only {deaths} kills: the test shows nothing"
    );
}

#[test]
fn sigterm_keeps_a_checkpoint_and_another_node_continues_from_it() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let calm = Chain::new(&store, root.path(), "calm");
    let docs = calm.finish(&calm.docs());
    let base = calm.finish(&calm.base(&docs));
    let storm = Chain::new(&store, root.path(), "storm");
    let storm_docs = storm.finish(&storm.docs());
    let run = storm.base(&storm_docs);
    let mut running = run.start(&[]);
    assert!(running.until("\"trained\""), "{}", running.log());
    running.terminate();
    let ended = running.wait();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.said().starts_with("Interrupted"), "{}", ended.said());
    let kept = store.checkpoints("storm", run.kind, run.name, &run.key);
    assert!(!kept.is_empty(), "{}", ended.log);
    run.move_on();
    let ended = run.start(&[]).wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.log.contains("continuing from the store's checkpoint"),
        "{}",
        ended.log
    );
    assert_eq!(storm.made(&run).unwrap().digest, base.digest);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_by_name_and_only_damaged_ones_are_refused() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let chain = Chain::new(&store, root.path(), "team");
    let docs = chain.finish(&chain.docs());
    let run = chain.base(&docs);
    let made = chain.finish(&run);
    let again = || {
        // Forget the result, keep the checkpoints.
        std::fs::remove_file(
            store.path(&format!("team/ns/pretrainjob/base/runs/{}.json", run.key)),
        )
        .unwrap();
        run.move_on();
        run.start(&[]).wait()
    };
    let weights = |step: u64| {
        store.path(&format!(
            "team/ns/pretrainjob/base/checkpoints/{}/{step:010}/model.safetensors",
            run.key
        ))
    };
    let steps = store.checkpoints("team", run.kind, run.name, &run.key);
    assert_eq!(steps.len(), 2, "{steps:?}");
    crate::store::flip(&weights(steps[1]));
    let ended = again();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.log.contains("passed over") && ended.log.contains("model.safetensors"),
        "{}",
        ended.log
    );
    assert_eq!(chain.made(&run).unwrap().digest, made.digest);
    for step in store.checkpoints("team", run.kind, run.name, &run.key) {
        std::fs::write(weights(step), "junk").unwrap();
    }
    let ended = again();
    assert_eq!(ended.code, Some(66), "{ended:?}");
    assert!(
        ended.said().contains("model.safetensors"),
        "{}",
        ended.said()
    );
}

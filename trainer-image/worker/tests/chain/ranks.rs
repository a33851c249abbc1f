//! Two workers that train one model: one result, and after the loss of one the same result.

use std::net::TcpListener;

use serde_json::json;

use crate::run::{Chain, Ended, Made, Run, Running, sources};
use crate::store::Store;

/// The pods of a run; each has a node of its own.
fn start(run: &Run) -> Vec<Running> {
    // The first rank serves at its own address, which only starting it tells; a free port of the machine's stands in.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rendezvous = listener.local_addr().unwrap().to_string();
    drop(listener);
    (0..2)
        .map(|rank| {
            let own = Run {
                work: run.work.join(format!("rank{rank}/work")),
                ..run.clone()
            };
            own.start(&[
                ("JOB_COMPLETION_INDEX", &rank.to_string()),
                ("BESSEMER_RENDEZVOUS", &rendezvous),
                // Loopback: the first listens where the others look for it.
                ("POD_IP", "127.0.0.1"),
            ])
        })
        .collect()
}

fn finish(chain: &Chain<'_>, run: &Run) -> Made {
    for running in start(run) {
        let ended = running.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    chain.made(run).unwrap()
}

/// A run whose task is divided among two ranks, long enough to be hit in its middle.
fn divided(chain: &Chain<'_>, run: &Run) -> Run {
    let mut task = run.config["task"].clone();
    task["ranks"] = json!(2);
    task["steps"] = json!(120);
    let inputs = run.config["inputs"].as_array().unwrap().clone();
    chain.run(run.kind, run.name, inputs, task)
}

fn lost(ended: &Ended, rank: usize) {
    assert_eq!(ended.code, Some(75), "{ended:?}");
    let said = ended.said();
    assert!(said.starts_with("RankLost"), "{said}");
    assert!(
        said.contains(&format!("rank {rank} at 127.0.0.1")),
        "{said}"
    );
}

#[test]
fn two_ranks_make_one_result_whichever_is_killed_on_the_way() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let calm = Chain::new(&store, root.path(), "calm");
    let docs = calm.finish(&calm.docs());
    let pairs = calm.finish(&calm.pairs());
    let base = finish(&calm, &divided(&calm, &calm.base(&docs)));
    finish(&calm, &divided(&calm, &calm.chat(&base, &pairs)));
    for victim in 0..2 {
        let storm = Chain::new(&store, root.path(), &format!("storm{victim}"));
        let storm_docs = storm.finish(&storm.docs());
        let run = divided(&storm, &storm.base(&storm_docs));
        let mut all = start(&run);
        assert!(all[0].until("checkpoint committed"), "{}", all[0].log());
        all[victim].child.kill().unwrap();
        let survivor = all.remove(1 - victim).wait();
        lost(&survivor, victim);
        assert_eq!(all.remove(0).wait().code, None);
        assert!(storm.made(&run).is_none());
        // Elsewhere, where no disk holds a checkpoint.
        run.move_on();
        let made = finish(&storm, &run);
        assert_eq!(made.digest, base.digest);
    }
}

#[test]
fn a_rank_without_a_place_is_refused() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let chain = Chain::new(&store, root.path(), "place");
    let docs = chain.finish(&chain.docs());
    let run = divided(&chain, &chain.base(&docs));
    let ended = run.start(&[]).wait();
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(
        ended.said().contains("JOB_COMPLETION_INDEX"),
        "{}",
        ended.said()
    );
}

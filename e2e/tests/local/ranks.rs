//! Two workers train one model: the loss of one, and the same weights after one of them was killed.

use std::process::Stdio;
use std::time::Duration;

use crate::plane::Plane;
use crate::process::{Process, until};
use crate::source::Source;

/// Workers that train; a launcher that has not become the worker yet counts too.
fn ranks(plane: &Plane) -> Vec<Process> {
    let all = plane.processes().into_iter();
    all.filter(|process| process.does(&["train"])).collect()
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn two_workers_train_as_one_and_survive_the_loss_of_either() {
    let source = Source::with(include_str!("ranks.yaml"));
    let calm = Plane::started(&source);
    calm.apply();
    let digests = calm.digests();
    assert_eq!(digests.len(), 5, "{digests:?}");
    let status = |plane: &Plane, object: &str| plane.json(&["get", object])["status"].clone();
    let (one, two) = (status(&calm, "pj/one"), status(&calm, "pj/two"));
    // Another division of the same sums is another run.
    assert_ne!(one["runKey"], two["runKey"]);
    for loss in ["training", "validation"] {
        let of = |status: &serde_json::Value| status["losses"][loss].as_f64().unwrap();
        let difference = (of(&one) - of(&two)).abs() / of(&one);
        assert!(difference <= 2e-6, "{loss}: {one}\n{two}");
    }
    let jobs = calm.json(&["get", "jobs", "-l", "bessemer.dev/name=two"]);
    assert_eq!(
        jobs["items"][0]["status"]["completedIndexes"], "0,1",
        "{jobs}"
    );
    drop(calm);

    for victim in ["0", "1"] {
        let stormy = Plane::started(&source);
        let mut follower = stormy
            .command(&["apply", "-f", &stormy.manifests()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let saved = || {
            let status = status(&stormy, "pj/two");
            (status["lastCheckpoint"]["step"].as_u64() >= Some(40)).then_some(())
        };
        assert!(
            until(Duration::from_secs(120), saved).is_some(),
            "{}",
            stormy.log()
        );
        let killed = until(Duration::from_secs(10), || {
            ranks(&stormy).into_iter().find(|process| {
                let path = format!("/proc/{}/environ", process.pid);
                let environment = std::fs::read(path).unwrap_or_default();
                let environment = String::from_utf8_lossy(&environment).into_owned();
                let mut all = environment.split('\0');
                environment.contains("BESSEMER_RENDEZVOUS=")
                    && all.any(|one| one == format!("JOB_COMPLETION_INDEX={victim}"))
            })
        });
        killed.unwrap().kill();
        let _ = follower.kill();
        let _ = follower.wait();
        stormy.apply();
        assert_eq!(stormy.digests(), digests);
        assert_eq!(status(&stormy, "pj/two")["attempts"], 2);
        stormy.ok(&["down"]);
        let left = stormy.processes();
        assert!(left.is_empty(), "{left:?}");
    }
}

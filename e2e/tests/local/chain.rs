//! From one apply to a served model, and what stays of it.

use std::time::Duration;

use crate::client;
use crate::plane::{Plane, text};
use crate::process::until;
use crate::source::Source;

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_chain_is_served_stays_and_is_found_again() {
    let source = Source::new();
    let plane = Plane::started(&source);
    let started = std::time::Instant::now();
    plane.apply();
    println!("apply to served: {:.1} s", started.elapsed().as_secs_f64());
    let digests = plane.digests();
    assert_eq!(digests.len(), 6, "{digests:?}");
    assert!(
        digests.values().all(|digest| digest.len() == 64),
        "{digests:?}"
    );
    assert_eq!(digests["Deployment/chat"], digests["FineTune/tuned"]);

    let body = client::chat("chat", "Say number 7", 8, false);
    let answer = client::post(&plane.url("chat"), "/v1/chat/completions", &body).unwrap();
    assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
    assert_eq!(answer.digest(), digests["FineTune/tuned"]);

    let again = plane.apply();
    assert!(again.contains("Nothing to do"), "{again}");
    let lineage = plane.ok(&["lineage", "deployment/chat"]);
    // An evaluation is made from the model, not the model from it.
    for (name, digest) in digests
        .iter()
        .filter(|(name, _)| !name.starts_with("Evaluation"))
    {
        assert!(
            lineage.contains(&digest[..12]),
            "{name} {digest} is not in\n{lineage}"
        );
    }

    // The state is one control plane's at a time, and outlives it.
    let second = plane.run(&["up"]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second));
    assert!(text(&second).contains("already used"), "{}", text(&second));
    plane.ok(&["down"]);
    assert!(plane.processes().is_empty(), "{:?}", plane.processes());
    plane.ok(&["up"]);
    // The servers start again; Ready is not said of those that ended. The router may see a moment later than the operator
    // that they answer, and asks to try again until then (503 with retry-after).
    let ask = || client::post(&plane.url("chat"), "/v1/chat/completions", &body);
    let answered = || {
        until(Duration::from_secs(10), || {
            ask().ok().filter(|answer| answer.status == 200)
        })
    };
    let (ready, reason, _) = plane.ready("mdeploy/chat");
    assert!(ready != "True" || answered().is_some(), "{reason}");
    plane.apply();
    assert_eq!(plane.digests(), digests);
    let answer = answered().unwrap();
    assert_eq!(answer.digest(), digests["FineTune/tuned"]);

    // Artefacts outlive their objects: the same manifests find them, and nothing is trained again.
    plane.ok(&["delete", "-f", &plane.manifests()]);
    assert!(plane.digests().is_empty(), "{:?}", plane.digests());
    plane.apply();
    assert_eq!(plane.digests(), digests);
    for object in [
        "dset/docs",
        "dset/pairs",
        "pj/base",
        "ft/tuned",
        "eval/scores",
    ] {
        let (status, reason, message) = plane.ready(object);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("True", "Cached"),
            "{object}: {message}"
        );
    }
    let jobs = plane.json(&["get", "jobs"]);
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(0), "{jobs}");
}

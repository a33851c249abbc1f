//! A candidate's share of the traffic with a real router and real servers: canary steps, an abandoned canary, and a
//! server that cannot serve.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client;
use crate::plane::Plane;
use crate::process::until;
use crate::source::Source;

const HOLD: u64 = 8;
const SHARE: f64 = 0.3;

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_candidate_takes_its_share_and_stays_out_when_it_is_slow_or_broken() {
    let source = Source::with(include_str!("promotion.yaml"));
    let plane = Plane::started(&source);
    plane.apply();
    let digests = plane.digests();
    let (one, two) = (&digests["FineTune/one"], &digests["FineTune/two"]);
    let url = plane.url("chat");
    assert_eq!(answers(&url, 10), BTreeMap::from([(one.clone(), 10)]));

    // A step is held from its first answer on, and the shares are those of the spec.
    let steps = json!([{"percent": 30, "holdSeconds": HOLD}]);
    plane.change(
        "mdeploy/chat",
        &json!({"modelRef": {"name": "two"}, "rollout": {"steps": steps}}),
    );
    let seen = until(Duration::from_secs(60), || {
        answers(&url, 1).contains_key(two).then(Instant::now)
    });
    let seen = seen.unwrap_or_else(|| panic!("{}", plane.log()));
    let counted = answers(&url, 200);
    assert_eq!(plane.ready("mdeploy/chat").1, "RollingOut");
    assert!(
        seen.elapsed() < Duration::from_secs(HOLD),
        "too slow to judge"
    );
    let share = counted[two] as f64 / 200.0;
    assert!((share - SHARE).abs() < 0.05, "{counted:?}");
    traffic(&plane, two);
    let held = seen.elapsed();
    assert!(
        held > Duration::from_secs(HOLD - 2),
        "held for {held:?} only"
    );

    // A server that refuses its weights never gets a request. The one that has them already must be gone, or it serves on.
    plane.wait_for_reason("mdeploy/chat", "Serving");
    flip(&weights(&plane, "one"));
    plane.change(
        "mdeploy/chat",
        &json!({"modelRef": {"name": "one"}, "progressDeadlineSeconds": 20}),
    );
    let mut other = 0;
    let refused = until(Duration::from_secs(120), || {
        other += 20 - answers(&url, 20).get(two).copied().unwrap_or(0);
        (plane.ready("mdeploy/chat").1 == "CandidateUnhealthy").then_some(())
    });
    assert!(
        refused.is_some(),
        "{:?}\n{}",
        plane.ready("mdeploy/chat"),
        plane.log()
    );
    assert_eq!(other, 0, "answers of a model that was not promoted");
    traffic(&plane, two);
    flip(&weights(&plane, "one"));

    // No server answers within a millisecond: the canary is abandoned, and the model before serves all.
    let rollout = json!({
        "steps": [{"percent": 50, "holdSeconds": 600}],
        "abort": {"p99TimeToFirstTokenMs": 1, "minRequests": 20}
    });
    plane.change(
        "mdeploy/chat",
        &json!({"modelRef": {"name": "one"}, "rollout": rollout}),
    );
    let aborted = until(Duration::from_secs(90), || {
        answers(&url, 20);
        (plane.ready("mdeploy/chat").1 == "RolloutAborted").then_some(())
    });
    assert!(aborted.is_some(), "{:?}", plane.ready("mdeploy/chat"));
    traffic(&plane, two);
}

/// How many of `count` answers came from which model; every one must be whole.
fn answers(url: &str, count: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for number in 0..count {
        let body = client::chat("chat", &format!("Say number {number}"), 2, true);
        let answer = client::post(url, "/v1/chat/completions", &body).unwrap();
        assert!(answer.status == 200 && answer.whole, "{answer:?}");
        *found.entry(answer.digest().to_owned()).or_default() += 1;
    }
    found
}

/// Waits until one model has all of the traffic.
fn traffic(plane: &Plane, digest: &str) {
    let all = until(Duration::from_secs(60), || {
        plane.serves("chat", digest).then_some(())
    });
    assert!(all.is_some(), "{:?}", plane.ready("mdeploy/chat"));
    // The router reads its configuration every second.
    let alone = until(Duration::from_secs(10), || {
        let found = answers(&plane.url("chat"), 20);
        (found == BTreeMap::from([(digest.to_owned(), 20)])).then_some(())
    });
    assert!(alone.is_some(), "others than {digest} answer");
}

/// The weights of a FineTune in the store of the plane.
fn weights(plane: &Plane, name: &str) -> PathBuf {
    let uri = plane.json(&["get", "finetune", name])["status"]["artifact"]["uri"].clone();
    let key = uri.as_str().unwrap().strip_prefix("s3://").unwrap();
    plane
        .directory()
        .join("objects")
        .join(key)
        .join("model.safetensors")
}

fn flip(file: &std::path::Path) {
    let mut bytes =
        std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

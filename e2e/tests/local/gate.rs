//! The quickstart's gate means something: it keeps out what tuning has not made better.

use crate::client;
use crate::plane::Plane;
use crate::source::Source;

/// The expression in the quickstart's manifest.
fn quickstart_gate() -> String {
    let manifest = include_str!("../../../examples/quickstart/chain.yaml");
    let mut found = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expression: "));
    found.next().unwrap().to_owned()
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn the_gate_refuses_an_untrained_and_an_untuned_model_and_passes_the_tuned_one() {
    let source = Source::with(&include_str!("gate.yaml").replace("@GATE@", &quickstart_gate()));
    let plane = Plane::started(&source);
    plane.apply_only();
    plane.wait_for_reason("mdeploy/tuned", "Serving");
    for refused in ["untrained", "untuned"] {
        let object = format!("mdeploy/{refused}");
        let message = plane.wait_for_reason(&object, "GateFailed");
        assert!(message.contains("is false"), "{message}");
        let status = &plane.json(&["get", &object])["status"];
        assert_eq!(status["gates"][0]["verdict"], "Failed", "{status}");
        assert!(
            status["url"].is_null() && status["traffic"].is_null(),
            "{status}"
        );
        let servers = plane.json(&[
            "get",
            "deployments.apps",
            "-l",
            &format!("bessemer.dev/name={refused}"),
        ]);
        assert_eq!(
            servers["items"],
            serde_json::json!([]),
            "a refused model has servers"
        );
    }
    let passed = &plane.json(&["get", "mdeploy", "tuned"])["status"];
    assert_eq!(passed["gates"][0]["verdict"], "Passed", "{passed}");
    let body = client::chat("tuned", "Say number 7", 8, false);
    let answer = client::post(&plane.url("tuned"), "/v1/chat/completions", &body).unwrap();
    let tuned = &plane.json(&["get", "ft", "tuned"])["status"];
    assert_eq!(answer.digest(), tuned["artifact"]["digest"]);

    // Held-out answers, before and after: training and evaluation agree that tuning helped.
    let loss = |name: &str| tuned["losses"][name].as_f64().unwrap();
    assert!(loss("validation") < loss("initialValidation"), "{tuned}");
    let bits = |name: &str| {
        let results = plane.json(&["get", "eval", name])["status"]["results"].clone();
        let all = results.as_array().unwrap().clone();
        let found = all.iter().find(|result| result["metric"] == "bitsPerByte");
        found.unwrap()["value"].as_f64().unwrap()
    };
    let (untrained, untuned, tuned) = (bits("untrained"), bits("untuned"), bits("tuned"));
    println!(
        "bits per byte of held-out answers: {untrained:.3} untrained, {untuned:.3} untuned, {tuned:.3} tuned"
    );
    assert!(tuned < untuned && tuned < untrained);
}

//! Owns kstatus's rules (sigs.k8s.io/cli-utils, generic properties) as a check of every status that is written.

use bessemer_api::Kind as KindName;
use bessemer_core::Key;
use serde_json::Value;

/// What kstatus computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Terminating,
    InProgress,
    Failed,
    Current,
}

/// kstatus on any object: nothing but the object itself counts.
pub fn verdict(object: &Value) -> Verdict {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Verdict::Terminating;
    }
    let status = &object["status"];
    if let Some(observed) = status["observedGeneration"].as_i64()
        && Some(observed) != object["metadata"]["generation"].as_i64()
    {
        return Verdict::InProgress;
    }
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let is = |kind: &str, value: &str| {
        conditions
            .iter()
            .any(|c| c["type"] == kind && c["status"] == value)
    };
    if is("Reconciling", "True") {
        return Verdict::InProgress;
    }
    if is("Stalled", "True") {
        return Verdict::Failed;
    }
    if is("Ready", "False") || is("Ready", "Unknown") {
        return Verdict::InProgress;
    }
    Verdict::Current
}

/// What must hold of every status ever written.
pub fn check(key: &Key, object: &Value, old: &Value) {
    let status = &object["status"];
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let find = |kind: &str| conditions.iter().find(|c| c["type"] == kind);
    let is_true = |kind: &str| find(kind).is_some_and(|c| c["status"] == "True");
    let ready = find("Ready")
        .unwrap_or_else(|| panic!("{key}: Ready is always there, from the first write on"));
    for condition in &conditions {
        assert_eq!(
            condition["observedGeneration"],
            object["metadata"]["generation"]
                .as_i64()
                .unwrap()
                .min(condition["observedGeneration"].as_i64().unwrap()),
            "{key}: a condition of a later generation"
        );
        assert_eq!(
            condition["observedGeneration"], status["observedGeneration"],
            "{key}"
        );
        let reason = condition["reason"].as_str().unwrap();
        assert!(
            bessemer_core::reason::find(reason).is_some(),
            "{key}: {reason} is not in the closed list"
        );
        assert!(
            condition["status"] == "True" || condition["type"] == "Ready",
            "{key}: a False condition that counts as bad"
        );
        let before = old["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == condition["type"]);
        if let Some(before) = before.filter(|before| before["status"] == condition["status"]) {
            assert_eq!(
                before["lastTransitionTime"], condition["lastTransitionTime"],
                "{key}: a time moved without a change"
            );
        }
    }
    assert!(
        !(is_true("Reconciling") && is_true("Stalled")),
        "{key}: both at work and stuck"
    );
    assert_eq!(
        is_true("Failed"),
        is_true("Failed") && is_true("Stalled"),
        "{key}: Failed must come out as Failed"
    );
    assert!(!(is_true("Complete") && is_true("Failed")), "{key}");
    let seen = verdict(object);
    assert_eq!(ready["status"] == "True", is_true("Ready"));
    if seen == Verdict::Current {
        assert_eq!(ready["status"], "True", "{key}: Current without Ready");
        if key.kind == KindName::Deployment {
            assert!(
                status["revision"].is_string(),
                "{key}: Current without a revision: {status}"
            );
        } else {
            assert!(
                is_true("Complete") && status["artifact"]["digest"].is_string(),
                "{key}: Current without an artefact"
            );
        }
    }
    if is_true("Suspended") {
        assert_eq!(
            seen,
            Verdict::InProgress,
            "{key}: suspended is neither done nor failed"
        );
    }
    // Within a run the percentage never falls.
    let same_run = old["runKey"].is_string()
        && old["runKey"] == status["runKey"]
        && old["restartNonce"] == status["restartNonce"]
        && old["startTime"] == status["startTime"];
    if same_run {
        let percent = |s: &Value| s["progress"]["percent"].as_i64().unwrap_or(0);
        assert!(
            percent(old) <= percent(status),
            "{key}: percent fell from {} to {}",
            percent(old),
            percent(status)
        );
    }
    assert!(
        status["progress"]["summary"].is_string(),
        "{key}: no blank column"
    );
}

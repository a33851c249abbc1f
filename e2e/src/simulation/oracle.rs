//! Owns what must be true of a simulated cluster: the oracles O1 to O10 that look at its objects. It must not act.

use std::collections::BTreeMap;

use bessemer_api::Kind;
use bessemer_embedded::Api;
use serde_json::{Value, json};

use super::actor::CHILD_TABLES;
use super::object::Wishes;
use super::server::{table, text};

/// What kstatus says of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what its spec asks for.
    Current,
    /// It is on its way.
    InProgress,
    /// A person has to act.
    Failed,
    /// It is going away.
    Terminating,
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")
        .and_then(Value::as_array)?
        .iter()
        .find(|c| text(c, "/type") == kind)
}

fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| text(c, "/status") == "True")
}

/// kstatus, as kpt and Flux compute it.
#[must_use]
pub fn kstatus(object: &Value) -> Verdict {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    if !text(object, "/metadata/deletionTimestamp").is_empty() {
        return Verdict::Terminating;
    }
    if number("/status/observedGeneration") != number("/metadata/generation")
        || is_true(object, "Reconciling")
    {
        return Verdict::InProgress;
    }
    if is_true(object, "Stalled") {
        return Verdict::Failed;
    }
    match condition(object, "Ready") {
        Some(ready) if text(ready, "/status") == "True" => Verdict::Current,
        Some(_) => Verdict::InProgress,
        // The trap of kstatus: without any condition an object looks finished.
        None => Verdict::Current,
    }
}

/// Whether nothing will change any more without somebody doing something: settled, or waiting for an object that is
/// settled or missing.
fn at_rest(object: &Value) -> bool {
    let reason = condition(object, "Ready").map_or("", |c| text(c, "/reason"));
    match kstatus(object) {
        Verdict::Current | Verdict::Failed => true,
        Verdict::InProgress => {
            let waiting = [
                "DependencyMissing",
                "DependencyFailed",
                "DependencyNotReady",
                "DependencySuspended",
                "Suspended",
                "GatePending",
                "GateFailed",
            ];
            waiting.contains(&reason)
                && object.pointer("/status/observedGeneration")
                    == object.pointer("/metadata/generation")
        }
        Verdict::Terminating => false,
    }
}

/// The objects that are not at rest, in words.
#[must_use]
pub fn restless(api: &Api, wishes: &Wishes) -> Vec<String> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for object in api.objects(&table(kind)) {
            if !at_rest(&object) {
                found.push(describe(kind, &object));
            }
        }
    }
    for (kind, name) in wishes.keys() {
        if !api
            .objects(&table(*kind))
            .iter()
            .any(|o| text(o, "/metadata/name") == name)
        {
            found.push(format!("{kind} {name} does not exist"));
        }
    }
    found
}

fn describe(kind: Kind, object: &Value) -> String {
    let ready = condition(object, "Ready").cloned().unwrap_or_default();
    format!(
        "{kind} {}: {} ({})",
        text(object, "/metadata/name"),
        text(&ready, "/reason"),
        text(&ready, "/message")
    )
}

/// Objects whose status promises what is not there (0 wrong verdicts).
#[must_use]
pub fn lies(api: &Api) -> Vec<String> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for object in api.objects(&table(kind)) {
            let promised =
                kstatus(&object) == Verdict::Current && condition(&object, "Ready").is_some();
            let there = match kind {
                Kind::Deployment => object.pointer("/status/traffic/0").is_some(),
                _ => object.pointer("/status/artifact/digest").is_some(),
            };
            if promised && !there {
                found.push(format!(
                    "kstatus: {} is Current without a result",
                    describe(kind, &object)
                ));
            }
            if is_true(&object, "Reconciling") && is_true(&object, "Stalled") {
                found.push(format!(
                    "kstatus: {} is Reconciling and Stalled",
                    describe(kind, &object)
                ));
            }
        }
    }
    let mut active: BTreeMap<String, u32> = BTreeMap::new();
    for job in api.objects("jobs.batch") {
        let done = is_true(&job, "Complete") || is_true(&job, "Failed");
        let held = job.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true);
        if !done && !held && text(&job, "/metadata/deletionTimestamp").is_empty() {
            let owner = text(&job, "/metadata/ownerReferences/0/uid").to_owned();
            *active.entry(owner).or_default() += 1;
        }
    }
    found.extend(
        active
            .iter()
            .filter(|(_, n)| **n > 1)
            .map(|(owner, n)| format!("{n} active Jobs of {owner}")),
    );
    found
}

/// What is left of the history-free part of every object's status, for O2.
#[must_use]
pub fn face(api: &Api) -> BTreeMap<String, Value> {
    let mut faces = BTreeMap::new();
    for kind in Kind::ALL {
        for object in api.objects(&table(kind)) {
            let ready = condition(&object, "Ready").cloned().unwrap_or_default();
            // Cached and Complete say the same of the result; which one is history.
            let reason = match text(&ready, "/reason") {
                "Cached" => "Complete",
                other => other,
            };
            let traffic = object
                .pointer("/status/traffic")
                .and_then(Value::as_array)
                .map(|shares| {
                    shares
                        .iter()
                        .map(|share| json!([share.get("digest"), share.get("percent")]))
                        .collect::<Vec<_>>()
                });
            let face = json!({"ready": text(&ready, "/status"), "reason": reason,
                "digest": object.pointer("/status/artifact/digest"), "traffic": traffic});
            faces.insert(format!("{kind}/{}", text(&object, "/metadata/name")), face);
        }
    }
    faces
}

/// Whether history may show: a finished pretraining keeps its run when its inputs change (InputsChanged).
#[must_use]
pub fn has_history(api: &Api) -> bool {
    Kind::ALL
        .into_iter()
        .flat_map(|kind| api.objects(&table(kind)))
        .any(|object| is_true(&object, "InputsChanged"))
}

/// What is left after everything was deleted (O7).
#[must_use]
pub fn remains(api: &Api) -> Vec<String> {
    let ours = Kind::ALL.into_iter().map(table);
    let tables = ours.chain(CHILD_TABLES.iter().map(|t| (*t).to_owned()));
    tables
        .flat_map(|name| api.objects(&name))
        .filter(|object| text(object, "/metadata/name") != "kube-root-ca.crt")
        .map(|object| {
            format!(
                "{} {}",
                text(&object, "/kind"),
                text(&object, "/metadata/name")
            )
        })
        .collect()
}

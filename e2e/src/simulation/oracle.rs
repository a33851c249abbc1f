//! Owns what must be true of a simulated cluster: the oracles O1 to O10 that look at its objects. It must not act.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bessemer_api::Kind;
use bessemer_embedded::Api;
use serde_json::{Value, json};

use super::actor::CHILD_TABLES;
use super::object::{NAMESPACE, Wishes};
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
        // Whoever takes a name leaves it again: `Wire::squat`.
        Verdict::Failed => reason != "NameTaken",
        Verdict::Current => true,
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
    let mut missing: BTreeSet<_> = wishes.keys().cloned().collect();
    for kind in Kind::ALL {
        for object in api.objects(&table(kind)) {
            if !at_rest(&object) {
                found.push(describe(kind, &object));
            }
            missing.remove(&(kind, text(&object, "/metadata/name").to_owned()));
        }
    }
    found.extend(
        missing
            .iter()
            .map(|(kind, name)| format!("{kind} {name} does not exist")),
    );
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

/// Objects whose present spec has no condition.
#[must_use]
pub fn untold(api: &Api) -> Vec<String> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for object in api.objects(&table(kind)) {
            let generation = object.pointer("/metadata/generation");
            let ready = condition(&object, "Ready");
            if ready.is_none_or(|ready| ready.get("observedGeneration") != generation) {
                found.push(format!("{}: {object}", describe(kind, &object)));
            }
        }
    }
    found
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
        let owner = text(&job, "/metadata/ownerReferences/0/uid");
        // Whoever takes a Job's name owns nothing of ours: `Wire::squat`.
        let ours = !owner.is_empty() && text(&job, "/metadata/deletionTimestamp").is_empty();
        if ours && !done && !held {
            *active.entry(owner.to_owned()).or_default() += 1;
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
            // The last good result stays in sight while a later spec cannot be built.
            let digest = object
                .pointer("/status/artifact/digest")
                .filter(|_| text(&ready, "/status") == "True");
            let face = json!({"ready": text(&ready, "/status"), "reason": reason,
                "digest": digest, "traffic": traffic});
            faces.insert(format!("{kind}/{}", text(&object, "/metadata/name")), face);
        }
    }
    faces
}

/// Whether history may show: a finished pretraining keeps its run when its inputs change (InputsChanged), and while a
/// later spec cannot be built the last good result stays, for others to build on.
#[must_use]
pub fn has_history(api: &Api) -> bool {
    Kind::ALL
        .into_iter()
        .flat_map(|kind| api.objects(&table(kind)))
        .any(|object| {
            let kept = object.pointer("/status/artifact/digest").is_some();
            is_true(&object, "InputsChanged") || (kept && !is_true(&object, "Ready"))
        })
}

/// Directory of an object's artefacts, with a slash at the end.
#[must_use]
pub fn directory(kind: Kind, name: &str) -> String {
    format!("{NAMESPACE}/{}/{name}/", kind.name().to_lowercase())
}

/// Our objects with the directories of their artefacts.
fn placed(api: &Api) -> impl Iterator<Item = (String, Arc<Value>)> {
    Kind::ALL.into_iter().flat_map(|kind| {
        let objects = api.objects(&table(kind)).into_iter();
        objects.map(move |object| (directory(kind, text(&object, "/metadata/name")), object))
    })
}

/// Whether the object whose artefacts lie below `path` exists and is not being deleted.
#[must_use]
pub fn lives(api: &Api, path: &str) -> bool {
    placed(api)
        .any(|(at, object)| at == path && text(&object, "/metadata/deletionTimestamp").is_empty())
}

/// The object, other than that of `path`, that is not being deleted and whose status refers to `digest`, with the fields
/// that do. The verdicts of gates and conditions tell of what was judged, which may be gone.
#[must_use]
pub fn holder(api: &Api, path: &str, digest: &str) -> Option<String> {
    placed(api)
        .filter(|(at, object)| at != path && text(object, "/metadata/deletionTimestamp").is_empty())
        .find_map(|(at, object)| {
            let status = object.get("status")?.as_object()?;
            let fields: Vec<&str> = status
                .iter()
                .filter(|(field, _)| *field != "gates" && *field != "conditions")
                .filter(|(_, value)| value.to_string().contains(digest))
                .map(|(field, _)| field.as_str())
                .collect();
            (!fields.is_empty()).then(|| format!("{at} ({})", fields.join(", ")))
        })
}

/// Digests of the artefacts below `path`.
#[must_use]
pub fn artefacts(keys: &[String], path: &str) -> BTreeSet<String> {
    let names = keys.iter().filter_map(|key| key.strip_prefix(path));
    names
        .filter_map(|rest| rest.split('/').next())
        .filter(|word| word.len() == 64)
        .map(str::to_owned)
        .collect()
}

/// Our objects and their children.
fn everything(api: &Api) -> impl Iterator<Item = Arc<Value>> {
    let ours = Kind::ALL.into_iter().map(table);
    let tables = ours.chain(CHILD_TABLES.iter().map(|t| (*t).to_owned()));
    tables.flat_map(|name| api.objects(&name))
}

/// The newest version among our objects and their children, and how many there are: the lease does not count.
#[must_use]
pub fn last_change(api: &Api) -> (u64, usize) {
    let version = |object: Arc<Value>| text(&object, "/metadata/resourceVersion").parse().ok();
    let versions: Vec<u64> = everything(api).filter_map(version).collect();
    (versions.iter().copied().max().unwrap_or(0), versions.len())
}

/// What is left after everything was deleted (O7).
#[must_use]
pub fn remains(api: &Api) -> Vec<String> {
    everything(api)
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

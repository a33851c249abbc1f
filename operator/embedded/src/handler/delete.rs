//! Owns deletion: preconditions, propagation, grace and finalizers; must not collect dependents (a controller does).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::read::Selection;
use super::{Call, Core, List, Reply, present};
use crate::clock::stamp;
use crate::convert::to_storage;
use crate::decode::parse;
use crate::object;
use crate::registry::{Dependents, Resource};
use crate::status::{Cause, Failure};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What the request asks for.
#[derive(Debug, Default)]
struct Options {
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<String>,
    grace: Option<i64>,
}

impl Options {
    fn of(call: &Call) -> Result<Self, Failure> {
        let body = if call.body.is_empty() {
            Value::Null
        } else {
            parse(&call.body)?
        };
        let word = |key: &str| {
            body.get(key)
                .and_then(Value::as_str)
                .or_else(|| call.query.get(key))
                .map(str::to_owned)
        };
        let precondition = |key: &str| {
            object::at(&body, &["preconditions", key])
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let orphan = body
            .get("orphanDependents")
            .and_then(Value::as_bool)
            .or_else(|| call.query.get("orphanDependents").map(|v| v == "true"));
        let refuse = |cause: Cause| Failure::options("DeleteOptions", &cause);
        let propagation = match (word("propagationPolicy"), orphan) {
            (Some(policy), Some(_)) => {
                return Err(refuse(Cause::invalid(
                    "propagationPolicy",
                    &policy.into(),
                    "orphanDependents and deletionPropagation cannot be both set",
                )));
            }
            (None, Some(true)) => Some("Orphan".to_owned()),
            (None, Some(false)) => Some("Background".to_owned()),
            (propagation, None) => propagation,
        };
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground")
        {
            return Err(refuse(Cause::not_supported(
                "propagationPolicy",
                &policy.as_str().into(),
                &["Foreground", "Background", "Orphan", "nil"].map(str::to_owned),
            )));
        }
        Ok(Self {
            uid: precondition("uid"),
            version: precondition("resourceVersion"),
            propagation,
            grace: body
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .or_else(|| {
                    call.query
                        .get("gracePeriodSeconds")
                        .and_then(|g| g.parse().ok())
                }),
        })
    }
}

/// DELETE of one object.
pub(super) fn delete(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let options = Options::of(call)?;
    let resource = call.target.resource.clone();
    let stored = core.stored(call)?;
    let (object, gone) = one(core, call, &call.target.name, &stored, &options)?;
    if gone && !resource.returns_deleted {
        let mut details = crate::status::details(&resource, &call.target.name);
        object::set(
            &mut details,
            &["uid"],
            object::text(&object, &["metadata", "uid"]).into(),
        );
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
        return Ok(Reply::Object {
            code: 200,
            object: Arc::new(status),
        });
    }
    Ok(Reply::Object {
        code: 200,
        object: present(&resource, &object),
    })
}

/// DELETE of a collection.
pub(super) fn delete_collection(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let options = Options::of(call)?;
    let selection = Selection::of(call)?;
    let resource = call.target.resource.clone();
    let chosen: Vec<Arc<Value>> = core
        .state
        .list(&resource.table, &call.target.namespace)
        .filter(|o| selection.matches(&present(&resource, o)))
        .cloned()
        .collect();
    // The answer is the list as it was when the deletion began.
    let revision = core.state.revision();
    let mut items = Vec::new();
    for stored in chosen {
        let (object, gone) = one(core, call, object::name(&stored), &stored, &options)?;
        items.push(present(&resource, if gone { &stored } else { &object }));
    }
    Ok(Reply::List(List {
        items,
        revision,
        next: String::new(),
        remaining: None,
    }))
}

/// Deletes one object; returns its last state and whether it is gone.
fn one(
    core: &mut Core,
    call: &Call,
    name: &str,
    stored: &Arc<Value>,
    options: &Options,
) -> Result<(Arc<Value>, bool), Failure> {
    let resource = call.target.resource.clone();
    let uid = object::text(stored, &["metadata", "uid"]);
    let version = object::text(stored, &["metadata", "resourceVersion"]);
    if let Some(wanted) = options.uid.as_deref().filter(|w| *w != uid) {
        return Err(Failure::precondition(&resource, name, "UID", wanted, uid));
    }
    if let Some(wanted) = options.version.as_deref().filter(|w| *w != version) {
        return Err(Failure::precondition(
            &resource,
            name,
            "ResourceVersion",
            wanted,
            version,
        ));
    }
    let mut key = call.key_of(name);
    key.namespace = object::namespace(stored).to_owned();
    let mut value = (**stored).clone();
    let before = value.clone();
    let namespace_lives = resource.table == "namespaces"
        && !object::strings(&value, &["spec", "finalizers"]).is_empty();
    let finalizers = finalizers(&resource, &value, options.propagation.as_deref());
    if finalizers.is_empty() {
        object::metadata(&mut value).remove("finalizers");
    } else {
        object::metadata(&mut value).insert("finalizers".into(), finalizers.clone().into());
    }
    let grace = grace(&resource, &value, options.grace);
    let shorter = object::at(&value, &["metadata", "deletionGracePeriodSeconds"])
        .and_then(Value::as_i64)
        .is_none_or(|current| grace < current);
    if finalizers.is_empty() && grace == 0 && !namespace_lives {
        if call.dry_run() {
            return Ok((Arc::new(value), true));
        }
        if resource.table == crate::custom::TABLE {
            remove_instances(core, &value)?;
        }
        let gone = core.commit(&key, None)?;
        if resource.table != "pods" || object::terminating(&before) {
            return Ok((gone, true));
        }
        // A pod without grace is answered as the deletion left it, though nothing of that was kept.
        let mut shown = (*gone).clone();
        terminate(&mut shown, call.now, 0);
        return Ok((Arc::new(shown), true));
    }
    if shorter {
        terminate(&mut value, call.now, grace);
    }
    if namespace_lives {
        object::remove(&mut value, &["metadata", "deletionGracePeriodSeconds"]);
        object::set(&mut value, &["status", "phase"], "Terminating".into());
    }
    if value == before || call.dry_run() {
        return Ok((Arc::new(value), false));
    }
    Ok((
        core.commit(&key, Some(to_storage(value, &resource)))?,
        false,
    ))
}

/// Marks an object as being deleted, `grace` seconds from now.
fn terminate(value: &mut Value, now: Timestamp, grace: i64) {
    let end = now
        .saturating_add(SignedDuration::from_secs(grace))
        .unwrap_or(now);
    let begun = object::terminating(value);
    let generation = object::generation(value);
    let metadata = object::metadata(value);
    metadata.insert("deletionTimestamp".into(), stamp(end).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if !begun && generation > 0 {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// The finalizers after the propagation policy was worked in.
fn finalizers(resource: &Resource, value: &Value, propagation: Option<&str>) -> Vec<String> {
    let present: Vec<String> = object::strings(value, &["metadata", "finalizers"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    let has = |word: &str| present.iter().any(|f| f == word);
    let wanted = match propagation {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        None if has(ORPHAN) => Some(ORPHAN),
        None if has(FOREGROUND) => Some(FOREGROUND),
        None if resource.dependents == Dependents::Orphan => Some(ORPHAN),
        None => None,
    };
    if wanted.is_some_and(has) && !(has(ORPHAN) && has(FOREGROUND)) {
        return present;
    }
    let mut finalizers: Vec<String> = present
        .into_iter()
        .filter(|f| f != ORPHAN && f != FOREGROUND)
        .collect();
    finalizers.extend(wanted.map(str::to_owned));
    finalizers
}

/// Seconds until a pod may be taken away; all else goes at once.
fn grace(resource: &Resource, value: &Value, asked: Option<i64>) -> i64 {
    if resource.table != "pods" {
        return 0;
    }
    let unscheduled = object::text(value, &["spec", "nodeName"]).is_empty();
    let over = matches!(
        object::text(value, &["status", "phase"]),
        "Succeeded" | "Failed"
    );
    if unscheduled || over {
        return 0;
    }
    asked
        .or_else(|| {
            object::at(value, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64)
        })
        .unwrap_or(30)
        .max(0)
}

/// A definition takes its objects with it.
fn remove_instances(core: &mut Core, definition: &Value) -> Result<(), Failure> {
    let table = object::name(definition).to_owned();
    let objects: Vec<Arc<Value>> = core.state.list(&table, "").cloned().collect();
    for object in objects {
        let key = crate::storage::Key {
            table: table.clone(),
            namespace: object::namespace(&object).to_owned(),
            name: object::name(&object).to_owned(),
        };
        core.commit(&key, None)?;
    }
    Ok(())
}

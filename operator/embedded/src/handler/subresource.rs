//! Owns subresources: status, scale, finalize, token, binding, log, eviction; must not define what the main object allows.

use std::sync::Arc;

use serde_json::{Value, json};

use super::write::{self, Part};
use super::{Call, Core, Reply, patch, present, read};
use crate::apply;
use crate::clock::stamp;
use crate::decode::parse;
use crate::object;
use crate::registry::Scale;
use crate::request::Verb;
use crate::status::Failure;

/// Requests to `.../NAME/SUBRESOURCE`.
pub(super) fn handle(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let resource = call.target.resource.clone();
    match (
        call.target.subresource.as_str(),
        call.verb,
        resource.table.as_str(),
    ) {
        ("status", verb, _) if resource.status => part(core, call, verb, Part::Status),
        ("scale", verb, _) => match &resource.scale {
            Some(paths) => scale(core, call, verb, &paths.clone()),
            None => Err(Failure::no_such_path()),
        },
        ("finalize", Verb::Update, "namespaces") => finalize(core, call),
        ("token", Verb::Create, "serviceaccounts") => {
            let account = core.stored(call)?;
            Ok(Reply::Token {
                account,
                request: parse(&call.body)?,
            })
        }
        ("binding", Verb::Create, "pods") => bind(core, call),
        ("eviction", Verb::Create, "pods") => {
            let mut delete = call.clone();
            delete.target.subresource = String::new();
            delete.body = parse(&call.body)?
                .get("deleteOptions")
                .map(|o| o.to_string().into())
                .unwrap_or_default();
            super::delete::delete(core, &delete)?;
            Ok(Reply::Object {
                code: 201,
                object: Arc::new(
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                ),
            })
        }
        ("log", Verb::Get, "pods") => {
            core.stored(call)?;
            Ok(Reply::Log {
                namespace: call.target.namespace.clone(),
                pod: call.target.name.clone(),
            })
        }
        ("ephemeralcontainers" | "resize", verb, "pods") => part(core, call, verb, Part::Main),
        ("approval", ..) | ("log" | "token" | "binding" | "eviction" | "finalize", ..) => {
            Err(Failure::method_not_allowed())
        }
        _ => Err(Failure::no_such_path()),
    }
}

fn part(core: &mut Core, call: &Call, verb: Verb, part: Part) -> Result<Reply, Failure> {
    match verb {
        Verb::Get => read::get(core, call),
        Verb::Update => write::update(core, call, part),
        Verb::Patch => patch::patch(core, call, part),
        Verb::Create => Err(Failure::not_supported(&call.target.resource, "create")),
        _ => Err(Failure::not_supported(&call.target.resource, "delete")),
    }
}

/// Removes a namespace's own finalizers; the last one lets it go.
fn finalize(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let stored = core.stored(call)?;
    let body = parse(&call.body)?;
    let mut new = (*stored).clone();
    let rest = object::at(&body, &["spec", "finalizers"])
        .cloned()
        .unwrap_or(json!([]));
    if rest == json!([]) {
        object::set(&mut new, &["spec"], json!({}));
    } else {
        object::set(&mut new, &["spec", "finalizers"], rest);
    }
    let object = write::replace(
        core,
        call,
        Part::Named("finalize"),
        &stored,
        new,
        |_, _, _| Ok(()),
    )?;
    Ok(Reply::Object { code: 200, object })
}

/// Puts a pod on a node, as a scheduler does.
fn bind(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let stored = core.stored(call)?;
    let body = parse(&call.body)?;
    let node = object::text(&body, &["target", "name"]).to_owned();
    let bound = object::text(&stored, &["spec", "nodeName"]);
    if !bound.is_empty() {
        let why = format!(
            "pod {} is already assigned to node {bound:?}",
            call.target.name
        );
        return Err(Failure::conflict(
            &call.target.resource,
            &call.target.name,
            &why,
        ));
    }
    let mut new = (*stored).clone();
    object::set(&mut new, &["spec", "nodeName"], node.into());
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": stamp(call.now)});
    let mut conditions = object::at(&new, &["status", "conditions"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    conditions.retain(|c| object::text(c, &["type"]) != "PodScheduled");
    conditions.push(condition);
    object::set(&mut new, &["status", "conditions"], conditions.into());
    write::replace(
        core,
        call,
        Part::Named("binding"),
        &stored,
        new,
        |resource, old, new| {
            apply::record_update(
                resource,
                Some(old),
                new,
                &call.field_manager(),
                "binding",
                &stamp(call.now),
            );
            Ok(())
        },
    )?;
    Ok(Reply::Object {
        code: 201,
        object: Arc::new(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        ),
    })
}

fn value_at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    object::at(object, &path)
}

/// The autoscaling/v1 Scale of an object.
fn scale_of(object: &Value, paths: &Scale) -> Value {
    let count = |path: &[String]| {
        value_at(object, path)
            .and_then(Value::as_i64)
            .unwrap_or_default()
    };
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {},
        "spec": {}, "status": {"replicas": count(&paths.status)},
    });
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object::at(object, &["metadata", field]) {
            object::set(&mut scale, &["metadata", field], value.clone());
        }
    }
    let replicas = count(&paths.spec);
    if replicas != 0 {
        object::set(&mut scale, &["spec", "replicas"], replicas.into());
    }
    let selector = match &paths.selector {
        Some(path) => value_at(object, path)
            .and_then(Value::as_str)
            .map(str::to_owned),
        None => object::at(object, &["spec", "selector", "matchLabels"])
            .and_then(Value::as_object)
            .map(|labels| {
                let pairs: Vec<String> = labels
                    .iter()
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .collect();
                pairs.join(",")
            }),
    };
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        object::set(&mut scale, &["status", "selector"], selector.into());
    }
    scale
}

fn scale(core: &mut Core, call: &Call, verb: Verb, paths: &Scale) -> Result<Reply, Failure> {
    let resource = call.target.resource.clone();
    let stored = core.stored(call)?;
    let old = present(&resource, &stored);
    let current = scale_of(&old, paths);
    let wanted = match verb {
        Verb::Get => {
            return Ok(Reply::Object {
                code: 200,
                object: Arc::new(current),
            });
        }
        Verb::Update => parse(&call.body)?,
        Verb::Patch => {
            let change = parse(&call.body)?;
            match call.content_type.as_str() {
                "application/json-patch+json" => crate::patch::json::apply(&current, &change)?,
                _ => {
                    let mut patched = current;
                    crate::patch::merge::apply(&mut patched, &change);
                    patched
                }
            }
        }
        _ => return Err(Failure::method_not_allowed()),
    };
    let version = object::text(&wanted, &["metadata", "resourceVersion"]);
    if !version.is_empty() && version != object::text(&old, &["metadata", "resourceVersion"]) {
        return Err(Failure::modified(&resource, &call.target.name));
    }
    let replicas = object::at(&wanted, &["spec", "replicas"])
        .and_then(Value::as_i64)
        .unwrap_or_default();
    if replicas < 0 {
        let cause = crate::status::Cause::invalid(
            "spec.replicas",
            &replicas.into(),
            "must be greater than or equal to 0",
        );
        return Err(Failure::invalid(&resource, &call.target.name, &[cause]));
    }
    let mut new = (*old).clone();
    let path: Vec<&str> = paths.spec.iter().map(String::as_str).collect();
    object::set(&mut new, &path, replicas.into());
    let object = write::replace(
        core,
        call,
        Part::Named("scale"),
        &old,
        new,
        |resource, old, new| {
            apply::record_update(
                resource,
                Some(old),
                new,
                &call.field_manager(),
                "scale",
                &stamp(call.now),
            );
            Ok(())
        },
    )?;
    Ok(Reply::Object {
        code: 200,
        object: Arc::new(scale_of(&present(&resource, &object), paths)),
    })
}

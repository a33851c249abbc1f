//! Owns create and update: reading the body, admission, concurrency and the commit; must not know patches.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Core, Reply, present};
use crate::apply;
use crate::clock::stamp;
use crate::convert::to_storage;
use crate::decode::decode;
use crate::object;
use crate::registry::Resource;
use crate::status::{Cause, Failure};
use crate::storage::Key;
use crate::strategy;
use crate::validation;

/// Which part of an object a write may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but status, where status is a subresource.
    Main,
    /// Only status.
    Status,
    /// Everything, recorded under a subresource name that is no status (finalize, scale, token).
    Named(&'static str),
}

impl Part {
    /// The `subresource` of managedFields entries.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Named(name) => name,
        }
    }
}

/// POST to a collection.
pub(super) fn create(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let body = decode(call, &call.body, &mut core.warnings)?;
    let value = prepare_new(core, call, body)?;
    let object = insert(core, call, value, |resource, value| {
        apply::record_update(
            resource,
            None,
            value,
            &call.field_manager(),
            "",
            &stamp(call.now),
        );
    })?;
    Ok(Reply::Object {
        code: 201,
        object: present(&call.target.resource, &object),
    })
}

/// Checks and completes the metadata of an object that is about to be made.
pub(super) fn prepare_new(
    core: &mut Core,
    call: &Call,
    mut value: Value,
) -> Result<Value, Failure> {
    let resource = &call.target.resource;
    let given = object::namespace(&value);
    if resource.namespaced {
        if !given.is_empty() && given != call.target.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        object::metadata(&mut value)
            .insert("namespace".into(), call.target.namespace.clone().into());
    } else if !given.is_empty() {
        return Err(Failure::bad_request(
            "namespace should be empty for cluster-scoped resources",
        ));
    }
    if !matches!(
        object::text(&value, &["metadata", "resourceVersion"]),
        "" | "0"
    ) {
        return Err(Failure::plain(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if object::name(&value).is_empty() {
        let prefix = object::text(&value, &["metadata", "generateName"]).to_owned();
        if !prefix.is_empty() {
            // Names are at most 63 long: the prefix is cut to leave room for the suffix.
            let cut: String = prefix.chars().take(58).collect();
            let suffix = core.suffix();
            object::metadata(&mut value).insert("name".into(), format!("{cut}{suffix}").into());
        }
    }
    let uid = core.uid();
    let metadata = object::metadata(&mut value);
    for system in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        metadata.remove(system);
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), stamp(call.now).into());
    metadata.remove("generation");
    if resource.generation {
        metadata.insert("generation".into(), 1.into());
    }
    Ok(value)
}

/// Defaults, validates, records ownership and commits a new object.
pub(super) fn insert(
    core: &mut Core,
    call: &Call,
    mut value: Value,
    record: impl FnOnce(&Resource, &mut Value),
) -> Result<Arc<Value>, Failure> {
    let resource = call.target.resource.clone();
    strategy::default_new(&resource, &mut value);
    record(&resource, &mut value);
    strategy::create(core, &resource, &mut value, call.now)?;
    admit_namespace(core, call, object::name(&value))?;
    let name = object::name(&value).to_owned();
    let causes = validation::create(&resource, &value);
    if !causes.is_empty() {
        return Err(Failure::invalid(&resource, &name, &causes));
    }
    let key = call.key_of(&name);
    if core.state.get(&key).is_some() {
        return Err(Failure::already_exists(&resource, &name));
    }
    let value = to_storage(value, &resource);
    if call.dry_run() {
        return Ok(Arc::new(value));
    }
    core.commit(&key, Some(value))
}

/// New objects need a living namespace.
fn admit_namespace(core: &Core, call: &Call, name: &str) -> Result<(), Failure> {
    let resource = &call.target.resource;
    if !resource.namespaced {
        return Ok(());
    }
    let key = Key {
        table: "namespaces".into(),
        namespace: String::new(),
        name: call.target.namespace.clone(),
    };
    let namespaces = core.registry.find("", "v1", "namespaces");
    match (core.state.get(&key), namespaces) {
        (None, Some(namespaces)) => Err(Failure::not_found(&namespaces, &call.target.namespace)),
        (Some(namespace), _) if object::terminating(&namespace) => {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                call.target.namespace
            );
            let mut failure = Failure::forbidden(resource, name, &why);
            if let Some(details) = failure.details.as_mut() {
                object::map(details).insert(
                    "causes".into(),
                    json!([{
                        "reason": "NamespaceTerminating",
                        "message": format!("namespace {} is being terminated", call.target.namespace),
                        "field": "metadata.namespace",
                    }]),
                );
            }
            Err(failure)
        }
        _ => Ok(()),
    }
}

/// PUT of an object or of one of its parts.
pub(super) fn update(core: &mut Core, call: &Call, part: Part) -> Result<Reply, Failure> {
    let body = decode(call, &call.body, &mut core.warnings)?;
    let resource = call.target.resource.clone();
    let given = object::name(&body);
    if given != call.target.name {
        return Err(Failure::bad_request(if given.is_empty() {
            "name must be provided".to_owned()
        } else {
            format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                call.target.name
            )
        }));
    }
    let given = object::namespace(&body);
    if !given.is_empty() && given != call.target.namespace {
        return Err(Failure::bad_request(format!(
            "the namespace of the object ({given}) does not match the namespace on the URL ({})",
            call.target.namespace
        )));
    }
    if core.state.get(&call.key()).is_none()
        && part == Part::Main
        && strategy::creates_on_update(&resource)
    {
        let value = prepare_new(core, call, body)?;
        let object = insert(core, call, value, |resource, value| {
            apply::record_update(
                resource,
                None,
                value,
                &call.field_manager(),
                "",
                &stamp(call.now),
            );
        })?;
        return Ok(Reply::Object {
            code: 201,
            object: present(&resource, &object),
        });
    }
    let stored = core.stored(call)?;
    let old = present(&resource, &stored);
    let (given, living) = (
        object::text(&body, &["metadata", "uid"]),
        object::text(&old, &["metadata", "uid"]),
    );
    if !given.is_empty() && given != living {
        let place = if resource.custom {
            format!("{}/{}", resource.group, resource.plural)
        } else {
            resource.plural.clone()
        };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{place}/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {given}, UID in object meta: {living}",
            call.target.namespace, call.target.name
        );
        return Err(Failure::conflict(&resource, &call.target.name, &why));
    }
    let object = replace(core, call, part, &old, body, |resource, old, new| {
        apply::record_update(
            resource,
            Some(old),
            new,
            &call.field_manager(),
            part.subresource(),
            &stamp(call.now),
        );
        Ok(())
    })?;
    Ok(Reply::Object {
        code: 200,
        object: present(&resource, &object),
    })
}

/// Puts `new` in place of `old`: preconditions, protected fields, defaults, generation, validation,
/// ownership, then the commit. Nothing is written when nothing changed.
pub(crate) fn replace(
    core: &mut Core,
    call: &Call,
    part: Part,
    old: &Value,
    mut new: Value,
    record: impl FnOnce(&Resource, &Value, &mut Value) -> Result<(), Failure>,
) -> Result<Arc<Value>, Failure> {
    let resource = call.target.resource.clone();
    let name = call.target.name.as_str();
    let current = object::text(old, &["metadata", "resourceVersion"]);
    let asked = object::text(&new, &["metadata", "resourceVersion"]);
    let uid = object::text(&new, &["metadata", "uid"]);
    let living = object::text(old, &["metadata", "uid"]);
    if matches!(asked, "" | "0")
        && strategy::needs_version(&resource)
        && part != Part::Named("scale")
    {
        return Err(Failure::needs_version(&resource, name));
    }
    if !matches!(asked, "" | "0") && asked != current {
        return Err(Failure::modified(&resource, name));
    }
    if !uid.is_empty() && uid != living {
        let cause = Cause::invalid("metadata.uid", &uid.into(), "field is immutable");
        // Custom resources are checked by two validators, each of which says so.
        let causes = if resource.custom {
            vec![cause.clone(), cause]
        } else {
            vec![cause]
        };
        return Err(Failure::invalid(&resource, name, &causes));
    }
    protect(&resource, old, &mut new);
    strategy::update(core, &resource, part, old, &mut new)?;
    if resource.generation {
        let generation = object::generation(old)
            + i64::from(strategy::bumps_generation(&resource, part, old, &new));
        object::metadata(&mut new).insert("generation".into(), generation.into());
    }
    let causes = validation::update(&resource, part, old, &new);
    if !causes.is_empty() {
        return Err(Failure::invalid(&resource, name, &causes));
    }
    record(&resource, old, &mut new)?;
    object::metadata(&mut new).insert("resourceVersion".into(), current.into());
    apply::settle_times(old, &mut new);
    let key = call.key();
    if object::terminating(&new)
        && object::strings(&new, &["metadata", "finalizers"]).is_empty()
        && gone(&resource, &new)
    {
        if call.dry_run() {
            return Ok(Arc::new(to_storage(new, &resource)));
        }
        // The last finalizer went, and the object with it; the answer is the object as it was asked for.
        core.commit(&key, None)?;
        return Ok(Arc::new(to_storage(new, &resource)));
    }
    let stored_form = to_storage(new, &resource);
    if core.state.get(&key).is_some_and(|s| *s == stored_form) || call.dry_run() {
        return Ok(Arc::new(stored_form));
    }
    core.commit(&key, Some(stored_form))
}

/// Whether a terminating object without finalizers may go now: pods wait for their grace period,
/// namespaces for their own finalizers.
fn gone(resource: &Resource, value: &Value) -> bool {
    if resource.table == "namespaces" && !object::strings(value, &["spec", "finalizers"]).is_empty()
    {
        return false;
    }
    object::at(value, &["metadata", "deletionGracePeriodSeconds"])
        .and_then(Value::as_i64)
        .unwrap_or(0)
        == 0
}

/// Restores what a client may not change.
fn protect(resource: &Resource, old: &Value, new: &mut Value) {
    object::set(new, &["apiVersion"], resource.api_version().into());
    object::set(new, &["kind"], resource.kind.clone().into());
    let before = old.get("metadata").cloned().unwrap_or_default();
    let metadata = object::metadata(new);
    for field in [
        "name",
        "namespace",
        "generateName",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        match before.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

//! Owns PATCH: choosing the language, patching, and the create that an apply may become; must not merge fields itself.

use serde_json::{Value, json};

use super::write::{self, Part, prepare_new};
use super::{Call, Core, Reply, present};
use crate::apply::{self, Applier};
use crate::clock::stamp;
use crate::decode::{parse, tidy};
use crate::object;
use crate::patch::{json, merge, strategic};
use crate::schema::prune;
use crate::status::{Cause, Failure};

/// PATCH of an object or of one of its parts.
pub(super) fn patch(core: &mut Core, call: &Call, part: Part) -> Result<Reply, Failure> {
    match call.content_type.as_str() {
        "application/apply-patch+yaml" => server_side_apply(core, call, part),
        "application/json-patch+json"
        | "application/merge-patch+json"
        | "application/strategic-merge-patch+json" => client_side(core, call, part),
        _ => {
            let mut failure = Failure::unsupported_media_type("415: Unsupported Media Type");
            failure.details = Some(json!({}));
            Err(failure)
        }
    }
}

fn client_side(core: &mut Core, call: &Call, part: Part) -> Result<Reply, Failure> {
    let resource = call.target.resource.clone();
    let change = parse(&call.body).map_err(|failure| {
        if call.body.is_empty() {
            Failure::bad_request("invalid JSON patch")
        } else {
            failure
        }
    })?;
    if change.is_array() && call.content_type != "application/json-patch+json" {
        return Err(Failure::bad_request(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ));
    }
    let stored = core.stored(call)?;
    let old = present(&resource, &stored);
    let mut new = match call.content_type.as_str() {
        "application/json-patch+json" => json::apply(&old, &change)?,
        "application/merge-patch+json" => {
            let mut new = (*old).clone();
            merge::apply(&mut new, &change);
            new
        }
        _ if resource.custom => {
            return Err(Failure::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        _ => {
            let mut new = (*old).clone();
            strategic::apply(resource.schema.root(), &mut new, &change)?;
            new
        }
    };
    same_object(call, &new)?;
    let mut warnings = Vec::new();
    let result = new.clone();
    tidy(call, &resource, &mut new, &mut warnings).map_err(|failure| {
        // What cannot be read after patching is an error of the patch.
        let why = failure
            .message
            .split_once(": ")
            .map_or(failure.message.as_str(), |(_, why)| why);
        Failure::patch_result(&result, why)
    })?;
    if resource.custom {
        prune::nulls(resource.schema.root(), &mut new);
    }
    core.warnings.extend(warnings);
    let object = write::replace(core, call, part, &old, new, |resource, old, new| {
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

/// A patch must not turn the object into another one.
fn same_object(call: &Call, new: &Value) -> Result<(), Failure> {
    let name = object::name(new);
    if name != call.target.name {
        return Err(Failure::bad_request(if name.is_empty() {
            "name must be provided".to_owned()
        } else {
            format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.target.name
            )
        }));
    }
    let resource = &call.target.resource;
    let (version, kind) = (
        object::text(new, &["apiVersion"]),
        object::text(new, &["kind"]),
    );
    if version != resource.api_version() || kind != resource.kind {
        return Err(Failure::patch_result(
            new,
            &format!(
                "converting ({version}.{kind}) to ({}.{}): unknown conversion",
                resource.api_version(),
                resource.kind
            ),
        ));
    }
    Ok(())
}

fn server_side_apply(core: &mut Core, call: &Call, part: Part) -> Result<Reply, Failure> {
    let resource = call.target.resource.clone();
    let Some(manager) = call.query.get("fieldManager") else {
        return Err(Failure::options(
            "PatchOptions",
            &Cause::required("fieldManager", "is required for apply patch"),
        ));
    };
    let config = parse(&call.body).map_err(|failure| {
        Failure::bad_request(format!("error decoding YAML: {}", failure.message))
    })?;
    check_config(call, &config)?;
    let now = stamp(call.now);
    let applier = Applier {
        manager,
        subresource: part.subresource(),
        force: call.query.flag("force"),
        now: &now,
    };
    match core.state.get(&call.key()) {
        Some(stored) => {
            let old = present(&resource, &stored);
            let mut new = apply::apply(&resource, &old, &config, &applier)?;
            let owners = object::at(&new, &["metadata", "managedFields"]).cloned();
            if !resource.custom {
                // Removed fields leave empty containers, which Go's types do not keep.
                let mut dropped = Vec::new();
                tidy(call, &resource, &mut new, &mut dropped)?;
            }
            let object = write::replace(core, call, part, &old, new, |_, _, new| {
                match owners {
                    Some(owners) => object::metadata(new).insert("managedFields".into(), owners),
                    None => object::metadata(new).remove("managedFields"),
                };
                Ok(())
            })?;
            Ok(Reply::Object {
                code: 200,
                object: present(&resource, &object),
            })
        }
        None if part == Part::Main => {
            if !object::text(&config, &["metadata", "uid"]).is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    object::text(&config, &["metadata", "uid"])
                );
                return Err(Failure::conflict(&resource, &call.target.name, &why));
            }
            let empty = json!({"apiVersion": resource.api_version(), "kind": resource.kind});
            let mut made = apply::apply(&resource, &empty, &config, &applier)?;
            let owners = object::remove(&mut made, &["metadata", "managedFields"]);
            object::metadata(&mut made).insert("name".into(), call.target.name.clone().into());
            let made = prepare_new(core, call, made)?;
            let object = write::insert(core, call, made, |_, value| {
                if let Some(owners) = owners {
                    object::metadata(value).insert("managedFields".into(), owners);
                }
            })?;
            Ok(Reply::Object {
                code: 201,
                object: present(&resource, &object),
            })
        }
        None => Err(Failure::not_found(&resource, &call.target.name)),
    }
}

fn check_config(call: &Call, config: &Value) -> Result<(), Failure> {
    let resource = &call.target.resource;
    let (version, kind) = (
        object::text(config, &["apiVersion"]),
        object::text(config, &["kind"]),
    );
    if kind.is_empty() {
        return Err(Failure::bad_request(
            "Object 'Kind' is missing in the applied configuration",
        ));
    }
    if version != resource.api_version() || kind != resource.kind {
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        return Err(Failure::bad_request(format!(
            "invalid object type: {group}/{short}, Kind={kind}"
        )));
    }
    if object::at(config, &["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let name = object::name(config);
    if !name.is_empty() && name != call.target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.target.name
        )));
    }
    Ok(())
}

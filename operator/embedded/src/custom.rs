//! Owns CustomResourceDefinitions: their defaults, their establishment and the resources they serve; must not store objects.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock::stamp;
use crate::handler::Core;
use crate::object;
use crate::registry::{Column, Dependents, Registry, Resource, Scale, dotted, string};
use crate::schema::Schema;
use crate::storage::Key;

/// Table of the definitions.
pub const TABLE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Fills in what a definition may leave out.
pub fn defaults(value: &mut Value) {
    let Some(spec) = value.get_mut("spec").filter(|s| s.is_object()) else {
        return;
    };
    let kind = object::text(spec, &["names", "kind"]).to_owned();
    if object::text(spec, &["names", "singular"]).is_empty() {
        object::set(spec, &["names", "singular"], kind.to_lowercase().into());
    }
    if object::text(spec, &["names", "listKind"]).is_empty() {
        object::set(spec, &["names", "listKind"], format!("{kind}List").into());
    }
    if spec.get("conversion").is_none() {
        object::set(spec, &["conversion"], json!({"strategy": "None"}));
    }
}

/// Marks a new definition as accepted and established: with one server that is so at once.
pub fn establish(value: &mut Value, now: Timestamp) {
    let names = object::at(value, &["spec", "names"])
        .cloned()
        .unwrap_or_default();
    let stored: Vec<Value> = versions(value)
        .iter()
        .filter(|v| v.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|v| v.get("name").cloned())
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": stamp(now)});
    object::set(
        value,
        &["status"],
        json!({
            "acceptedNames": names,
            "storedVersions": stored,
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
        }),
    );
}

fn versions(definition: &Value) -> Vec<Value> {
    object::at(definition, &["spec", "versions"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

/// Brings the registry in line with the definition `name` after a commit.
pub fn follow(core: &mut Core, name: &str) {
    let key = Key {
        table: TABLE.to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    match core.state.get(&key) {
        Some(definition) => register(&mut core.registry, &definition),
        None => {
            if let Some((plural, group)) = name.split_once('.') {
                core.registry.remove(group, plural);
            }
        }
    }
}

/// Serves what a definition describes.
pub fn register(registry: &mut Registry, definition: &Value) {
    let resources = resources(definition);
    let (group, plural) = (
        object::text(definition, &["spec", "group"]),
        object::text(definition, &["spec", "names", "plural"]),
    );
    // A status-only change must not compile all schemas again.
    let unchanged = registry
        .iter()
        .filter(|r| r.custom && r.group == group && r.plural == plural)
        .map(|r| {
            (
                r.version.clone(),
                r.warning.clone(),
                r.columns.clone(),
                r.schema.value().clone(),
            )
        })
        .eq(resources.iter().map(|r| {
            (
                r.version.clone(),
                r.warning.clone(),
                r.columns.clone(),
                r.schema.value().clone(),
            )
        }));
    if unchanged {
        return;
    }
    registry.remove(group, plural);
    for resource in resources {
        registry.insert(resource);
    }
}

/// The served resources of a definition, one for each served version.
fn resources(definition: &Value) -> Vec<Resource> {
    let group = object::text(definition, &["spec", "group"]);
    let names = object::at(definition, &["spec", "names"])
        .cloned()
        .unwrap_or_default();
    let plural = string(&names, "plural");
    let storage = versions(definition)
        .iter()
        .find(|v| v.get("storage").and_then(Value::as_bool) == Some(true))
        .map(|v| string(v, "name"))
        .unwrap_or_default();
    let list = |key: &str| {
        object::strings(&names, &[key])
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    versions(definition)
        .iter()
        .filter(|v| v.get("served").and_then(Value::as_bool) == Some(true))
        .map(|version| {
            let name = string(version, "name");
            let openapi = object::at(version, &["schema", "openAPIV3Schema"])
                .cloned()
                .unwrap_or(json!({"type": "object"}));
            let scale = object::at(version, &["subresources", "scale"]).map(|scale| Scale {
                spec: dotted(&string(scale, "specReplicasPath")),
                status: dotted(&string(scale, "statusReplicasPath")),
                selector: scale
                    .get("labelSelectorPath")
                    .and_then(Value::as_str)
                    .map(dotted),
            });
            let deprecated = version.get("deprecated").and_then(Value::as_bool) == Some(true);
            let kind = string(&names, "kind");
            Resource {
                group: group.to_owned(),
                list_kind: string(&names, "listKind"),
                plural: plural.clone(),
                singular: string(&names, "singular"),
                short_names: list("shortNames"),
                categories: list("categories"),
                namespaced: object::text(definition, &["spec", "scope"]) == "Namespaced",
                status: object::at(version, &["subresources", "status"]).is_some(),
                scale,
                generation: true,
                review: false,
                custom: true,
                table: format!("{plural}.{group}"),
                storage_version: format!("{group}/{storage}"),
                schema: Arc::new(Schema::structural(&openapi)),
                columns: columns(version),
                selectable: object::at(version, &["selectableFields"])
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .map(|field| string(field, "jsonPath").trim_start_matches('.').to_owned())
                    .collect(),
                dependents: Dependents::Delete,
                returns_deleted: false,
                warning: deprecated.then(|| {
                    version
                        .get("deprecationWarning")
                        .and_then(Value::as_str)
                        .map_or_else(
                            || format!("{group}/{name} {kind} is deprecated"),
                            str::to_owned,
                        )
                }),
                version: name,
                kind,
            }
        })
        .collect()
}

fn columns(version: &Value) -> Vec<Column> {
    version
        .get("additionalPrinterColumns")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|column| Column {
            name: string(column, "name"),
            kind: string(column, "type"),
            format: string(column, "format"),
            description: match string(column, "description") {
                text if text.is_empty() => {
                    format!(
                        "Custom resource definition column (in JSONPath format): {}",
                        string(column, "jsonPath")
                    )
                }
                text => text,
            },
            priority: column
                .get("priority")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            json_path: string(column, "jsonPath"),
        })
        .collect()
}

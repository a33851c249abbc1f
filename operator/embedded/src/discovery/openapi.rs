//! Owns /openapi/v2 and /openapi/v3, from which kubectl explains kinds and learns what requests may say. Must not validate.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::object;
use crate::registry::{Registry, Resource, api_version};
use crate::schema::Definitions;

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// `/openapi/v3`: where each group version's document is.
#[must_use]
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let hash = hex::encode(Sha256::digest(
                document(registry, &group, &version).to_string(),
            ));
            paths.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            );
        }
    }
    json!({ "paths": paths })
}

/// Name of the schema of a resource's kind.
fn schema_name(resource: &Resource) -> String {
    let named = Definitions::kubernetes()
        .name_of(&resource.group, &resource.version, &resource.kind)
        .map(str::to_owned);
    named.unwrap_or_else(|| {
        let mut parts: Vec<&str> = resource.group.split('.').collect();
        parts.reverse();
        format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
    })
}

/// `/openapi/v3/apis/GROUP/VERSION`.
#[must_use]
pub fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let resources: Vec<&Resource> = registry
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .map(AsRef::as_ref)
        .collect();
    let mut paths = Map::new();
    for resource in &resources {
        paths.extend(operations(resource));
    }
    let title = json!({"title": "Kubernetes", "version": super::VERSION});
    json!({"openapi": "3.0.0", "info": title, "paths": paths, "components": {"schemas": schemas(&resources)}})
}

/// The schemas of the resources with all that they refer to.
fn schemas(resources: &[&Resource]) -> Map<String, Value> {
    let definitions = Definitions::kubernetes();
    let mut found = Map::new();
    let mut wanted: BTreeSet<String> =
        ["DeleteOptions", "ObjectMeta", "ListMeta", "Status", "Patch"]
            .iter()
            .map(|n| format!("{META}{n}"))
            .collect();
    for resource in resources {
        let name = schema_name(resource);
        if resource.custom {
            let kind = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
            let mut schema = resource.schema.value().clone();
            object::map(&mut schema).insert("x-kubernetes-group-version-kind".into(), kind);
            references(&schema, &mut wanted);
            found.insert(name, schema);
        } else {
            wanted.insert(name);
        }
    }
    while let Some(name) = wanted.pop_first() {
        if found.contains_key(&name) {
            continue;
        }
        if let Some(schema) = definitions.get(&name) {
            found.insert(name, schema.clone());
            references(schema, &mut wanted);
        }
    }
    found
}

fn references(node: &Value, found: &mut BTreeSet<String>) {
    match node {
        Value::Object(map) => {
            if let Some(name) = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| r.strip_prefix(PREFIX))
            {
                found.insert(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// The paths of a resource with the parameters that kubectl looks for.
fn operations(resource: &Resource) -> Map<String, Value> {
    let base = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}", api_version(&resource.group, &resource.version))
    };
    let collection = if resource.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let gvk = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let content = json!({"application/json": {"schema": {"$ref": format!("{PREFIX}{}", schema_name(resource))}}});
    let query = |name: &str, kind: &str| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}});
    let operation = |action: &str, parameters: Value, body: bool| {
        let mut operation = json!({
            "operationId": format!("{action}{}", resource.kind), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk, "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if body {
            object::set(
                &mut operation,
                &["requestBody"],
                json!({"content": content}),
            );
        }
        operation
    };
    let write = json!([
        query("dryRun", "string"),
        query("fieldManager", "string"),
        query("fieldValidation", "string")
    ]);
    let patch = json!([
        query("dryRun", "string"),
        query("fieldManager", "string"),
        query("fieldValidation", "string"),
        query("force", "boolean")
    ]);
    let list = json!([
        query("labelSelector", "string"),
        query("fieldSelector", "string"),
        query("limit", "integer"),
        query("continue", "string"),
        query("watch", "boolean"),
        query("resourceVersion", "string"),
    ]);
    let mut paths = Map::new();
    if resource.review {
        paths.insert(collection, json!({"post": operation("post", write, true)}));
        return paths;
    }
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", list, false), "post": operation("post", write.clone(), true)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", json!([]), false),
            "put": operation("put", write, true),
            "patch": operation("patch", patch, true),
            "delete": operation("delete", json!([query("dryRun", "string"), query("propagationPolicy", "string")]), false),
        }),
    );
    paths
}

/// `/openapi/v2`: the same schemas under the older names.
#[must_use]
pub fn swagger(registry: &Registry) -> Value {
    let resources: Vec<&Resource> = registry.iter().map(AsRef::as_ref).collect();
    let text = Value::Object(schemas(&resources))
        .to_string()
        .replace(PREFIX, "#/definitions/");
    let definitions: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut paths = Map::new();
    for resource in resources {
        for (path, item) in operations(resource) {
            // Version 2 keeps the parameters' types beside their names.
            let mut item = item;
            for operation in object::map(&mut item).values_mut() {
                let map = object::map(operation);
                map.remove("requestBody");
                map.insert("responses".into(), json!({"200": {"description": "OK"}}));
                for parameter in map
                    .get_mut("parameters")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(Value::Object(schema)) = object::map(parameter).remove("schema") {
                        object::map(parameter).extend(schema);
                    }
                }
            }
            paths.insert(path, item);
        }
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": super::VERSION}, "paths": paths, "definitions": definitions})
}

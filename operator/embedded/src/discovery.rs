//! Owns what clients learn about the server: groups, resources, versions, health, keys. Must not touch objects.

mod openapi;

use http::Response;
use serde_json::{Map, Value, json};

use crate::api::Body;
use crate::encode::{Form, json_response};
use crate::registry::{Registry, Resource};
use crate::status::Failure;
use crate::token::Issuer;

/// Version that the server claims.
pub const VERSION: &str = "v1.37.1";

/// Answers a path that is no resource.
///
/// # Errors
/// 404 for unknown paths.
pub fn serve(
    registry: &Registry,
    path: &[&str],
    form: &Form,
    issuer: Option<&Issuer>,
) -> Result<Response<Body>, Failure> {
    let value = match path {
        ["api"] => match form {
            Form::Discovery(version) => aggregated(registry, version, true),
            _ => {
                json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            }
        },
        ["apis"] => match form {
            Form::Discovery(version) => aggregated(registry, version, false),
            _ => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(registry)}),
        },
        ["apis", group] => groups(registry)
            .into_iter()
            .find(|g| g.get("name").and_then(Value::as_str) == Some(group))
            .map(|mut g| {
                let map = crate::object::map(&mut g);
                map.insert("kind".into(), "APIGroup".into());
                map.insert("apiVersion".into(), "v1".into());
                g
            })
            .ok_or_else(Failure::no_such_path)?,
        ["api", version] if registry.has_version("", version) => resources(registry, "", version),
        ["apis", group, version] if registry.has_version(group, version) => {
            resources(registry, group, version)
        }
        ["version"] => json!({
            "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "36", "gitVersion": format!("{VERSION}+bessemer"), "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
        }),
        ["healthz" | "livez" | "readyz", ..] => return Ok(Response::new(Body::whole("ok"))),
        ["openapi", "v3"] => openapi::index(registry),
        ["openapi", "v3", "api", version] if registry.has_version("", version) => {
            openapi::document(registry, "", version)
        }
        ["openapi", "v3", "apis", group, version] if registry.has_version(group, version) => {
            openapi::document(registry, group, version)
        }
        ["openapi", "v2"] => match form {
            Form::Other(media) => {
                return Err(Failure::not_acceptable(format!(
                    "only application/json is served here (got {media})"
                )));
            }
            _ => openapi::swagger(registry),
        },
        ["openid", "v1", "jwks"] => issuer.ok_or_else(Failure::no_such_path)?.keys(),
        [".well-known", "openid-configuration"] => {
            issuer.ok_or_else(Failure::no_such_path)?.configuration()
        }
        _ => return Err(Failure::no_such_path()),
    };
    let mut response = json_response(200, &value);
    if let (Form::Discovery(version), ["api" | "apis"]) = (form, path) {
        let kind =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        if let Ok(kind) = http::HeaderValue::from_str(&kind) {
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, kind);
        }
    }
    Ok(response)
}

fn groups(registry: &Registry) -> Vec<Value> {
    registry
        .groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| {
            let entries: Vec<Value> = versions
                .iter()
                .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
                .collect();
            json!({"name": group, "preferredVersion": entries.first(), "versions": entries})
        })
        .collect()
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    if resource.review || resource.plural == "bindings" {
        vec!["create"]
    } else {
        vec![
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
    }
}

/// Subresources: name, verbs, group, version and kind of what they take.
fn subresources(
    resource: &Resource,
) -> Vec<(&'static str, Vec<&'static str>, String, String, String)> {
    let own = || {
        (
            resource.group.clone(),
            resource.version.clone(),
            resource.kind.clone(),
        )
    };
    let mut list = Vec::new();
    let mut push =
        |name, verbs: &[&'static str], (group, version, kind): (String, String, String)| {
            list.push((name, verbs.to_vec(), group, version, kind));
        };
    let other = |group: &str, version: &str, kind: &str| {
        (group.to_owned(), version.to_owned(), kind.to_owned())
    };
    if resource.status {
        push("status", &["get", "patch", "update"], own());
    }
    if resource.scale.is_some() {
        push(
            "scale",
            &["get", "patch", "update"],
            other("autoscaling", "v1", "Scale"),
        );
    }
    match resource.table.as_str() {
        "pods" => {
            push("log", &["get"], own());
            push("binding", &["create"], other("", "v1", "Binding"));
            push("eviction", &["create"], other("policy", "v1", "Eviction"));
        }
        "namespaces" => push("finalize", &["update"], own()),
        "serviceaccounts" => push(
            "token",
            &["create"],
            other("authentication.k8s.io", "v1", "TokenRequest"),
        ),
        _ => {}
    }
    list
}

fn resources(registry: &Registry, group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for resource in registry
        .iter()
        .filter(|r| r.group == group && r.version == version)
    {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs(resource),
        });
        let map = crate::object::map(&mut entry);
        if !resource.short_names.is_empty() {
            map.insert("shortNames".into(), resource.short_names.clone().into());
        }
        if !resource.categories.is_empty() {
            map.insert("categories".into(), resource.categories.clone().into());
        }
        list.push(entry);
        for (name, verbs, sub_group, sub_version, kind) in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": verbs,
            });
            if (sub_group.as_str(), sub_version.as_str()) != (group, version) {
                let map = crate::object::map(&mut entry);
                map.insert("group".into(), sub_group.into());
                map.insert("version".into(), sub_version.into());
            }
            list.push(entry);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": crate::registry::api_version(group, version), "resources": list})
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated(registry: &Registry, form: &str, core: bool) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let found: Vec<Value> = registry
                        .iter()
                        .filter(|r| r.group == group && r.version == *version)
                        .map(|r| discovered(r))
                        .collect();
                    json!({"version": version, "freshness": "Current", "resources": found})
                })
                .collect();
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".into(), group.into());
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"), "metadata": {}, "items": items})
}

fn discovered(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    let map = crate::object::map(&mut entry);
    if !resource.short_names.is_empty() {
        map.insert("shortNames".into(), resource.short_names.clone().into());
    }
    if !resource.categories.is_empty() {
        map.insert("categories".into(), resource.categories.clone().into());
    }
    let subresources: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, verbs, group, version, of)| json!({"subresource": name, "responseKind": kind(&group, &version, &of), "verbs": verbs}))
        .collect();
    if !subresources.is_empty() {
        map.insert("subresources".into(), subresources.into());
    }
    entry
}

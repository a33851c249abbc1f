//! Owns the columns and cells of built-in kinds in tables; must not know custom resources.

use jiff::Timestamp;
use serde_json::Value;

use super::table::{age, column, duration};
use crate::object;
use crate::registry::{Column, Resource};

/// Columns as `name:type[:priority]`, comma-separated, between Name and Age.
fn spec(table: &str) -> &'static str {
    match table {
        "pods" => {
            "Ready:string,Status:string,Restarts:string,Age:string,IP:string:1,Node:string:1,Nominated Node:string:1,Readiness Gates:string:1"
        }
        "deployments.apps" => {
            "Ready:string,Up-to-date:string,Available:string,Age:string,Containers:string:1,Images:string:1,Selector:string:1"
        }
        "replicasets.apps" => {
            "Desired:integer,Current:integer,Ready:integer,Age:string,Containers:string:1,Images:string:1,Selector:string:1"
        }
        "jobs.batch" => {
            "Status:string,Completions:string,Duration:string,Age:string,Containers:string:1,Images:string:1,Selector:string:1"
        }
        "services" => {
            "Type:string,Cluster-IP:string,External-IP:string,Port(s):string,Age:string,Selector:string:1"
        }
        "configmaps" => "Data:string,Age:string",
        "secrets" => "Type:string,Data:string,Age:string",
        "namespaces" => "Status:string,Age:string",
        "nodes" => "Status:string,Roles:string,Age:string,Version:string,Internal-IP:string:1",
        "serviceaccounts" => "Age:string",
        "leases.coordination.k8s.io" => "Holder:string,Age:string",
        "endpoints" => "Endpoints:string,Age:string",
        "endpointslices.discovery.k8s.io" => {
            "AddressType:string,Ports:string,Endpoints:string,Age:string"
        }
        "customresourcedefinitions.apiextensions.k8s.io" => "Created At:date",
        "clusterroles.rbac.authorization.k8s.io" | "roles.rbac.authorization.k8s.io" => {
            "Created At:date"
        }
        "clusterrolebindings.rbac.authorization.k8s.io"
        | "rolebindings.rbac.authorization.k8s.io" => "Role:string,Age:string",
        _ => "Age:string",
    }
}

/// Columns of a built-in kind.
pub fn columns(resource: &Resource) -> Vec<Column> {
    if resource.table == "events" {
        return [
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Subobject", 1),
            ("Source", 1),
            ("Message", 0),
            ("First Seen", 1),
            ("Count", 1),
            ("Name", 1),
        ]
        .iter()
        .map(|(name, priority)| {
            column(
                name,
                if *name == "Count" {
                    "integer"
                } else {
                    "string"
                },
                *priority,
            )
        })
        .collect();
    }
    let mut columns = vec![column("Name", "string", 0)];
    for part in spec(&resource.table).split(',') {
        let mut words = part.split(':');
        let (name, kind) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or("string"),
        );
        columns.push(column(
            name,
            kind,
            words.next().and_then(|p| p.parse().ok()).unwrap_or(0),
        ));
    }
    columns
}

/// One row.
pub fn cells(resource: &Resource, value: &Value, now: Timestamp) -> Vec<Value> {
    if resource.table == "events" {
        return event(value, now);
    }
    let created = object::at(value, &["metadata", "creationTimestamp"]);
    columns(resource)
        .iter()
        .map(|column| match column.name.as_str() {
            "Name" => object::name(value).into(),
            "Age" => age(created, now),
            "Created At" => created.cloned().unwrap_or_default(),
            name => cell(&resource.table, name, value, now),
        })
        .collect()
}

fn integer(value: &Value, path: &[&str]) -> i64 {
    object::at(value, path)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

fn or_none(text: &str) -> Value {
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

fn pairs(value: Option<&Value>) -> Value {
    let list: Vec<String> = value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or_none(&list.join(","))
}

fn joined(value: &Value, path: &[&str], field: &str) -> Value {
    let list: Vec<&str> = object::at(value, path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| object::text(c, &[field]))
        .collect();
    list.join(",").into()
}

fn cell(table: &str, name: &str, value: &Value, now: Timestamp) -> Value {
    match (table, name) {
        ("pods", _) => pod(name, value, now),
        ("deployments.apps", "Ready") => format!(
            "{}/{}",
            integer(value, &["status", "readyReplicas"]),
            integer(value, &["spec", "replicas"])
        )
        .into(),
        ("deployments.apps", "Up-to-date") => integer(value, &["status", "updatedReplicas"]).into(),
        ("deployments.apps", "Available") => {
            integer(value, &["status", "availableReplicas"]).into()
        }
        ("replicasets.apps", "Desired") => integer(value, &["spec", "replicas"]).into(),
        ("replicasets.apps", "Current") => integer(value, &["status", "replicas"]).into(),
        ("replicasets.apps", "Ready") => integer(value, &["status", "readyReplicas"]).into(),
        ("deployments.apps" | "replicasets.apps" | "jobs.batch", "Containers") => {
            joined(value, &["spec", "template", "spec", "containers"], "name")
        }
        ("deployments.apps" | "replicasets.apps" | "jobs.batch", "Images") => {
            joined(value, &["spec", "template", "spec", "containers"], "image")
        }
        ("deployments.apps" | "replicasets.apps" | "jobs.batch", "Selector") => {
            pairs(object::at(value, &["spec", "selector", "matchLabels"]))
        }
        ("jobs.batch", _) => job(name, value, now),
        ("services", _) => service(name, value),
        ("configmaps" | "secrets", "Data") => {
            let count = |field: &str| {
                value
                    .get(field)
                    .and_then(Value::as_object)
                    .map_or(0, serde_json::Map::len)
            };
            (count("data") + count("binaryData")).into()
        }
        ("secrets", "Type") => object::text(value, &["type"]).into(),
        ("namespaces", "Status") => object::text(value, &["status", "phase"]).into(),
        ("nodes", "Status") => {
            let ready = object::at(value, &["status", "conditions"])
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|c| {
                    object::text(c, &["type"]) == "Ready" && object::text(c, &["status"]) == "True"
                });
            if ready { "Ready" } else { "NotReady" }.into()
        }
        ("nodes", "Version") => {
            object::text(value, &["status", "nodeInfo", "kubeletVersion"]).into()
        }
        ("nodes", "Internal-IP") => {
            let addresses = object::at(value, &["status", "addresses"]).and_then(Value::as_array);
            let internal = addresses
                .into_iter()
                .flatten()
                .find(|a| object::text(a, &["type"]) == "InternalIP");
            or_none(internal.map_or("", |a| object::text(a, &["address"])))
        }
        ("leases.coordination.k8s.io", "Holder") => {
            object::text(value, &["spec", "holderIdentity"]).into()
        }
        ("endpointslices.discovery.k8s.io", "AddressType") => {
            object::text(value, &["addressType"]).into()
        }
        ("endpointslices.discovery.k8s.io", "Ports") => joined_numbers(value.get("ports"), "port"),
        ("endpointslices.discovery.k8s.io", "Endpoints") => {
            let addresses: Vec<&str> = value
                .get("endpoints")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .flat_map(|e| object::strings(e, &["addresses"]))
                .collect();
            or_none(&addresses.join(","))
        }
        ("endpoints", "Endpoints") => {
            let subsets = value
                .get("subsets")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let list: Vec<String> = subsets
                .flat_map(|subset| {
                    let port = object::at(subset, &["ports"])
                        .and_then(|p| p.get(0))
                        .map(|p| integer(p, &["port"]))
                        .unwrap_or_default();
                    subset
                        .get("addresses")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .map(move |a| format!("{}:{port}", object::text(a, &["ip"])))
                        .collect::<Vec<_>>()
                })
                .collect();
            or_none(&list.join(","))
        }
        (_, "Role") => format!(
            "{}/{}",
            object::text(value, &["roleRef", "kind"]),
            object::text(value, &["roleRef", "name"])
        )
        .into(),
        _ => "<none>".into(),
    }
}

fn joined_numbers(list: Option<&Value>, field: &str) -> Value {
    let numbers: Vec<String> = list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|p| integer(p, &[field]).to_string())
        .collect();
    let text = numbers.join(",");
    if text.is_empty() {
        "<unset>".into()
    } else {
        text.into()
    }
}

fn pod(name: &str, value: &Value, now: Timestamp) -> Value {
    let containers = object::at(value, &["status", "containerStatuses"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    match name {
        "Ready" => {
            let ready = containers
                .iter()
                .filter(|c| c.get("ready") == Some(&Value::Bool(true)))
                .count();
            let total = object::at(value, &["spec", "containers"])
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            format!("{ready}/{total}").into()
        }
        "Status" => {
            let reason = object::text(value, &["status", "reason"]);
            let mut shown = if reason.is_empty() {
                object::text(value, &["status", "phase"])
            } else {
                reason
            }
            .to_owned();
            for container in &containers {
                let waiting = object::text(container, &["state", "waiting", "reason"]);
                let ended = object::at(container, &["state", "terminated"]);
                if !waiting.is_empty() {
                    shown = waiting.to_owned();
                } else if let Some(ended) = ended {
                    let reason = object::text(ended, &["reason"]);
                    shown = if reason.is_empty() {
                        format!("ExitCode:{}", integer(ended, &["exitCode"]))
                    } else {
                        reason.to_owned()
                    };
                }
            }
            if object::terminating(value) {
                shown = "Terminating".to_owned();
            }
            shown.into()
        }
        "Restarts" => {
            let count: i64 = containers
                .iter()
                .map(|c| integer(c, &["restartCount"]))
                .sum();
            let last = containers
                .iter()
                .map(|c| object::text(c, &["lastState", "terminated", "finishedAt"]))
                .max()
                .unwrap_or_default();
            match last.parse::<Timestamp>() {
                Ok(then) if count > 0 => format!(
                    "{count} ({} ago)",
                    duration(now.duration_since(then).as_secs())
                )
                .into(),
                _ => count.to_string().into(),
            }
        }
        "IP" => or_none(object::text(value, &["status", "podIP"])),
        "Node" => or_none(object::text(value, &["spec", "nodeName"])),
        _ => "<none>".into(),
    }
}

fn job(name: &str, value: &Value, now: Timestamp) -> Value {
    let condition = |kind: &str| {
        object::at(value, &["status", "conditions"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|c| object::text(c, &["type"]) == kind && object::text(c, &["status"]) == "True")
    };
    match name {
        "Status" => {
            let terminating = object::terminating(value);
            if condition("Complete") {
                "Complete"
            } else if condition("Failed") {
                "Failed"
            } else if terminating {
                "Terminating"
            } else if condition("Suspended") {
                "Suspended"
            } else if condition("FailureTarget") {
                "FailureTarget"
            } else if condition("SuccessCriteriaMet") {
                "SuccessCriteriaMet"
            } else {
                "Running"
            }
            .into()
        }
        "Completions" => {
            let succeeded = integer(value, &["status", "succeeded"]);
            match object::at(value, &["spec", "completions"]).and_then(Value::as_i64) {
                Some(completions) => format!("{succeeded}/{completions}").into(),
                None => format!(
                    "{succeeded}/1 of {}",
                    integer(value, &["spec", "parallelism"])
                )
                .into(),
            }
        }
        "Duration" => {
            let start = object::text(value, &["status", "startTime"]).parse::<Timestamp>();
            let end = object::text(value, &["status", "completionTime"])
                .parse::<Timestamp>()
                .unwrap_or(now);
            start.map_or_else(
                |_| "".into(),
                |start| duration(end.duration_since(start).as_secs()).into(),
            )
        }
        _ => "<none>".into(),
    }
}

fn service(name: &str, value: &Value) -> Value {
    match name {
        "Type" => object::text(value, &["spec", "type"]).into(),
        "Cluster-IP" => or_none(object::text(value, &["spec", "clusterIP"])),
        "External-IP" => or_none(object::text(value, &["spec", "externalName"])),
        "Port(s)" => {
            let list: Vec<String> = object::at(value, &["spec", "ports"])
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|p| {
                    format!(
                        "{}/{}",
                        integer(p, &["port"]),
                        object::text(p, &["protocol"])
                    )
                })
                .collect();
            or_none(&list.join(","))
        }
        "Selector" => pairs(object::at(value, &["spec", "selector"])),
        _ => "<none>".into(),
    }
}

/// Core and events.k8s.io events have one table.
fn event(value: &Value, now: Timestamp) -> Vec<Value> {
    let pick = |paths: &[&[&str]]| {
        paths
            .iter()
            .map(|p| object::text(value, p))
            .find(|t| !t.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let about = if value.get("involvedObject").is_some() {
        "involvedObject"
    } else {
        "regarding"
    };
    let last = pick(&[
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["deprecatedLastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ]);
    let first = pick(&[
        &["firstTimestamp"],
        &["deprecatedFirstTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ]);
    let source = pick(&[
        &["source", "component"],
        &["deprecatedSource", "component"],
        &["reportingComponent"],
        &["reportingController"],
    ]);
    let count = integer(value, &["count"])
        .max(integer(value, &["deprecatedCount"]))
        .max(integer(value, &["series", "count"]))
        .max(1);
    let subject = format!(
        "{}/{}",
        object::text(value, &[about, "kind"]).to_lowercase(),
        object::text(value, &[about, "name"])
    );
    vec![
        age(Some(&last.into()), now),
        object::text(value, &["type"]).into(),
        object::text(value, &["reason"]).into(),
        subject.into(),
        object::text(value, &[about, "fieldPath"]).into(),
        source.into(),
        pick(&[&["message"], &["note"]]).trim().to_owned().into(),
        age(Some(&first.into()), now),
        count.into(),
        object::name(value).into(),
    ]
}

//! Owns the rules of single built-in kinds that Bessemer's objects can break; must not repeat rules of all objects.

use serde_json::Value;

use crate::custom;
use crate::object;
use crate::registry::Resource;
use crate::schema::Schema;
use crate::status::Cause;

/// Field errors of a new built-in object.
pub fn create(resource: &Resource, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match resource.table.as_str() {
        "pods" => pod(
            value.get("spec").unwrap_or(&Value::Null),
            "spec",
            &mut causes,
        ),
        "deployments.apps" | "replicasets.apps" => workload(value, &mut causes),
        "jobs.batch" => job(value, &mut causes),
        "configmaps" | "secrets" => data(value, &mut causes),
        "services" => service(value, &mut causes),
        custom::TABLE => definition(value, &mut causes),
        _ => {}
    }
    causes
}

/// Field errors of a change of a built-in object.
pub fn update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = create(resource, new);
    let mut immutable = |path: &[&str], detail: &str| {
        if object::at(old, path) != object::at(new, path) {
            causes.push(Cause::invalid(
                path.join("."),
                object::at(new, path).unwrap_or(&Value::Null),
                detail,
            ));
        }
    };
    match resource.table.as_str() {
        "deployments.apps" | "replicasets.apps" => {
            immutable(&["spec", "selector"], "field is immutable")
        }
        "jobs.batch" => {
            let suspended = object::at(old, &["spec", "suspend"]).and_then(Value::as_bool)
                == Some(true)
                && object::text(old, &["status", "startTime"]).is_empty();
            // Kueue may place a Job that has not begun: only then does the template change.
            if !suspended {
                immutable(&["spec", "template"], "field is immutable");
            }
            immutable(&["spec", "selector"], "field is immutable");
            immutable(&["spec", "completionMode"], "field is immutable");
            immutable(&["spec", "podFailurePolicy"], "field is immutable");
        }
        "secrets" => immutable(&["type"], "field is immutable"),
        "pods" => pod_change(old, new, &mut causes),
        "services" => {
            let (before, after) = (
                object::text(old, &["spec", "clusterIP"]),
                object::text(new, &["spec", "clusterIP"]),
            );
            if !before.is_empty() && !after.is_empty() && before != after {
                causes.push(Cause::invalid(
                    "spec.clusterIPs[0]",
                    &after.into(),
                    "may not change once set",
                ));
            }
        }
        custom::TABLE => {
            for path in [["spec", "group"], ["spec", "scope"]] {
                immutable(&path, "field is immutable");
            }
            for field in ["kind", "plural"] {
                immutable(&["spec", "names", field], "field is immutable");
            }
        }
        _ => {}
    }
    if matches!(resource.table.as_str(), "configmaps" | "secrets")
        && old.get("immutable") == Some(&Value::Bool(true))
    {
        if new.get("immutable") != Some(&Value::Bool(true)) {
            causes.push(Cause::forbidden(
                "immutable",
                "field is immutable when `immutable` is set",
            ));
        }
        for field in ["data", "binaryData"] {
            if old.get(field) != new.get(field) {
                causes.push(Cause::forbidden(
                    field,
                    "field is immutable when `immutable` is set",
                ));
            }
        }
    }
    causes
}

/// Of a running pod's spec only images, deadlines, tolerations and gates may change.
fn pod_change(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let fixed = |pod: &Value| -> Value {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        let map = object::map(&mut spec);
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
            "schedulingGates",
            "nodeSelector",
        ] {
            map.remove(field);
        }
        for list in ["containers", "initContainers"] {
            for container in map
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                object::map(container).remove("image");
            }
        }
        spec
    };
    if fixed(old) != fixed(new) {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

fn pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = spec
        .get("containers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<&str> = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| object::text(v, &["name"]))
        .collect();
    let mut names = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let at = format!("{path}.containers[{index}]");
        let name = object::text(container, &["name"]);
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if names.contains(&name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
        }
        names.push(name);
        if object::text(container, &["image"]).is_empty() {
            causes.push(Cause::required(format!("{at}.image"), ""));
        }
        let mounts = container
            .get("volumeMounts")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for (mount, entry) in mounts.iter().enumerate() {
            let volume = object::text(entry, &["name"]);
            if !volumes.contains(&volume) {
                causes.push(Cause {
                    reason: "FieldValueNotFound",
                    message: format!("Not found: {volume:?}"),
                    field: format!("{at}.volumeMounts[{mount}].name"),
                });
            }
        }
    }
}

/// Deployments and ReplicaSets: the selector must be given and match the template.
fn workload(value: &Value, causes: &mut Vec<Cause>) {
    let selector = object::at(value, &["spec", "selector"]);
    let labels = object::at(value, &["spec", "template", "metadata", "labels"])
        .cloned()
        .unwrap_or_default();
    match selector {
        None => causes.push(Cause::required("spec.selector", "")),
        Some(selector) => {
            let wanted = selector
                .get("matchLabels")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            if wanted.is_empty() && selector.get("matchExpressions").is_none() {
                causes.push(Cause::invalid(
                    "spec.selector",
                    selector,
                    "empty selector is invalid for deployment",
                ));
            }
            if wanted
                .iter()
                .any(|(key, value)| labels.get(key) != Some(value))
            {
                causes.push(Cause::invalid(
                    "spec.template.metadata.labels",
                    &labels,
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
    pod(
        object::at(value, &["spec", "template", "spec"]).unwrap_or(&Value::Null),
        "spec.template.spec",
        causes,
    );
}

fn job(value: &Value, causes: &mut Vec<Cause>) {
    let spec = object::at(value, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    pod(spec, "spec.template.spec", causes);
    let policy = object::text(spec, &["restartPolicy"]);
    if !matches!(policy, "OnFailure" | "Never") {
        causes.push(if policy == "Always" || policy.is_empty() {
            Cause::required(
                "spec.template.spec.restartPolicy",
                "valid values: \"OnFailure\", \"Never\"",
            )
        } else {
            Cause::not_supported(
                "spec.template.spec.restartPolicy",
                &policy.into(),
                &["OnFailure".to_owned(), "Never".to_owned()],
            )
        });
    }
    let indexed = object::text(value, &["spec", "completionMode"]) == "Indexed";
    if indexed && object::at(value, &["spec", "completions"]).is_none() {
        causes.push(Cause::required(
            "spec.completions",
            "when completion mode is Indexed",
        ));
    }
}

fn data(value: &Value, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, item) in value
            .get(field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            size += item.as_str().map_or(0, str::len);
            let valid = !key.is_empty()
                && key.len() <= 253
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !valid {
                causes.push(Cause::invalid(
                    format!("{field}[{key}]"),
                    &key.as_str().into(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
        }
    }
    if size > 1024 * 1024 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 1048576 bytes".to_owned(),
            field: String::new(),
        });
    }
}

fn service(value: &Value, causes: &mut Vec<Cause>) {
    let external = object::text(value, &["spec", "type"]) == "ExternalName";
    let headless = object::text(value, &["spec", "clusterIP"]) == "None";
    let ports = object::at(value, &["spec", "ports"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if ports.is_empty() && !external && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        if ports.len() > 1 && object::text(port, &["name"]).is_empty() {
            causes.push(Cause::required(format!("spec.ports[{index}].name"), ""));
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        if !(1..=65_535).contains(&number) {
            causes.push(Cause::invalid(
                format!("spec.ports[{index}].port"),
                &number.into(),
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
}

/// A CustomResourceDefinition must be servable: names fit, one storage version, schemas that compile.
fn definition(value: &Value, causes: &mut Vec<Cause>) {
    let group = object::text(value, &["spec", "group"]);
    let plural = object::text(value, &["spec", "names", "plural"]);
    if object::name(value) != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &object::name(value).into(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let scope = object::at(value, &["spec", "scope"])
        .cloned()
        .unwrap_or_default();
    if !matches!(scope.as_str(), Some("Namespaced" | "Cluster")) {
        causes.push(Cause::not_supported(
            "spec.scope",
            &scope,
            &["Cluster".to_owned(), "Namespaced".to_owned()],
        ));
    }
    let versions = object::at(value, &["spec", "versions"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let storing = versions
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .count();
    if storing != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &Value::Array(versions.clone()),
            "must have exactly one version marked as storage version",
        ));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match object::at(version, &["schema", "openAPIV3Schema"]) {
            None => causes.push(Cause::required(path, "schemas are required")),
            Some(schema) => {
                if object::text(schema, &["type"]).is_empty() {
                    causes.push(Cause::required(
                        format!("{path}.type"),
                        "must not be empty at the root",
                    ));
                }
                let compiled = Schema::structural(schema);
                for error in compiled.rules.iter().flat_map(|rules| rules.errors()) {
                    causes.push(Cause::invalid(
                        &path,
                        &"".into(),
                        &format!("compilation failed: {error}"),
                    ));
                }
            }
        }
    }
}

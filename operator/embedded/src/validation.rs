//! Owns the rules that all objects and a few built-in kinds obey beyond their schema; must not change values.

use serde_json::Value;

use crate::handler::Part;
use crate::object;
use crate::pattern::matches;
use crate::registry::Resource;
use crate::schema;
use crate::status::Cause;

mod builtin;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn is_label(text: &str) -> bool {
    matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", text)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// Field errors of a new object.
#[must_use]
pub fn create(resource: &Resource, value: &Value) -> Vec<Cause> {
    let mut causes = metadata(resource, value);
    if resource.custom {
        causes.extend(custom(resource, Part::Main, value, None));
    } else {
        causes.extend(builtin::create(resource, value));
    }
    causes
}

/// Field errors of a change.
#[must_use]
pub fn update(resource: &Resource, part: Part, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = metadata(resource, new);
    causes.extend(added_finalizers(old, new));
    if resource.custom {
        causes.extend(custom(resource, part, new, Some(old)));
    } else if part == Part::Main {
        causes.extend(builtin::update(resource, old, new));
    }
    causes
}

/// Schema, then scale, then list keys, then CEL when the schema lets it run. A write to the status
/// subresource checks the status alone, and names its fields from there.
fn custom(resource: &Resource, part: Part, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let root = resource.schema.root();
    let (shape, keys) = match (part, root.property("status"), value.get("status")) {
        (Part::Status, Some(node), Some(status)) => {
            let below = |mut cause: Cause| {
                cause.field = format!("status.{}", cause.field)
                    .trim_end_matches('.')
                    .to_owned();
                cause
            };
            let shape: Vec<Cause> = schema::validate::check(node, status)
                .into_iter()
                .map(below)
                .collect();
            (
                shape,
                schema::validate::keys(node, status)
                    .into_iter()
                    .map(below)
                    .collect(),
            )
        }
        (Part::Status, ..) => (Vec::new(), Vec::new()),
        _ => (
            schema::validate::check(root, value),
            schema::validate::keys(root, value),
        ),
    };
    let mut causes = shape;
    causes.extend(scale(resource, value));
    let blocked = causes.iter().any(|cause| {
        matches!(
            cause.reason,
            "FieldValueRequired"
                | "FieldValueTooLong"
                | "FieldValueTooMany"
                | "FieldValueNotSupported"
                | "FieldValueTypeInvalid"
        )
    });
    let keys: Vec<Cause> = keys;
    causes.extend(keys);
    let Some(rules) = &resource.schema.rules else {
        return causes;
    };
    if blocked {
        causes.push(Cause {
            reason: "FieldValueInvalid",
            message: "Invalid value: null: some validation rules were not checked because the object was invalid; \
                      correct the existing errors to complete validation"
                .to_owned(),
            field: "<nil>".to_owned(),
        });
    } else {
        let mut found = rules.check(value, old);
        if part == Part::Status && !found.is_empty() {
            // Ratcheting: what the write leaves as it was may have been let in before the rule was.
            let known = old.map(|old| rules.check(old, Some(old)));
            found.retain(|cause| !known.iter().flatten().any(|known| known == cause));
        }
        causes.extend(found);
    }
    causes
}

/// The counts that the scale subresource reads must be whole and not negative.
fn scale(resource: &Resource, value: &Value) -> Vec<Cause> {
    let Some(paths) = &resource.scale else {
        return Vec::new();
    };
    let mut causes = Vec::new();
    for path in [&paths.spec, &paths.status] {
        let field = format!(".{}", path.join("."));
        let mut node = value;
        for (index, name) in path.iter().enumerate() {
            if node.is_null() {
                break;
            }
            if !node.is_object() {
                let wanted = "map[string]interface{}";
                causes.push(accessor(&field, node, wanted));
                break;
            }
            let Some(child) = node.get(name) else { break };
            node = child;
            if index + 1 == path.len() {
                match node.as_i64() {
                    Some(count) if count < 0 => {
                        causes.push(Cause::invalid(
                            &field,
                            node,
                            "should be a non-negative integer",
                        ));
                    }
                    Some(_) => {}
                    None => causes.push(accessor(&field, node, "int64")),
                }
            }
        }
    }
    causes
}

fn accessor(field: &str, value: &Value, wanted: &str) -> Cause {
    let kind = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Null => "<nil>",
    };
    let detail = format!(
        "{field} accessor error: {} is of the type {kind}, expected {wanted}",
        crate::patch::go::print(value)
    );
    Cause::invalid(field, &0.into(), &detail)
}

/// While an object is being deleted, finalizers may only go.
fn added_finalizers(old: &Value, new: &Value) -> Option<Cause> {
    if !object::terminating(old) {
        return None;
    }
    let before = object::strings(old, &["metadata", "finalizers"]);
    let added: Vec<String> = object::strings(new, &["metadata", "finalizers"])
        .into_iter()
        .filter(|f| !before.contains(f))
        .map(|f| format!("{f:?}"))
        .collect();
    (!added.is_empty()).then(|| {
        Cause::forbidden(
            "metadata.finalizers",
            &format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            ),
        )
    })
}

/// Rules of ObjectMeta.
fn metadata(resource: &Resource, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = object::name(value);
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        // RBAC names are path segments; names that become DNS labels are stricter.
        let detail = match resource.table.as_str() {
            table if table.ends_with("rbac.authorization.k8s.io") => None,
            "namespaces" => (!is_label(name)).then_some(LABEL),
            "services" => (!matches("^[a-z]([-a-z0-9]*[a-z0-9])?$", name)).then_some(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                 character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                 validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ),
            _ => (!is_subdomain(name)).then_some(SUBDOMAIN),
        };
        if let Some(detail) = detail {
            causes.push(Cause::invalid("metadata.name", &name.into(), detail));
        }
        let limit = if matches!(resource.table.as_str(), "namespaces" | "services") {
            63
        } else {
            253
        };
        if name.len() > limit {
            causes.push(Cause::invalid(
                "metadata.name",
                &name.into(),
                &format!("must be no more than {limit} characters"),
            ));
        }
    }
    let entries = |field: &str| -> Vec<(String, Value)> {
        object::at(value, &["metadata", field])
            .and_then(Value::as_object)
            .map(|map| map.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
            .unwrap_or_default()
    };
    for (key, label) in entries("labels") {
        qualified("metadata.labels", &key, &mut causes);
        let text = label.as_str().unwrap_or_default();
        if text.len() > 63 {
            causes.push(Cause::invalid(
                "metadata.labels",
                &label,
                "must be no more than 63 bytes",
            ));
        }
        if !matches("^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$", text) {
            causes.push(Cause::invalid("metadata.labels", &label, LABEL_VALUE));
        }
    }
    for (key, _) in entries("annotations") {
        qualified("metadata.annotations", &key.to_lowercase(), &mut causes);
    }
    let size: usize = entries("annotations")
        .iter()
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if size > 256 * 1024 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 262144 bytes".to_owned(),
            field: "metadata.annotations".to_owned(),
        });
    }
    for (index, finalizer) in object::strings(value, &["metadata", "finalizers"])
        .into_iter()
        .enumerate()
    {
        let known = matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes");
        if !known && !finalizer.contains('/') {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{index}]"),
                &finalizer.into(),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        } else if !known {
            qualified("metadata.finalizers", finalizer, &mut causes);
        }
    }
    owners(value, &mut causes);
    causes
}

fn qualified(field: &str, key: &str, causes: &mut Vec<Cause>) {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(p, n)| (Some(p), n));
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            causes.push(Cause::invalid(
                field,
                &key.into(),
                "prefix part must be non-empty",
            ));
        } else if !is_subdomain(prefix) {
            causes.push(Cause::invalid(
                field,
                &key.into(),
                &format!("prefix part {SUBDOMAIN}"),
            ));
        }
    }
    if name.is_empty() {
        causes.push(Cause::invalid(
            field,
            &key.into(),
            "name part must be non-empty",
        ));
    } else if name.len() > 63 {
        causes.push(Cause::invalid(
            field,
            &key.into(),
            "name part must be no more than 63 bytes",
        ));
    }
    if !matches("^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$", name) {
        causes.push(Cause::invalid(field, &key.into(), QUALIFIED));
    }
}

/// Owner references with the fields in the order in which kube-apiserver prints them.
fn ordered(owners: &[Value]) -> String {
    const ORDER: [&str; 6] = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ];
    let each = owners.iter().map(|owner| {
        let fields = ORDER
            .iter()
            .filter_map(|field| Some(format!("{field:?}:{}", owner.get(field)?)));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    });
    format!("[{}]", each.collect::<Vec<_>>().join(","))
}

fn owners(value: &Value, causes: &mut Vec<Cause>) {
    let owners = object::at(value, &["metadata", "ownerReferences"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &[field]).is_empty() {
                causes.push(Cause::required(
                    format!("metadata.ownerReferences[{index}].{field}"),
                    "must not be empty",
                ));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let shown = format!(
                "{}/{}",
                object::text(owner, &["kind"]),
                object::text(owner, &["name"])
            );
            match &controller {
                None => controller = Some(shown),
                Some(first) => causes.push(Cause::invalid_as(
                    "metadata.ownerReferences",
                    &ordered(&owners),
                    &format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {shown}"),
                )),
            }
        }
    }
}

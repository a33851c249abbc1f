//! Owns the removal of fields a schema does not know; must not judge values beyond their JSON type.

use serde_json::Value;

use super::Node;

/// Path of a field that the schema does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Prunes a custom resource as its structural schema says, its metadata as Go's decoder does.
///
/// # Errors
/// When a field of metadata has the wrong JSON type.
pub fn custom(root: Node<'_>, value: &mut Value) -> Result<Vec<Unknown>, Mismatch> {
    let mut unknown = Vec::new();
    if let (Some(node), Some(metadata)) = (root.property("metadata"), value.get_mut("metadata")) {
        typed(node, metadata, "metadata", &mut unknown).map_err(|mismatch| {
            let field = mismatch.field.trim_start_matches("metadata.");
            let top = field.split(['.', '[']).next().unwrap_or_default();
            Mismatch {
                field: format!("ObjectMeta.{top}"),
                ..mismatch
            }
        })?;
    }
    structural(root, value, "", true, &mut unknown);
    Ok(unknown)
}

/// Removes nulls of fields that are not nullable and have no default, as on every request.
pub fn nulls(node: Node<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, item| {
                let child = node.field(name);
                !(item.is_null()
                    && child.is_some_and(|c| !c.flag("nullable") && c.get("default").is_none()))
            });
            for (name, item) in map.iter_mut() {
                if let Some(child) = node.field(name) {
                    nulls(child, item);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                list.iter_mut().for_each(|item| nulls(items, item));
            }
        }
        _ => {}
    }
}

fn structural(
    node: Node<'_>,
    value: &mut Value,
    path: &str,
    top: bool,
    unknown: &mut Vec<Unknown>,
) {
    match value {
        Value::Object(map) => {
            let keep = node.flag("x-kubernetes-preserve-unknown-fields")
                || node.get("additionalProperties").and_then(Value::as_bool) == Some(true);
            let whole = top || node.embedded();
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                let below = join(path, &name);
                // The metadata of whole objects is Kubernetes' own and pruned by its own shape.
                if whole && matches!(name.as_str(), "apiVersion" | "kind")
                    || top && name == "metadata"
                {
                    continue;
                }
                if let Some(child) = node.field(&name) {
                    if let Some(item) = map.get_mut(&name) {
                        structural(child, item, &below, false, unknown);
                    }
                } else if !(keep || whole && name == "metadata") {
                    map.remove(&name);
                    unknown.push(Unknown(below));
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                for (index, item) in list.iter_mut().enumerate() {
                    structural(items, item, &format!("{path}[{index}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

/// A built-in field of the wrong JSON type, in the words of Go's decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")]
pub struct Mismatch {
    found: &'static str,
    field: String,
    wanted: String,
}

/// Reads a built-in object as Go's decoder would: unknown fields, nulls and empty optional
/// containers go.
///
/// # Errors
/// When a field has the wrong JSON type.
pub fn builtin(root: Node<'_>, value: &mut Value) -> Result<Vec<Unknown>, Mismatch> {
    let mut unknown = Vec::new();
    typed(root, value, "", &mut unknown)?;
    Ok(unknown)
}

fn typed(
    node: Node<'_>,
    value: &mut Value,
    path: &str,
    unknown: &mut Vec<Unknown>,
) -> Result<(), Mismatch> {
    check(node, value, path)?;
    match value {
        Value::Object(map) => {
            let Some(properties) = node.properties() else {
                if let Some(child) = node.additional() {
                    for (name, item) in map.iter_mut() {
                        typed(child, item, &join(path, name), unknown)?;
                    }
                }
                return Ok(());
            };
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                let below = join(path, &name);
                let Some(child) = properties
                    .contains_key(&name)
                    .then(|| node.property(&name))
                    .flatten()
                else {
                    map.remove(&name);
                    unknown.push(Unknown(below));
                    continue;
                };
                let Some(item) = map.get_mut(&name) else {
                    continue;
                };
                if item.is_null() {
                    map.remove(&name);
                    continue;
                }
                typed(child, item, &below, unknown)?;
                let empty = match item {
                    Value::Array(list) => list.is_empty(),
                    Value::Object(fields) => {
                        fields.is_empty()
                            && child.properties().is_none()
                            && child.additional().is_some()
                    }
                    Value::String(text) => text.is_empty(),
                    _ => false,
                };
                // Fields with a schema default of their own are written by Go even when empty.
                // An empty list of managed fields is an order to forget them.
                if empty && name != "managedFields" && child.get("default").is_none() {
                    map.remove(&name);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                for (index, item) in list.iter_mut().enumerate() {
                    typed(items, item, &format!("{path}[{index}]"), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn check(node: Node<'_>, value: &Value, path: &str) -> Result<(), Mismatch> {
    let fits = match node.kind() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    if fits || value.is_null() {
        return Ok(());
    }
    let found = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Array(_) => "array",
        _ => "object",
    };
    let wanted = match (node.kind(), node.get("format").and_then(Value::as_str)) {
        ("integer", Some(format)) => format.to_owned(),
        ("boolean", _) => "bool".to_owned(),
        (kind, _) => kind.to_owned(),
    };
    Err(Mismatch {
        found,
        field: path.to_owned(),
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::schema::Schema;
    use serde_json::json;

    #[test]
    fn custom_objects_keep_only_what_the_schema_names() {
        let schema = Schema::structural(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
                "any": {"type": "object", "additionalProperties": {"type": "string"}}}}}}));
        let mut value = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "bad": 1}, "top": 1,
            "spec": {"a": "x", "b": 1, "free": {"z": 1}, "list": [{"k": "1", "q": 2}], "any": {"m": "n"}}});
        let unknown: Vec<String> = custom(schema.root(), &mut value)
            .unwrap()
            .into_iter()
            .map(|u| u.0)
            .collect();
        assert_eq!(unknown, ["metadata.bad", "spec.b", "spec.list[0].q", "top"]);
        assert_eq!(
            value["spec"],
            json!({"a": "x", "free": {"z": 1}, "list": [{"k": "1"}], "any": {"m": "n"}})
        );
    }

    #[test]
    fn builtin_objects_are_read_as_go_reads_them() {
        let pods = Registry::builtin().find("", "v1", "pods").unwrap();
        let mut value = json!({"metadata": {"labels": {}, "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "", "bogus": 1}], "nodeSelector": {}}});
        let unknown = builtin(pods.schema.root(), &mut value).unwrap();
        assert_eq!(unknown, [Unknown("spec.containers[0].bogus".into())]);
        assert_eq!(
            value,
            json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}})
        );
        let mut wrong = json!({"spec": {"terminationGracePeriodSeconds": "1"}});
        let error = builtin(pods.schema.root(), &mut wrong).unwrap_err();
        assert!(
            error.to_string().contains("cannot unmarshal string"),
            "{error}"
        );
    }
}

//! Owns the filling in of schema defaults of custom resources; must not know built-in kinds.

use serde_json::Value;

use super::Node;

/// Fills in defaults below `value`, as the API server does: nulls of fields that are not nullable
/// count as absent when there is a default.
pub fn apply(node: Node<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = node.properties() {
                for name in properties.keys() {
                    // Standard metadata has no defaults of the user's.
                    let Some(child) = node.property(name) else {
                        continue;
                    };
                    let Some(default) = child
                        .get("default")
                        .filter(|_| !is_reference(properties, name))
                    else {
                        continue;
                    };
                    let absent = match map.get(name) {
                        None => true,
                        Some(Value::Null) => !child.flag("nullable"),
                        Some(_) => false,
                    };
                    if absent {
                        map.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, item) in map.iter_mut() {
                if node.properties().is_some_and(|p| is_reference(p, name)) {
                    continue;
                }
                if let Some(child) = node.field(name) {
                    apply(child, item);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                for item in list {
                    apply(items, item);
                }
            }
        }
        _ => {}
    }
}

/// References lead to built-in definitions, whose `default` markers describe Go's zero values.
fn is_reference(properties: &serde_json::Map<String, Value>, name: &str) -> bool {
    properties
        .get(name)
        .is_some_and(|s| s.get("$ref").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::json;

    #[test]
    fn defaults_nest_and_replace_null() {
        let schema = Schema::structural(
            &json!({"type": "object", "properties": {"spec": {"type": "object",
            "default": {}, "properties": {
                "a": {"type": "integer", "default": 3},
                "n": {"type": "string", "nullable": true, "default": "d"},
                "l": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "default": "v"}}}}}}}}),
        );
        let mut value = json!({"metadata": {"name": "x"}});
        apply(schema.root(), &mut value);
        assert_eq!(
            value,
            json!({"metadata": {"name": "x"}, "spec": {"a": 3, "n": "d"}})
        );
        let mut value = json!({"spec": {"a": null, "n": null, "l": [{}]}});
        apply(schema.root(), &mut value);
        assert_eq!(
            value,
            json!({"spec": {"a": 3, "n": null, "l": [{"k": "v"}]}})
        );
    }
}

//! Owns the check that an applied configuration fits its schema: known fields, types, keys. Must not merge.

use serde_json::Value;

use super::{element, fieldset};
use crate::schema::{Node, Shape};

/// Errors of `config`, each with its path.
pub fn check(root: Node<'_>, config: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    walk(root, config, "", &mut errors);
    errors
}

/// A value as Go prints it inside these errors.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!(
            "&value.valueUnstructured{{Value:{}}}",
            crate::patch::go::print(value)
        ),
        Value::String(text) => format!("&value.valueUnstructured{{Value:{text:?}}}"),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    }
}

fn walk(node: Node<'_>, value: &Value, path: &str, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let wanted = match node.kind() {
        "string" if !value.is_string() => "string",
        "boolean" if !value.is_boolean() => "boolean",
        "integer" | "number" if !value.is_number() => "numeric (int or float)",
        "object" if !value.is_object() => "map",
        "array" if !value.is_array() => "list",
        _ => "",
    };
    // Quantities and the like take strings and numbers.
    if !wanted.is_empty() && node.get("oneOf").is_none() {
        errors.push(format!("{path}: expected {wanted}, got {}", shown(value)));
        return;
    }
    match value {
        Value::Object(map) if node.shape() != Shape::Untyped => {
            for (name, item) in map {
                let below = format!("{path}.{name}");
                match node.field(name) {
                    Some(child) => walk(child, item, &below, errors),
                    None if node.preserves() => {}
                    None => errors.push(format!("{below}: field not declared in schema")),
                }
            }
        }
        Value::Array(list) => {
            let shape = node.shape();
            let keyed = matches!(shape, Shape::Set | Shape::MapList(_));
            let mut seen: Vec<String> = Vec::new();
            for (index, item) in list.iter().enumerate() {
                match element(Some(node), &shape, item) {
                    None if keyed => {
                        let keys = if let Shape::MapList(keys) = &shape {
                            keys.clone()
                        } else {
                            Vec::new()
                        };
                        errors.push(format!(
                            "{path}: element {index}: associative list with keys has an element that omits all key fields \
                             {keys:?} (and doesn't have default values for any key fields)"
                        ));
                    }
                    Some(step) if seen.contains(&step) => {
                        errors.push(format!(
                            "{path}: duplicate entries for key {}",
                            fieldset::path(&[step])
                        ));
                    }
                    Some(step) => {
                        if let Some(items) = node.items() {
                            walk(
                                items,
                                item,
                                &format!("{path}{}", fieldset::path(std::slice::from_ref(&step))),
                                errors,
                            );
                        }
                        seen.push(step);
                    }
                    None => {
                        if let Some(items) = node.items() {
                            walk(items, item, &format!("{path}[{index}]"), errors);
                        }
                    }
                }
            }
        }
        _ => {}
    }
}

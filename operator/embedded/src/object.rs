//! Owns reading and writing the common parts of an object held as JSON; must not know any kind.

use serde_json::{Map, Value};

/// The string at `path`, or "".
#[must_use]
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at `path`.
#[must_use]
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// metadata.name, or "".
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

/// metadata.namespace, or "".
#[must_use]
pub fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

/// The object as a map; anything else is first replaced by an empty map.
pub fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// metadata, made when absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    map(map(object).entry("metadata").or_insert(Value::Null))
}

/// Sets `path` to `value`, making maps on the way.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut node = object;
    for key in parents {
        node = map(node).entry(*key).or_insert(Value::Null);
    }
    map(node).insert((*last).to_owned(), value);
}

/// Removes what lies at `path`.
pub fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut node = object;
    for key in parents {
        node = node.get_mut(key)?;
    }
    node.as_object_mut()?.remove(*last)
}

/// The strings of the list at `path`.
#[must_use]
pub fn strings<'a>(object: &'a Value, path: &[&str]) -> Vec<&'a str> {
    at(object, path)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// metadata.generation, 0 when absent.
#[must_use]
pub fn generation(object: &Value) -> i64 {
    at(object, &["metadata", "generation"])
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// Whether deletion has begun.
#[must_use]
pub fn terminating(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
}

//! Owns JSON patch (RFC 6902); must not know schemas.

use serde_json::Value;

use crate::object;
use crate::status::Failure;

/// The one sentence that the API server has for every operation that does not apply.
fn refuse() -> Failure {
    let mut failure =
        Failure::unprocessable("the server rejected our request due to an error in our request");
    failure.details = Some(serde_json::json!({}));
    failure
}

/// Applies the operations in order.
///
/// # Errors
/// 400 for a malformed patch, 422 when a test fails or a path is missing.
pub fn apply(object: &Value, patch: &Value) -> Result<Value, Failure> {
    let operations = patch.as_array().ok_or_else(|| {
        Failure::bad_request("error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")
    })?;
    let mut result = object.clone();
    for operation in operations {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let path = text("path").ok_or_else(|| Failure::bad_request("operation without path"))?;
        let value = || {
            operation
                .get("value")
                .cloned()
                .ok_or_else(|| Failure::bad_request("operation without value"))
        };
        let from = || text("from").ok_or_else(|| Failure::bad_request("operation without from"));
        match text("op") {
            Some("add") => add(&mut result, path, value()?)?,
            Some("replace") => replace(&mut result, path, value()?)?,
            Some("remove") => drop(take(&mut result, path)?),
            Some("test") => {
                let expected = operation.get("value").cloned().unwrap_or_default();
                let actual = result.pointer(path).cloned().unwrap_or_default();
                if actual != expected {
                    return Err(refuse());
                }
            }
            Some("move") => {
                let moved = take(&mut result, from()?)?;
                add(&mut result, path, moved)?;
            }
            Some("copy") => {
                let copied = result.pointer(from()?).cloned().ok_or_else(refuse)?;
                add(&mut result, path, copied)?;
            }
            _ => return Err(refuse()),
        }
    }
    Ok(result)
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn find<'a>(object: &'a mut Value, path: &str) -> Result<&'a mut Value, Failure> {
    object.pointer_mut(path).ok_or_else(refuse)
}

/// Like the API server's library, a replace makes a missing member of an existing object.
fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    match split(path) {
        Some((parent, last)) if find(object, parent)?.is_object() => {
            object::map(find(object, parent)?).insert(last, value);
        }
        _ => *find(object, path)? = value,
    }
    Ok(())
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    let Some((parent, last)) = split(path) else {
        *object = value;
        return Ok(());
    };
    match find(object, parent)? {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) => {
            let index = if last == "-" {
                list.len()
            } else {
                last.parse().map_err(|_| refuse())?
            };
            if index > list.len() {
                return Err(refuse());
            }
            list.insert(index, value);
            Ok(())
        }
        _ => Err(refuse()),
    }
}

fn take(object: &mut Value, path: &str) -> Result<Value, Failure> {
    let (parent, last) = split(path).ok_or_else(refuse)?;
    match find(object, parent)? {
        Value::Object(map) => map.remove(&last).ok_or_else(refuse),
        Value::Array(list) => {
            let index = last
                .parse::<usize>()
                .ok()
                .filter(|i| *i < list.len())
                .ok_or_else(refuse)?;
            Ok(list.remove(index))
        }
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_follow_the_rfc() {
        let object = json!({"a": {"b": [1, 2]}, "x~/y": 1});
        let patched = apply(
            &object,
            &json!([
            {"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/1", "value": 9},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "remove", "path": "/x~0~1y"},
            {"op": "copy", "from": "/a/b/0", "path": "/c"},
            {"op": "move", "from": "/c", "path": "/d"},
            {"op": "replace", "path": "/a/b/0", "value": 0}]),
        )
        .unwrap();
        assert_eq!(patched, json!({"a": {"b": [0, 9, 2, 3]}, "d": 1}));
        for bad in [
            json!([{"op": "test", "path": "/a/b/0", "value": 5}]),
            json!([{"op": "remove", "path": "/nope"}]),
            json!([{"op": "add", "path": "/a/b/7", "value": 1}]),
            json!([{"op": "replace", "path": "/nope/deeper", "value": 1}]),
        ] {
            assert_eq!(apply(&object, &bad).unwrap_err().code, 422, "{bad}");
        }
    }
}

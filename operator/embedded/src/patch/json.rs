//! Owns JSON patch (RFC 6902); must not know schemas.

use serde_json::Value;

use crate::status::Failure;

fn refuse(message: impl std::fmt::Display) -> Failure {
    Failure::unprocessable(format!(
        "the server rejected our request due to an error in our request: {message}"
    ))
}

/// Applies the operations in order.
///
/// # Errors
/// 400 for a malformed patch, 422 when a test fails or a path is missing.
pub fn apply(object: &Value, patch: &Value) -> Result<Value, Failure> {
    let operations = patch.as_array().ok_or_else(|| {
        Failure::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
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
            Some("replace") => *find(&mut result, path, "replace")? = value()?,
            Some("remove") => drop(take(&mut result, path, "remove")?),
            Some("test") => {
                let expected = operation.get("value").cloned().unwrap_or_default();
                let actual = result.pointer(path).cloned().unwrap_or_default();
                if actual != expected {
                    return Err(refuse(format!("testing value {path} failed")));
                }
            }
            Some("move") => {
                let moved = take(&mut result, from()?, "move")?;
                add(&mut result, path, moved)?;
            }
            Some("copy") => {
                let copied = result
                    .pointer(from()?)
                    .cloned()
                    .ok_or_else(|| missing("copy", path))?;
                add(&mut result, path, copied)?;
            }
            other => {
                return Err(Failure::bad_request(format!(
                    "unexpected operation {other:?}"
                )));
            }
        }
    }
    Ok(result)
}

fn missing(operation: &str, path: &str) -> Failure {
    refuse(format!(
        "{operation} operation does not apply: doc is missing path: {path:?}: missing value"
    ))
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn find<'a>(object: &'a mut Value, path: &str, operation: &str) -> Result<&'a mut Value, Failure> {
    object
        .pointer_mut(path)
        .ok_or_else(|| missing(operation, path))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    let Some((parent, last)) = split(path) else {
        *object = value;
        return Ok(());
    };
    match find(object, parent, "add")? {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) => {
            let index = if last == "-" {
                list.len()
            } else {
                last.parse().map_err(|_| missing("add", path))?
            };
            if index > list.len() {
                return Err(refuse(format!(
                    "add operation does not apply: doc is missing path: {path:?}: invalid index referenced"
                )));
            }
            list.insert(index, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

fn take(object: &mut Value, path: &str, operation: &str) -> Result<Value, Failure> {
    let (parent, last) = split(path).ok_or_else(|| missing(operation, path))?;
    match find(object, parent, operation)? {
        Value::Object(map) => map.remove(&last).ok_or_else(|| missing(operation, path)),
        Value::Array(list) => {
            let index = last
                .parse::<usize>()
                .ok()
                .filter(|i| *i < list.len())
                .ok_or_else(|| missing(operation, path))?;
            Ok(list.remove(index))
        }
        _ => Err(missing(operation, path)),
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
            json!([{"op": "replace", "path": "/nope", "value": 1}]),
        ] {
            assert_eq!(apply(&object, &bad).unwrap_err().code, 422, "{bad}");
        }
    }
}

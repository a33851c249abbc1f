//! Owns JSON merge patch (RFC 7386); must not know schemas.

use serde_json::{Map, Value};

/// Applies a merge patch: null removes, maps merge, all else replaces.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let map = crate::object::map(target);
    for (name, change) in changes {
        if change.is_null() {
            map.remove(name);
        } else {
            apply(map.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_removes_and_maps_merge() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        apply(
            &mut object,
            &json!({"a": {"b": null, "d": {"e": null}}, "l": [2, 3], "n": null}),
        );
        assert_eq!(object, json!({"a": {"c": 2, "d": {}}, "l": [2, 3]}));
    }
}

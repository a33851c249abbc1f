//! Owns strategic merge patch of built-in kinds: lists merge by the schema's patch keys; must not know storage.

use serde_json::{Map, Value};

use crate::schema::Node;
use crate::status::Failure;

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";
const RETAIN: &str = "$retainKeys";

/// Applies a strategic merge patch.
///
/// # Errors
/// 400 for unknown directives or items without their merge key.
pub fn apply(node: Node<'_>, target: &mut Value, patch: &Value) -> Result<(), Failure> {
    maps(Some(node), target, patch)
}

fn maps(node: Option<Node<'_>>, target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = changes.clone();
            whole.remove("$patch");
            *target = Value::Object(whole);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(Failure::bad_request(format!(
                "invalid value for $patch: {other}"
            )));
        }
    }
    let map = crate::object::map(target);
    if let Some(Value::Array(keys)) = changes.get(RETAIN) {
        map.retain(|name, _| keys.iter().any(|k| k == name));
    }
    for (directive, values) in changes {
        if let Some(field) = directive.strip_prefix(DELETE)
            && let (Some(Value::Array(list)), Some(gone)) = (map.get_mut(field), values.as_array())
        {
            list.retain(|item| !gone.contains(item));
        }
    }
    for (name, change) in changes.iter().filter(|(name, _)| !name.starts_with('$')) {
        if change.is_null() {
            map.remove(name);
            continue;
        }
        let child = node.and_then(|n| n.field(name));
        let merges = child
            .and_then(|c| c.get("x-kubernetes-patch-strategy"))
            .and_then(Value::as_str)
            .is_some_and(|s| s.split(',').any(|word| word == "merge"));
        let entry = map.entry(name.clone()).or_insert(Value::Null);
        match (change, merges) {
            (Value::Array(items), true) => {
                let before = entry.as_array().cloned().unwrap_or_default();
                lists(child, entry, items)?;
                let order = changes
                    .get(&format!("{ORDER}{name}"))
                    .and_then(Value::as_array)
                    .unwrap_or(items);
                let key = child
                    .and_then(|c| c.get("x-kubernetes-patch-merge-key"))
                    .and_then(Value::as_str);
                if let Value::Array(list) = entry {
                    sort(list, &before, order, key);
                }
            }
            (Value::Object(_), _) => maps(child, entry, change)?,
            _ => *entry = change.clone(),
        }
    }
    Ok(())
}

/// Merges list items: by merge key for maps, as a set for scalars.
fn lists(node: Option<Node<'_>>, target: &mut Value, changes: &[Value]) -> Result<(), Failure> {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(list) = target else {
        return Ok(());
    };
    let key = node
        .and_then(|n| n.get("x-kubernetes-patch-merge-key"))
        .and_then(Value::as_str);
    if changes
        .iter()
        .any(|c| c.get("$patch").and_then(Value::as_str) == Some("replace"))
    {
        *list = changes
            .iter()
            .filter(|c| c.get("$patch").is_none())
            .cloned()
            .collect();
        return Ok(());
    }
    for change in changes {
        let Some(key) = key.filter(|_| change.is_object()) else {
            if !list.contains(change) {
                list.push(change.clone());
            }
            continue;
        };
        let id = change.get(key).ok_or_else(|| {
            Failure::plain(format!(
                "map: {} does not contain declared merge key: {key}",
                super::go::print(change)
            ))
        })?;
        if change.get("$patch").and_then(Value::as_str) == Some("delete") {
            list.retain(|item| item.get(key) != Some(id));
            continue;
        }
        match list.iter_mut().find(|item| item.get(key) == Some(id)) {
            Some(item) => maps(node.and_then(|n| n.items()), item, change)?,
            None => {
                let mut fresh = Value::Object(Map::new());
                maps(node.and_then(|n| n.items()), &mut fresh, change)?;
                list.push(fresh);
            }
        }
    }
    Ok(())
}

/// Puts the items named in `order` into its order and the others, which keep theirs, between them:
/// an item of the server stays before one of the patch only if it was before it on the server.
fn sort(list: &mut Vec<Value>, before: &[Value], order: &[Value], key: Option<&str>) {
    let id = |item: &Value| {
        key.map_or_else(
            || item.clone(),
            |k| item.get(k).cloned().unwrap_or_default(),
        )
    };
    let place = |within: &[Value], item: &Value| {
        let wanted = id(item);
        within.iter().position(|o| id(o) == wanted)
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) = list
        .drain(..)
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let mut others = others.into_iter().peekable();
    for item in named {
        while let Some(other) = others.peek() {
            match (place(before, other), place(before, &item)) {
                (Some(left), Some(right)) if left < right => list.extend(others.next()),
                _ => break,
            }
        }
        list.push(item);
    }
    list.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use serde_json::json;

    fn patched(mut object: Value, patch: &Value) -> Value {
        let pods = Registry::builtin().find("", "v1", "pods").unwrap();
        apply(pods.schema.root(), &mut object, patch).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_key_and_directives_are_obeyed() {
        let pod = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [
            {"name": "x", "image": "1", "args": ["k"]}, {"name": "y", "image": "1"}], "nodeSelector": {"a": "1", "b": "2"}}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "spec": {
                "$setElementOrder/containers": [{"name": "z"}, {"name": "x"}],
                "containers": [{"name": "x", "image": "2"}, {"name": "z", "image": "3"}, {"name": "y", "$patch": "delete"}],
                "nodeSelector": {"$patch": "replace", "c": "3"}}});
        assert_eq!(
            patched(pod, &patch),
            json!({"metadata": {"finalizers": ["c", "b"]}, "spec": {"containers": [
            {"name": "z", "image": "3"}, {"name": "x", "image": "2", "args": ["k"]}], "nodeSelector": {"c": "3"}}})
        );
    }

    #[test]
    fn retain_keys_clears_the_rest_of_a_union() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}});
        assert_eq!(
            patched(pod, &patch),
            json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}})
        );
    }
}

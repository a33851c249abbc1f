//! Owns the merging of an applied configuration into a live object and the removal of fields by set; must not decide ownership.

use serde_json::{Map, Value};

use super::{Set, element, shape};
use crate::schema::{Node, Shape};

/// `right` over `left`: its values win, map lists and sets merge by key.
pub fn merge(node: Node<'_>, left: Option<&Value>, right: Option<&Value>) -> Option<Value> {
    step(Some(node), left, right)
}

fn step(node: Option<Node<'_>>, left: Option<&Value>, right: Option<&Value>) -> Option<Value> {
    let shape = match (left, right) {
        (None, None) => return None,
        (_, Some(value)) | (Some(value), None) => shape(node, value),
    };
    let (Some(old), Some(new)) = (left, right) else {
        return right.or(left).cloned();
    };
    match (&shape, old, new) {
        (Shape::Map, Value::Object(old), Value::Object(new))
            if !(old.is_empty() && new.is_empty()) =>
        {
            let mut out = Map::new();
            for name in old
                .keys()
                .chain(new.keys().filter(|n| !old.contains_key(*n)))
            {
                if let Some(value) = step(
                    node.and_then(|n| n.field(name)),
                    old.get(name),
                    new.get(name),
                ) {
                    out.insert(name.clone(), value);
                }
            }
            Some(Value::Object(out))
        }
        (Shape::Set | Shape::MapList(_), Value::Array(old), Value::Array(new))
            if !(old.is_empty() && new.is_empty()) =>
        {
            Some(Value::Array(lists(node, &shape, old, new)))
        }
        (Shape::Map, old @ Value::Object(map), Value::Null) if !map.is_empty() => Some(old.clone()),
        (Shape::Set | Shape::MapList(_), old @ Value::Array(list), Value::Null)
            if !list.is_empty() =>
        {
            Some(old.clone())
        }
        (_, _, new) => Some(new.clone()),
    }
}

/// Merges two keyed lists: order of the right side, items of the left side alone keep their place.
fn lists(node: Option<Node<'_>>, shape: &Shape, old: &[Value], new: &[Value]) -> Vec<Value> {
    let key = |item: &Value| element(node, shape, item).unwrap_or_default();
    let items = node.and_then(|n| n.items());
    let left: Vec<(String, &Value)> = old.iter().map(|i| (key(i), i)).collect();
    let right: Vec<(String, &Value)> = new.iter().map(|i| (key(i), i)).collect();
    // Several left items of one key are not merged: the right one replaces them.
    let partner = |k: &str| -> Option<&Value> {
        let mut found = left.iter().filter(|(l, _)| l == k);
        match (found.next(), found.next()) {
            (Some((_, item)), None) => Some(*item),
            _ => None,
        }
    };
    let in_left = |k: &str| left.iter().any(|(l, _)| l == k);
    let in_right = |k: &str| right.iter().any(|(r, _)| r == k);
    let mut shared = right.iter().map(|(k, _)| k.as_str()).filter(|k| in_left(k));
    let mut next_shared = shared.next();
    let mut merged: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    loop {
        let (a, b) = (left.get(l), right.get(r));
        if a.is_none() && b.is_none() {
            return out;
        }
        if let (Some((left_key, _)), Some((right_key, right_item))) = (a, b) {
            if left_key == right_key {
                out.extend(step(items, partner(left_key), Some(right_item)));
                merged.push(right_key);
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_right(left_key) && next_shared.is_some_and(|s| s != left_key) {
                l += 1;
                continue;
            }
        }
        if let Some((left_key, left_item)) = a {
            if !in_right(left_key) {
                out.push((*left_item).clone());
                l += 1;
                continue;
            }
            if merged.contains(&left_key.as_str()) {
                l += 1;
            }
        }
        if let Some((right_key, right_item)) = b {
            out.extend(step(items, partner(right_key), Some(right_item)));
            merged.push(right_key);
            r += 1;
            if next_shared == Some(right_key.as_str()) {
                next_shared = shared.next();
            }
        }
    }
}

/// The value without the paths of `set`; `None` when nothing is left.
pub fn remove(node: Option<Node<'_>>, value: &Value, set: &Set) -> Option<Value> {
    let shape = shape(node, value);
    match (&shape, value) {
        (Shape::Map, Value::Object(map)) if !map.is_empty() => {
            let mut out = Map::new();
            for (name, item) in map {
                let step = format!("f:{name}");
                if set.has(&[&step]) {
                    continue;
                }
                match set.below(&step) {
                    None => {
                        out.insert(name.clone(), item.clone());
                    }
                    Some(below) => {
                        let rest = remove(node.and_then(|n| n.field(name)), item, below);
                        // An emptied container becomes null, as in structured-merge-diff.
                        out.insert(name.clone(), rest.unwrap_or(Value::Null));
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Shape::Set | Shape::MapList(_), Value::Array(list)) if !list.is_empty() => {
            let mut out = Vec::new();
            for item in list {
                let Some(step) = element(node, &shape, item) else {
                    out.push(item.clone());
                    continue;
                };
                if set.has(&[&step]) {
                    continue;
                }
                match set.below(&step) {
                    None => out.push(item.clone()),
                    Some(below) => {
                        let rest = remove(node.and_then(|n| n.items()), item, below);
                        out.push(rest.unwrap_or(Value::Null));
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        (Shape::Map | Shape::Set | Shape::MapList(_), _) => None,
        _ => Some(value.clone()),
    }
}

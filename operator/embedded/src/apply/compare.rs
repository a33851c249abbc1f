//! Owns what differs between two objects, field by field as the schema merges them; must not merge.

use serde_json::{Map, Value};

use super::{Set, element, shape};
use crate::schema::{Node, Shape};

/// Paths that one object has over another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Only in the second.
    pub added: Set,
    /// In both with other values.
    pub modified: Set,
    /// Only in the first.
    pub removed: Set,
}

/// All paths an object sets.
pub fn to_set(root: Node<'_>, object: &Value) -> Set {
    let mut set = Set::default();
    collect(Some(root), object, &mut Vec::new(), &mut set);
    set
}

fn collect(node: Option<Node<'_>>, value: &Value, path: &mut Vec<String>, set: &mut Set) {
    let shape = shape(node, value);
    match (&shape, value) {
        (Shape::Map, Value::Object(map)) => {
            for (name, item) in map {
                path.push(format!("f:{name}"));
                collect(node.and_then(|n| n.field(name)), item, path, set);
                let declared = node.is_some_and(|n| n.property(name).is_some());
                let empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Shape::Set | Shape::MapList(_), Value::Array(list)) => {
            for item in list {
                let Some(step) = element(node, &shape, item) else {
                    continue;
                };
                path.push(step);
                collect(node.and_then(|n| n.items()), item, path, set);
                set.insert(path);
                path.pop();
            }
        }
        (Shape::Map | Shape::Set | Shape::MapList(_), _) => {}
        _ => set.insert(path),
    }
}

/// What differs from `old` to `new`.
pub fn compare(root: Node<'_>, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    walk(
        Some(root),
        Some(old),
        Some(new),
        &mut Vec::new(),
        &mut difference,
    );
    difference
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn walk(
    node: Option<Node<'_>>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let shapes = match (old, new) {
        (None, None) => return,
        (Some(old), Some(new)) if old == new => return,
        (Some(only), None) | (None, Some(only)) => vec![shape(node, only)],
        (Some(old), Some(new)) => {
            let (left, right) = (shape(node, old), shape(node, new));
            if left == right {
                vec![right]
            } else {
                vec![left, right]
            }
        }
    };
    let mut leaf = false;
    for shape in shapes {
        leaf = visit(node, &shape, old, new, path, out);
    }
    if !leaf {
        if old.is_none() {
            out.added.insert(path);
        } else if new.is_none() {
            out.removed.insert(path);
        }
    }
}

/// Compares under one shape; returns whether the node was one leaf.
fn visit(
    node: Option<Node<'_>>,
    shape: &Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<String>,
    out: &mut Difference,
) -> bool {
    let granular = matches!(shape, Shape::Map | Shape::Set | Shape::MapList(_));
    if !granular || empty(old) && empty(new) {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            (Some(old), Some(new)) if old != new => out.modified.insert(path),
            _ => {}
        }
        return true;
    }
    if *shape == Shape::Map {
        let (before, after) = (
            old.and_then(Value::as_object),
            new.and_then(Value::as_object),
        );
        let mut names: Vec<&String> = before.into_iter().flat_map(Map::keys).collect();
        names.extend(
            after
                .into_iter()
                .flat_map(Map::keys)
                .filter(|n| before.is_none_or(|b| !b.contains_key(*n))),
        );
        for name in names {
            path.push(format!("f:{name}"));
            let child = node.and_then(|n| n.field(name));
            walk(
                child,
                before.and_then(|b| b.get(name)),
                after.and_then(|a| a.get(name)),
                path,
                out,
            );
            path.pop();
        }
        return false;
    }
    let index = |list: Option<&Value>| -> Vec<(String, Vec<Value>)> {
        let mut found: Vec<(String, Vec<Value>)> = Vec::new();
        for item in list.and_then(Value::as_array).into_iter().flatten() {
            let Some(step) = element(node, shape, item) else {
                continue;
            };
            match found.iter_mut().find(|(s, _)| *s == step) {
                Some((_, items)) => items.push(item.clone()),
                None => found.push((step, vec![item.clone()])),
            }
        }
        found
    };
    let (before, after) = (index(old), index(new));
    let mut steps: Vec<String> = before.iter().map(|(s, _)| s.clone()).collect();
    steps.extend(
        after
            .iter()
            .map(|(s, _)| s.clone())
            .filter(|s| before.iter().all(|(b, _)| b != s)),
    );
    for step in steps {
        let of = |list: &[(String, Vec<Value>)]| -> Vec<Value> {
            list.iter()
                .find(|(s, _)| *s == step)
                .map(|(_, items)| items.clone())
                .unwrap_or_default()
        };
        let (left, right) = (of(&before), of(&after));
        path.push(step.clone());
        let items = node.and_then(|n| n.items());
        match (left.as_slice(), right.as_slice()) {
            ([_, _, ..], [_, _, ..]) => {
                if left != right {
                    out.modified.insert(path);
                }
            }
            ([_, _, ..], rest) => {
                walk(items, None, rest.first(), path, out);
                out.removed.insert(path);
            }
            (rest, [_, _, ..]) => {
                walk(items, rest.first(), None, path, out);
                out.added.insert(path);
            }
            (left, right) => walk(items, left.first(), right.first(), path, out),
        }
        path.pop();
    }
    false
}

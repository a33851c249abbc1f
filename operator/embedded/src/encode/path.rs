//! Owns the JSONPath of printer columns: fields, indices, wildcards and equality filters. Must not format.

use serde_json::Value;

/// The values at `path` (`.status.conditions[?(@.type=="Ready")].status`).
#[must_use]
pub fn select<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut nodes = vec![object];
    let mut rest = path
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = closing(inner) else {
                return Vec::new();
            };
            let inside = inner.get(..end).unwrap_or_default();
            rest = inner.get(end + 1..).unwrap_or_default();
            nodes = nodes
                .into_iter()
                .flat_map(|node| index(node, inside))
                .collect();
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field(rest);
            rest = after;
            if name.is_empty() {
                continue;
            }
            nodes = nodes
                .into_iter()
                .flat_map(|node| match (name.as_str(), node) {
                    ("*", Value::Object(map)) => map.values().collect(),
                    ("*", Value::Array(list)) => list.iter().collect(),
                    _ => node.get(&name).into_iter().collect::<Vec<_>>(),
                })
                .collect();
        }
    }
    nodes
}

/// Position of the bracket that closes the one before `text`, outside quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ']') => return Some(index),
            _ => {}
        }
    }
    None
}

/// A field name, with `\.` for a dot inside it, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return (name, text.get(index..).unwrap_or_default()),
            _ => {
                escaped = false;
                name.push(c);
            }
        }
    }
    (name, "")
}

fn index<'a>(node: &'a Value, inside: &str) -> Vec<&'a Value> {
    let inside = inside.trim();
    if let Some(filter) = inside.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (left, operator, right) = match filter.split_once("==") {
            Some((left, right)) => (left, true, right),
            None => match filter.split_once("!=") {
                Some((left, right)) => (left, false, right),
                None => return Vec::new(),
            },
        };
        let wanted = right.trim().trim_matches(['"', '\'']);
        let path = left.trim().trim_start_matches('@');
        return node
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| {
                let equal = select(item, path)
                    .first()
                    .is_some_and(|v| text(v) == wanted);
                equal == operator
            })
            .collect();
    }
    match (inside, node) {
        ("*", Value::Array(list)) => list.iter().collect(),
        ("*", Value::Object(map)) => map.values().collect(),
        (name, Value::Object(map)) => map
            .get(name.trim_matches(['"', '\'']))
            .into_iter()
            .collect(),
        (number, Value::Array(list)) => {
            let position = number.parse::<i64>().ok().and_then(|n| {
                usize::try_from(if n < 0 {
                    n + i64::try_from(list.len()).ok()?
                } else {
                    n
                })
                .ok()
            });
            position.and_then(|p| list.get(p)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// A value as a table prints it.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn printer_paths_select() {
        let object = json!({"a": {"b": [1, 2]}, "m": {"x.y/z": "k"}, "c": [{"type": "Ready", "status": "True"}, {"type": "B", "status": "F"}]});
        for (path, expected) in [
            (".a.b", json!([[1, 2]])),
            (".a.b[1]", json!([2])),
            (".a.b[-1]", json!([2])),
            (".a.b[*]", json!([1, 2])),
            (".c[?(@.type==\"Ready\")].status", json!(["True"])),
            (".c[?(@.type=='B')].status", json!(["F"])),
            (".m.x\\.y/z", json!(["k"])),
            (".m['x.y/z']", json!(["k"])),
            (".nope.x", json!([])),
        ] {
            assert_eq!(json!(select(&object, path)), expected, "{path}");
        }
    }
}

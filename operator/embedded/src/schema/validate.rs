//! Owns the checking of custom resources against their structural schema, with the API server's sentences; must not change values.

use serde_json::Value;

use super::Node;
use crate::pattern;
use crate::status::Cause;

/// Field errors of `value`, in schema order.
#[must_use]
pub fn check(node: Node<'_>, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(node, value, "", &mut causes);
    causes
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        // 1.0 is an integer for JSON schema.
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        _ => true,
    }
}

fn walk(node: Node<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && node.flag("nullable") {
        return;
    }
    let shown = || path;
    if node.flag("x-kubernetes-int-or-string") {
        if !(value.is_i64() || value.is_u64() || value.is_string()) {
            let name = type_name(value);
            causes.push(Cause::type_invalid(
                path,
                &format!("{name:?}"),
                &format!(
                    "{} in body must be of type integer,string: {name:?}",
                    shown()
                ),
            ));
            return;
        }
    } else if !fits(node.kind(), value) {
        let name = type_name(value);
        causes.push(Cause::type_invalid(
            path,
            &format!("{name:?}"),
            &format!(
                "{} in body must be of type {}: {name:?}",
                shown(),
                node.kind()
            ),
        ));
        return;
    }
    if let Some(allowed) = node.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let words: Vec<String> = allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        causes.push(Cause::not_supported(path, value, &words));
    }
    match value {
        Value::String(text) => string(node, text, path, causes),
        Value::Number(_) => number(node, value, path, causes),
        Value::Array(list) => array(node, list, path, causes),
        Value::Object(map) => {
            let count = map.len();
            if let Some(max) = bound(node, "maxProperties").filter(|m| count > *m) {
                causes.push(Cause {
                    reason: "FieldValueTooMany",
                    message: format!("Too many: {count}: must have at most {max} items"),
                    field: path.to_owned(),
                });
            }
            if let Some(min) = bound(node, "minProperties").filter(|m| count < *m) {
                let detail = format!("{} in body should have at least {min} properties", shown());
                causes.push(Cause::invalid(path, value, &detail));
            }
            for required in node.keys("required") {
                if !map.contains_key(&required) {
                    causes.push(Cause::required(join(path, &required), ""));
                }
            }
            for (name, item) in map {
                // The object's own metadata is checked by the rules of all objects.
                if path.is_empty() && name == "metadata" {
                    continue;
                }
                if let Some(child) = node.field(name) {
                    walk(child, item, &join(path, name), causes);
                }
            }
        }
        _ => {}
    }
    combine(node, value, path, causes);
}

fn bound(node: Node<'_>, keyword: &str) -> Option<usize> {
    node.get(keyword)
        .and_then(Value::as_u64)
        .and_then(|n| usize::try_from(n).ok())
}

fn string(node: Node<'_>, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count();
    let value = Value::from(text);
    if let Some(max) = bound(node, "maxLength").filter(|m| length > *m) {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
            field: path.to_owned(),
        });
    }
    if let Some(min) = bound(node, "minLength").filter(|m| length < *m) {
        causes.push(Cause::invalid(
            path,
            &value,
            &format!("{path} in body should be at least {min} chars long"),
        ));
    }
    if let Some(pattern) = node.get("pattern").and_then(Value::as_str)
        && !pattern::matches(pattern, text)
    {
        causes.push(Cause::invalid(
            path,
            &value,
            &format!("{path} in body should match '{pattern}'"),
        ));
    }
    if let Some(format) = node.get("format").and_then(Value::as_str)
        && !formatted(format, text)
    {
        causes.push(Cause::type_invalid(
            path,
            &format!("{text:?}"),
            &format!("{path} in body must be of type {format}: {text:?}"),
        ));
    }
}

/// Whether `text` has a format that the API server enforces; unknown formats always fit.
fn formatted(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        "uri" => text.contains(':') && !text.contains(char::is_whitespace),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" | "uuid4" => {
            text.len() == 36
                && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
                && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
        }
        _ => true,
    }
}

fn number(node: Node<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(actual) = value.as_f64() else { return };
    let limit = |keyword: &str| node.get(keyword).and_then(Value::as_f64);
    let shown = |keyword: &str| {
        node.get(keyword)
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    if let Some(min) = limit("minimum") {
        let exclusive = node.flag("exclusiveMinimum");
        if actual < min || exclusive && actual <= min {
            let word = if exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should be {word} {}", shown("minimum")),
            ));
        }
    }
    if let Some(max) = limit("maximum") {
        let exclusive = node.flag("exclusiveMaximum");
        if actual > max || exclusive && actual >= max {
            let word = if exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should be {word} {}", shown("maximum")),
            ));
        }
    }
    if let Some(step) = limit("multipleOf").filter(|s| *s > 0.0)
        && (actual / step).fract().abs() > 1e-9
    {
        causes.push(Cause::invalid(
            path,
            value,
            &format!(
                "{path} in body should be a multiple of {}",
                shown("multipleOf")
            ),
        ));
    }
}

fn array(node: Node<'_>, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if let Some(max) = bound(node, "maxItems").filter(|m| list.len() > *m) {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            message: format!("Too many: {}: must have at most {max} items", list.len()),
            field: path.to_owned(),
        });
    }
    if let Some(min) = bound(node, "minItems").filter(|m| list.len() < *m) {
        let count = Value::from(list.len());
        causes.push(Cause::invalid(
            path,
            &count,
            &format!("{path} in body should have at least {min} items"),
        ));
    }
    if let Some(items) = node.items() {
        for (index, item) in list.iter().enumerate() {
            walk(items, item, &format!("{path}[{index}]"), causes);
        }
    }
}

/// Items that appear twice in sets and map lists.
#[must_use]
pub fn keys(node: Node<'_>, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    repeated(node, value, "", &mut causes);
    causes
}

fn repeated(node: Node<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (name, item) in map {
                if let Some(child) = node
                    .field(name)
                    .filter(|_| !(path.is_empty() && name == "metadata"))
                {
                    repeated(child, item, &join(path, name), causes);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = node.items() {
                for (index, item) in list.iter().enumerate() {
                    repeated(items, item, &format!("{path}[{index}]"), causes);
                }
            }
            same_keys(node, list, path, causes);
        }
        _ => {}
    }
}

fn same_keys(node: Node<'_>, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let identity: Box<dyn Fn(&Value) -> Value> = match node.shape() {
        super::Shape::Set => Box::new(Value::clone),
        super::Shape::MapList(keys) => {
            let defaults: Vec<(String, Option<Value>)> = keys
                .into_iter()
                .map(|key| {
                    let default = node
                        .items()
                        .and_then(|i| i.property(&key))
                        .and_then(|n| n.get("default").cloned());
                    (key, default)
                })
                .collect();
            Box::new(move |item| {
                Value::Object(
                    defaults
                        .iter()
                        .filter_map(|(key, default)| {
                            Some((key.clone(), item.get(key).or(default.as_ref())?.clone()))
                        })
                        .collect(),
                )
            })
        }
        _ => return,
    };
    let mut seen: Vec<Value> = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let id = identity(item);
        if seen.contains(&id) {
            causes.push(Cause::duplicate(format!("{path}[{index}]"), &id));
        } else {
            seen.push(id);
        }
    }
}

/// allOf, anyOf, oneOf, not: structural schemas use them for values only.
fn combine(node: Node<'_>, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let branches = |keyword: &str| -> Vec<Vec<Cause>> {
        node.get(keyword)
            .and_then(Value::as_array)
            .map(|list| {
                list.iter()
                    .filter(|s| s.get("$ref").is_none())
                    .map(|schema| {
                        let mut found = Vec::new();
                        walk(node.child(schema), value, path, &mut found);
                        found
                    })
                    .collect()
            })
            .unwrap_or_default()
    };
    for found in branches("allOf") {
        causes.extend(found);
    }
    if node.flag("x-kubernetes-int-or-string") {
        return;
    }
    let any = branches("anyOf");
    if !any.is_empty() && any.iter().all(|found| !found.is_empty()) {
        let detail = format!("{path} in body must validate at least one schema (anyOf)");
        causes.push(Cause::invalid(path, value, &detail));
        causes.extend(any.into_iter().next().unwrap_or_default());
    }
    let one = branches("oneOf");
    if !one.is_empty() {
        let valid = one.iter().filter(|found| found.is_empty()).count();
        if valid != 1 {
            let found = if valid == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {valid} valid alternatives")
            };
            let detail =
                format!("{path} in body must validate one and only one schema (oneOf). {found}");
            causes.push(Cause::invalid(path, value, &detail));
        }
    }
    if let Some(schema) = node.get("not") {
        let mut found = Vec::new();
        walk(node.child(schema), value, path, &mut found);
        if found.is_empty() {
            causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body must not validate the schema (not)"),
            ));
        }
    }
}

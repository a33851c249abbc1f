//! Owns the table form of objects (`kubectl get`); must not know how a built-in kind's cells are made (`builtin` does).

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{builtin, metadata, path};
use crate::object;
use crate::registry::{Column, Resource};

/// The objects as a table; `include` says what each row carries, `headed` leaves the columns out.
#[must_use]
pub fn table(
    resource: &Resource,
    objects: &[Arc<Value>],
    meta: Value,
    include: &str,
    headed: bool,
    now: Timestamp,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = Map::new();
            row.insert("cells".into(), cells(resource, object, now).into());
            match include {
                "Object" => row.insert("object".into(), (**object).clone()),
                "None" => row.insert("object".into(), Value::Null),
                _ => row.insert("object".into(), metadata(object)),
            };
            Value::Object(row)
        })
        .collect();
    let definitions: Vec<Value> = columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": if headed { Value::Null } else { definitions.into() },
        "rows": rows,
    })
}

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
resources may allow a client to request the generation of an appropriate name automatically. Name is primarily \
intended for creation idempotence and configuration definition. Cannot be updated. More info: \
https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It \
is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is \
represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A column of a built-in kind.
pub(super) fn column(name: &str, kind: &str, priority: i64) -> Column {
    let (format, description) = match name {
        "Name" => ("name", NAME),
        "Age" => ("", CREATED),
        _ => ("", ""),
    };
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority,
        json_path: String::new(),
    }
}

fn columns(resource: &Resource) -> Vec<Column> {
    if !resource.custom {
        return builtin::columns(resource);
    }
    let mut columns = vec![column("Name", "string", 0)];
    if resource.columns.is_empty() {
        let mut age = column("Age", "date", 0);
        age.description =
            "Custom resource definition column (in JSONPath format): .metadata.creationTimestamp"
                .to_string();
        columns.push(age);
    }
    columns.extend(resource.columns.iter().cloned());
    columns
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if !resource.custom {
        return builtin::cells(resource, object, now);
    }
    let mut cells = vec![Value::from(object::name(object))];
    if resource.columns.is_empty() {
        cells.push(age(
            object::at(object, &["metadata", "creationTimestamp"]),
            now,
        ));
    }
    cells.extend(resource.columns.iter().map(|column| {
        let found = path::select(object, &column.json_path);
        let first = found.first().copied().filter(|v| !v.is_null());
        match (column.kind.as_str(), first) {
            (_, None) => Value::Null,
            ("integer", Some(value)) => value
                .as_i64()
                .or_else(|| value.as_f64().map(|f| f as i64))
                .map_or(Value::Null, Value::from),
            ("number", Some(value)) => value.as_f64().map_or(Value::Null, Value::from),
            ("boolean", Some(value)) => value.as_bool().map_or(Value::Null, Value::from),
            ("date", value) => age(value, now),
            (_, Some(value)) if found.len() == 1 && (value.is_object() || value.is_array()) => {
                value.to_string().into()
            }
            (_, Some(value)) if found.len() == 1 => path::text(value).into(),
            _ => found
                .iter()
                .map(|v| path::text(v))
                .collect::<Vec<_>>()
                .join(",")
                .into(),
        }
    }));
    cells
}

/// A time as "how long ago".
pub(super) fn age(value: Option<&Value>, now: Timestamp) -> Value {
    let Some(text) = value.and_then(Value::as_str) else {
        return "<unknown>".into();
    };
    let Ok(then) = text.parse::<Timestamp>() else {
        return "<invalid>".into();
    };
    duration(now.duration_since(then).as_secs()).into()
}

/// Seconds as kubectl prints durations: `5s`, `3m20s`, `2d4h`, `3y12d`.
pub(super) fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        1..=119 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2_920 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (28_799, "7h59m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}

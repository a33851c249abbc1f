//! Owns what may differ between two servers and how it is made equal: uids, versions, times, ages, tokens, addresses. Must not drop anything else.

use std::collections::BTreeMap;

use serde_json::Value;

/// Replaces values that differ from run to run by names in order of first sight.
#[derive(Debug, Default)]
pub struct Normaliser {
    uids: BTreeMap<String, String>,
    versions: BTreeMap<String, String>,
}

impl Normaliser {
    fn uid(&mut self, text: &str) -> String {
        let next = format!("<uid-{}>", self.uids.len() + 1);
        self.uids.entry(text.to_owned()).or_insert(next).clone()
    }

    fn version(&mut self, text: &str) -> String {
        if text.is_empty() || text == "0" || text == HIDDEN {
            return text.to_owned();
        }
        let next = format!("<version-{}>", self.versions.len() + 1);
        self.versions.entry(text.to_owned()).or_insert(next).clone()
    }

    /// The normalised form of a body.
    pub fn apply(&mut self, value: &Value) -> Value {
        self.walk("", value)
    }

    fn walk(&mut self, key: &str, value: &Value) -> Value {
        match value {
            Value::Object(map) if map.get("type").is_some_and(|kind| kind == "BOOKMARK") => {
                // How far the watch is: on a server with other users that is later than any object seen here.
                let mut bookmark = value.clone();
                if let Some(metadata) = bookmark.pointer_mut("/object/metadata") {
                    hide_version(metadata);
                }
                bookmark
            }
            Value::Object(map) => {
                // metadata first: its uid and version get their names before messages mention them.
                let mut done: BTreeMap<&String, Value> = BTreeMap::new();
                if let Some((name, metadata)) = map.get_key_value("metadata") {
                    let mut metadata = metadata.clone();
                    // A list's version is that of the whole server, as a bookmark's is.
                    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
                    if kind == "Table" || (kind.ends_with("List") && map.contains_key("items")) {
                        hide_version(&mut metadata);
                    }
                    done.insert(name, self.walk("metadata", &metadata));
                }
                for (name, item) in map {
                    if !done.contains_key(name) {
                        done.insert(name, self.walk(name, item));
                    }
                }
                let mut result: serde_json::Map<String, Value> =
                    done.into_iter().map(|(k, v)| (k.clone(), v)).collect();
                if let Some(prefix) = map.get("generateName").and_then(Value::as_str)
                    && map.contains_key("name")
                {
                    result.insert("name".into(), format!("{prefix}<suffix>").into());
                }
                Value::Object(result)
            }
            Value::Array(list) => {
                Value::Array(list.iter().map(|item| self.walk(key, item)).collect())
            }
            Value::String(text) => match key {
                "uid" => self.uid(text).into(),
                "resourceVersion" => self.version(text).into(),
                "continue" if !text.is_empty() => "<continue>".into(),
                "cells" if is_age(text) => "<age>".into(),
                "clusterIP" | "clusterIPs" if text != "None" => "<address>".into(),
                _ if is_time(text) => "<time>".into(),
                _ => self.text(text).into(),
            },
            other => other.clone(),
        }
    }

    /// Uids and times, and versions inside sentences about them.
    fn text(&mut self, text: &str) -> String {
        let mut result = String::new();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let about_versions = text.contains("esource version")
            || text.contains("resourceVersion")
            || text.contains("ResourceVersion");
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((time, after)) = rest.split_at_checked(20)
                && is_time(time)
            {
                result.push_str("<time>");
                rest = after;
                continue;
            }
            let word_end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if word_end == 0 {
                let next = rest.chars().next().map_or(1, char::len_utf8);
                result.push_str(rest.get(..next).unwrap_or_default());
                rest = rest.get(next..).unwrap_or_default();
                continue;
            }
            let word = rest.get(..word_end).unwrap_or_default();
            if is_uid(word) {
                let name = self.uid(word);
                result.push_str(&name);
            } else if about_versions && word.len() < 12 && word.chars().all(|c| c.is_ascii_digit())
            {
                result.push_str(HIDDEN);
            } else {
                result.push_str(word);
            }
            rest = rest.get(word_end..).unwrap_or_default();
        }
        result
    }
}

/// The value with what depends on uids and on the clock in managedFields made equal: list items are named by keys such as
/// `k:{"uid":"..."}`, and entries are ordered by the second of their write before they are by name.
pub fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, item)| {
                    let plain: Vec<&str> = key
                        .split('"')
                        .map(|word| if is_uid(word) { "<uid>" } else { word })
                        .collect();
                    let mut item = comparable(item);
                    if key == "managedFields"
                        && let Some(entries) = item.as_array_mut()
                    {
                        let word = |entry: &Value, field: &str| {
                            let word = entry.get(field).and_then(Value::as_str);
                            word.unwrap_or_default().to_owned()
                        };
                        entries.sort_by_cached_key(|entry| {
                            ["operation", "manager", "apiVersion", "subresource"]
                                .map(|field| word(entry, field))
                        });
                    }
                    (plain.join("\""), item)
                })
                .collect(),
        ),
        Value::Array(list) => list.iter().map(comparable).collect(),
        other => other.clone(),
    }
}

/// Name of a version that depends on what others write to the same server.
const HIDDEN: &str = "<version>";

fn hide_version(metadata: &mut Value) {
    if let Some(version) = metadata.get_mut("resourceVersion")
        && version
            .as_str()
            .is_some_and(|text| !text.is_empty() && text != "0")
    {
        *version = HIDDEN.into();
    }
}

/// Whether a cell of a table is the age of something a few seconds old.
fn is_age(text: &str) -> bool {
    let seconds = text.strip_suffix('s').unwrap_or_default();
    !seconds.is_empty() && seconds.chars().all(|c| c.is_ascii_digit())
}

fn is_uid(text: &str) -> bool {
    text.len() == 36
        && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

fn is_time(text: &str) -> bool {
    text.len() >= 20
        && text.ends_with('Z')
        && text.as_bytes().get(10) == Some(&b'T')
        && text.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_values_get_equal_names() {
        let mut normaliser = Normaliser::default();
        let uid = "11111111-2222-4333-8444-555555555555";
        let first = normaliser.apply(&json!({"metadata": {"uid": uid, "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}}));
        assert_eq!(
            first,
            json!({"metadata": {"uid": "<uid-1>", "resourceVersion": "<version-1>", "creationTimestamp": "<time>"}})
        );
        let second = normaliser.apply(
            &json!({"message": format!("UID {uid} is gone since 2026-01-01T00:00:00Z"), "metadata": {"resourceVersion": "9"}}),
        );
        assert_eq!(
            second,
            json!({"message": "UID <uid-1> is gone since <time>", "metadata": {"resourceVersion": "<version-2>"}})
        );
        let bookmark =
            json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}}});
        let third = normaliser.apply(&json!([bookmark, {"metadata": {"resourceVersion": "15"}}]));
        assert_eq!(
            third,
            json!([
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "<version>"}}},
                {"metadata": {"resourceVersion": "<version-3>"}}
            ])
        );
        let table = json!({"kind": "Table", "metadata": {"resourceVersion": "19"}, "rows": [
            {"cells": ["s", 1, "12s"], "object": {"metadata": {"resourceVersion": "15"}}}
        ]});
        assert_eq!(
            normaliser.apply(&table),
            json!({"kind": "Table", "metadata": {"resourceVersion": "<version>"}, "rows": [
                {"cells": ["s", 1, "<age>"], "object": {"metadata": {"resourceVersion": "<version-3>"}}}
            ]})
        );
    }
}

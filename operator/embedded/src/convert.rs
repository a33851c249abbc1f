//! Owns conversion between served versions of one resource; must not validate.

use serde_json::Value;

use crate::object;
use crate::registry::Resource;

/// Field names of core events and their names in events.k8s.io.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The object in the version of `resource`. Custom resources change only their apiVersion.
#[must_use]
pub fn convert(mut value: Value, resource: &Resource) -> Value {
    let wanted = resource.api_version();
    rename(&mut value, &wanted);
    value
}

/// The object in its stored version.
#[must_use]
pub fn to_storage(mut value: Value, resource: &Resource) -> Value {
    rename(&mut value, &resource.storage_version);
    value
}

fn rename(value: &mut Value, wanted: &str) {
    let current = object::text(value, &["apiVersion"]).to_owned();
    if current == wanted {
        return;
    }
    if object::text(value, &["kind"]) == "Event" && (current == "v1" || wanted == "v1") {
        let map = object::map(value);
        for (core, events) in EVENT {
            let (from, to) = if wanted == "v1" {
                (events, core)
            } else {
                (core, events)
            };
            if let Some(field) = map.remove(*from) {
                map.insert((*to).to_owned(), field);
            }
        }
    }
    object::map(value).insert("apiVersion".into(), wanted.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use serde_json::json;

    #[test]
    fn events_keep_everything_through_both_versions() {
        let registry = Registry::builtin();
        let new = registry.find("events.k8s.io", "v1", "events").unwrap();
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "p"}, "message": "m", "count": 2});
        let converted = convert(core.clone(), &new);
        assert_eq!(
            converted,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "regarding": {"name": "p"}, "note": "m", "deprecatedCount": 2})
        );
        assert_eq!(to_storage(converted, &new), core);
    }
}

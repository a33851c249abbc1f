//! Owns objects as the API server sent them: their text and what every object says of itself. One type for all kinds, so
//! that clients and watches exist once. It must not know what an object means.
//!
//! Who needs a kind's own type reads it from the text. An object that cannot be read so is still known by name, as with
//! kube's `DeserializeGuard`, without the tree of values that that one builds and copies for each object.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// One object.
#[derive(Debug, Clone)]
pub struct Raw {
    /// What is read of every object.
    pub metadata: ObjectMeta,
    text: Box<RawValue>,
}

/// All that is read of the metadata here: the rest is read with the type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

/// `text` with null instead of `part` of it: who wrote which field is often longer than the object, and nobody reads it.
fn without(text: &RawValue, part: &RawValue) -> serde_json::Result<Box<RawValue>> {
    let (text, part) = (text.get(), part.get());
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    let (before, after) = (&text[..start], &text[start + part.len()..]);
    RawValue::from_string([before, "null", after].concat())
}

impl Raw {
    /// `object`, which has metadata.
    ///
    /// # Errors
    /// It has none, or they are not an object's.
    pub fn of(object: &Value) -> serde_json::Result<Self> {
        Self::read(to_raw_value(object)?)
    }

    fn read(text: Box<RawValue>) -> serde_json::Result<Self> {
        let Head { metadata: meta } = serde_json::from_str(text.get())?;
        let metadata = ObjectMeta {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            deletion_timestamp: meta.deletion_timestamp,
            finalizers: meta.finalizers,
            owner_references: meta.owner_references,
            ..ObjectMeta::default()
        };
        let fewer = meta.managed_fields.map(|fields| without(&text, fields));
        Ok(Self {
            metadata,
            text: fewer.transpose()?.unwrap_or(text),
        })
    }

    /// The object as its kind's type.
    ///
    /// # Errors
    /// Why it is none, without the place in a text that nobody has seen.
    pub fn typed<K: DeserializeOwned>(&self) -> Result<K, String> {
        serde_json::from_str(self.text.get()).map_err(|error| {
            let why = error.to_string();
            let at = format!(" at line {} column {}", error.line(), error.column());
            why.strip_suffix(&at).unwrap_or(&why).to_owned()
        })
    }

    /// The object as a tree.
    pub fn value(&self) -> Value {
        self.typed().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Box::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&kind.group)
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&kind.version)
    }

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&kind.kind)
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&kind.api_version)
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&kind.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use kube::core::WatchEvent;
    use kube::core::object::ObjectList;
    use serde_json::json;

    fn object(data: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {
                "name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7", "labels": {"c": "d"},
                "finalizers": ["f"], "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}]},
        })
    }

    #[test]
    fn it_is_what_was_sent_and_its_type() {
        let mut whole = object(json!({"k": "v"}));
        let raw = Raw::of(&whole).unwrap();
        // All but who wrote it.
        whole["metadata"]["managedFields"] = Value::Null;
        let map: ConfigMap = raw.typed().unwrap();
        assert_eq!(map.metadata.labels.unwrap()["c"], "d");
        assert_eq!(raw.name_any(), "a");
        assert_eq!(raw.resource_version().unwrap(), "7");
        assert_eq!(raw.finalizers(), ["f"]);
        assert!(raw.metadata.deletion_timestamp.is_some());
        assert_eq!(raw.value(), whole);
        assert_eq!(serde_json::to_value(&raw).unwrap(), whole);
    }

    #[test]
    fn one_that_cannot_be_read_is_known_by_name_and_says_why() {
        let event = format!(r#"{{"type":"ADDED","object":{}}}"#, object(json!(5)));
        let WatchEvent::Added(raw) = serde_json::from_str::<WatchEvent<Raw>>(&event).unwrap()
        else {
            panic!("another event");
        };
        assert_eq!(raw.name_any(), "a");
        let why = raw.typed::<ConfigMap>().unwrap_err();
        assert_eq!(why, "invalid type: integer `5`, expected a map");

        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "9"},
            "items": [object(json!(5)), object(json!({}))]});
        let list: ObjectList<Raw> = serde_json::from_str(&list.to_string()).unwrap();
        let readable = list
            .items
            .iter()
            .map(|raw| raw.typed::<ConfigMap>().is_ok());
        assert_eq!(readable.collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_has_no_metadata_is_no_object() {
        for wrong in [json!({"kind": "ConfigMap"}), json!([]), json!(null)] {
            assert!(Raw::of(&wrong).is_err(), "{wrong}");
        }
    }
}

//! Owns the reading of Bessemer's objects as JSON: conditions, references, names. It must not print.

use bessemer_api::{GROUP, Kind, VERSION};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::error::Error;

/// The resource of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(GROUP, VERSION, kind.name());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// The objects of a kind.
pub fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

/// Kind and name of `kind/name`, by any name of the kind.
pub fn parse(reference: &str) -> Result<(Kind, &str), Error> {
    let bad = || Error::BadReference(reference.into());
    let (kind, name) = reference.split_once('/').ok_or_else(bad)?;
    Ok((kind_of(kind).ok_or_else(bad)?, name))
}

/// A kind by its name, plural, short or full name.
pub fn kind_of(text: &str) -> Option<Kind> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix(&format!(".{GROUP}")).unwrap_or(&text);
    Kind::ALL.into_iter().find(|kind| {
        [
            kind.name().to_ascii_lowercase().as_str(),
            kind.plural(),
            kind.short(),
        ]
        .contains(&text)
    })
}

/// All objects of a namespace in chain order.
pub async fn all(client: &Client, namespace: &str) -> Result<Vec<(Kind, DynamicObject)>, Error> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let list = api(client, kind, namespace)
            .list(&ListParams::default())
            .await?;
        found.extend(list.items.into_iter().map(|object| (kind, object)));
    }
    Ok(found)
}

/// A condition of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// True, False or Unknown.
    pub status: String,
    /// Stable word.
    pub reason: String,
    /// Sentence.
    pub message: String,
}

/// The condition of a type, if the object has it for its present generation.
pub fn condition(object: &DynamicObject, kind: &str) -> Option<Condition> {
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    let conditions = object.data.pointer("/status/conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))?;
    let observed = found.get("observedGeneration").and_then(Value::as_i64);
    if observed.is_some() && observed != object.metadata.generation {
        return None;
    }
    Some(Condition {
        status: text(found, "status"),
        reason: text(found, "reason"),
        message: text(found, "message"),
    })
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Work to do, or waiting; with the reason in words.
    Pending(String),
    /// Ready.
    Ready,
    /// It will not go on by itself.
    Failed(String),
}

/// The state that the conditions tell.
pub fn state(object: &DynamicObject) -> State {
    if let Some(stalled) =
        condition(object, "Stalled").filter(|condition| condition.status == "True")
    {
        return State::Failed(format!("{}: {}", stalled.reason, stalled.message));
    }
    match condition(object, "Ready") {
        Some(ready) if ready.status == "True" => State::Ready,
        Some(ready) => State::Pending(format!("{}: {}", ready.reason, ready.message)),
        None => State::Pending("not looked at yet".into()),
    }
}

/// A string below status or spec.
pub fn text<'a>(object: &'a DynamicObject, pointer: &str) -> Option<&'a str> {
    object.data.pointer(pointer)?.as_str()
}

/// `Kind/name`.
pub fn title(kind: Kind, object: &DynamicObject) -> String {
    format!("{kind}/{}", object.name_any())
}

/// The references of a spec: every `...Ref`, `...Refs` and dataset of a mixture, as kind and name.
pub fn references(kind: Kind, object: &DynamicObject) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    if let Some(spec) = object.data.get("spec") {
        walk(spec, "", &mut found);
        if kind == Kind::PretrainJob {
            for share in spec
                .get("datasets")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if let Some(name) = share.get("name").and_then(Value::as_str) {
                    found.push((Kind::Dataset, name.into()));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn walk(value: &Value, field: &str, found: &mut Vec<(Kind, String)>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map
                .get("name")
                .and_then(Value::as_str)
                .filter(|_| field.ends_with("Ref") || field.ends_with("Refs"))
            {
                let by_field = match field {
                    "datasetRef" => Some(Kind::Dataset),
                    "evaluationRef" | "evaluationRefs" => Some(Kind::Evaluation),
                    "deploymentRef" => Some(Kind::Deployment),
                    "rewardModelRef" | "fineTuneRef" => Some(Kind::FineTune),
                    _ => None,
                };
                let by_kind = map.get("kind").and_then(Value::as_str).and_then(kind_of);
                if let Some(kind) = by_kind.or(by_field) {
                    found.push((kind, name.into()));
                }
                return;
            }
            map.iter()
                .for_each(|(name, child)| walk(child, name, found));
        }
        Value::Array(list) => list.iter().for_each(|child| walk(child, field, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(data: Value) -> DynamicObject {
        let mut object = DynamicObject::new("x", &resource(Kind::Deployment)).data(data);
        object.metadata.generation = Some(2);
        object
    }

    #[test]
    fn kinds_are_known_by_every_name() {
        assert_eq!(parse("pj/a").unwrap(), (Kind::PretrainJob, "a"));
        assert_eq!(
            parse("deployments.bessemer.dev/a").unwrap().0,
            Kind::Deployment
        );
        assert_eq!(parse("FineTune/a").unwrap().0, Kind::FineTune);
        assert!(parse("pods/a").is_err() && parse("pj").is_err());
    }

    #[test]
    fn a_condition_of_an_old_generation_does_not_count() {
        let ready = |generation: i64| {
            object(json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "Served", "message": "", "observedGeneration": generation}
            ]}}))
        };
        assert_eq!(state(&ready(2)), State::Ready);
        assert!(matches!(state(&ready(1)), State::Pending(_)));
        let stalled = object(json!({"status": {"conditions": [
            {"type": "Stalled", "status": "True", "reason": "GateFailed", "message": "too bad"},
            {"type": "Ready", "status": "False", "reason": "GateFailed", "message": "too bad"}
        ]}}));
        assert_eq!(state(&stalled), State::Failed("GateFailed: too bad".into()));
    }

    #[test]
    fn references_are_found_wherever_they_stand() {
        let found = references(
            Kind::Deployment,
            &object(json!({"spec": {
                "modelRef": {"kind": "FineTune", "name": "chat"},
                "gates": [{"evaluationRef": {"name": "e"}, "expression": "true"}],
                "auth": {"apiKeysSecretRef": {"name": "keys"}}
            }})),
        );
        assert_eq!(
            found,
            [
                (Kind::FineTune, "chat".into()),
                (Kind::Evaluation, "e".into())
            ]
        );
    }
}

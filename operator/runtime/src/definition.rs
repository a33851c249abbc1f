//! Owns the check that the cluster's definitions have every field this operator works with. It must not change them.
//!
//! A field that the API server does not know is dropped from what users apply, silently: the operator would do less
//! than was asked. What the server knows is in its public OpenAPI document, which any account may read.

use std::time::Duration;

use bessemer_api::{GROUP, VERSION, definitions};
use kube::Client;
use serde_json::Value;

/// Longest wait for the document.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why the operator must not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server knows none of our kinds.
    #[error(
        "the API server knows no {GROUP}/{VERSION}; install charts/bessemer-crds, then this starts by itself"
    )]
    Missing,
    /// A field is unknown to it.
    #[error(
        "the cluster's definitions are older than this operator: {kind} has no {field}; upgrade charts/bessemer-crds, \
         then this starts by itself"
    )]
    Old {
        /// Our kind.
        kind: String,
        /// Path of the first field that is unknown.
        field: String,
    },
}

impl Error {
    /// Stable word for exit messages.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Missing => "DefinitionsMissing",
            Self::Old { .. } => "DefinitionsOld",
        }
    }
}

/// Compares the API server's definitions with ours. A server that does not answer is no reason to stop: what needs it
/// waits for it.
///
/// # Errors
/// [`Error::Missing`] and [`Error::Old`].
pub async fn check(client: &Client) -> Result<(), Error> {
    let document = async {
        let request = http::Request::get(format!("/openapi/v3/apis/{GROUP}/{VERSION}"));
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        client.request::<Value>(request).await
    };
    match tokio::time::timeout(DEADLINE, document).await {
        Ok(Ok(document)) => return compare(&document),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Err(Error::Missing),
        Ok(Err(error)) => tracing::warn!(%error, "the definitions are not checked"),
        Err(_) => tracing::warn!("the definitions are not checked: no answer in time"),
    }
    Ok(())
}

fn compare(document: &Value) -> Result<(), Error> {
    let schemas = document.pointer("/components/schemas");
    let schemas = schemas.and_then(Value::as_object);
    for definition in definitions() {
        let kind = definition.spec.names.kind.clone();
        let known = schemas.into_iter().flatten().find_map(|(_, schema)| {
            let names = schema.get("x-kubernetes-group-version-kind")?.as_array()?;
            let ours = |name: &Value| {
                let is = |field: &str, value: &str| {
                    name.get(field).and_then(Value::as_str) == Some(value)
                };
                is("group", GROUP) && is("version", VERSION) && is("kind", &kind)
            };
            names.iter().any(ours).then_some(schema)
        });
        let known = known.ok_or(Error::Missing)?;
        let whole = serde_json::to_value(&definition).unwrap_or_default();
        let ours = whole.pointer("/spec/versions/0/schema/openAPIV3Schema");
        if let Some(field) = ours.and_then(|ours| unknown(ours, known, "")) {
            return Err(Error::Old { kind, field });
        }
    }
    Ok(())
}

/// Path of the first property of `wanted` that `known` has not.
fn unknown(wanted: &Value, known: &Value, at: &str) -> Option<String> {
    if let Some(properties) = wanted.get("properties").and_then(Value::as_object) {
        return properties.iter().find_map(|(name, wanted)| {
            let dot = if at.is_empty() { "" } else { "." };
            let at = format!("{at}{dot}{name}");
            match known.get("properties").and_then(|all| all.get(name)) {
                Some(known) => unknown(wanted, known, &at),
                None => Some(at),
            }
        });
    }
    ["items", "additionalProperties"]
        .into_iter()
        .find_map(|inner| {
            let wanted = wanted.get(inner).filter(|inner| inner.is_object())?;
            match known.get(inner) {
                Some(known) => unknown(wanted, known, &format!("{at}[]")),
                None => Some(format!("{at}[]")),
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What an API server with our own definitions publishes.
    fn published() -> Value {
        let mut document = json!({"components": {"schemas": {}}});
        for definition in definitions() {
            let kind = definition.spec.names.kind.clone();
            let whole = serde_json::to_value(&definition).unwrap();
            let mut schema = whole["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": GROUP, "version": VERSION, "kind": kind}]);
            document["components"]["schemas"][format!("dev.bessemer.v1alpha1.{kind}")] = schema;
        }
        document
    }

    #[test]
    fn newer_definitions_are_no_obstacle_and_a_missing_field_is_named() {
        let mut document = published();
        compare(&document).unwrap();
        let spec =
            "/components/schemas/dev.bessemer.v1alpha1.Deployment/properties/spec/properties";
        let at = |path: &str| format!("{spec}{path}");
        let of = |document: &mut Value, path: &str| {
            document
                .pointer_mut(&at(path))
                .unwrap()
                .as_object_mut()
                .unwrap()
                .clone()
        };
        let mut more = of(&mut document, "");
        more.insert("ofTomorrow".into(), json!({"type": "string"}));
        *document.pointer_mut(spec).unwrap() = json!(more);
        compare(&document).unwrap();

        let steps = "/rollout/properties/steps/items/properties";
        let mut fewer = of(&mut document, steps);
        fewer.remove("holdSeconds");
        *document.pointer_mut(&at(steps)).unwrap() = json!(fewer);
        let error = compare(&document).unwrap_err();
        assert_eq!(error.category(), "DefinitionsOld");
        assert!(
            error.to_string().contains(
                "Deployment has no spec.rollout.steps[].holdSeconds; upgrade charts/bessemer-crds"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_kind_that_is_missing_is_told() {
        let mut document = published();
        let schemas = document["components"]["schemas"].as_object_mut().unwrap();
        schemas.remove("dev.bessemer.v1alpha1.Evaluation");
        assert_eq!(
            compare(&document).unwrap_err().category(),
            "DefinitionsMissing"
        );
    }
}

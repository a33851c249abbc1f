//! Owns the reading of a request body into an object: syntax, kind, unknown fields; must not look at stored state.

use serde_json::Value;

use crate::handler::Call;
use crate::object;
use crate::protobuf;
use crate::registry::Resource;
use crate::schema::prune::{self, Unknown};
use crate::status::{Cause, Failure};

/// What to do with unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Parses JSON, or YAML where the text is no JSON.
///
/// # Errors
/// 400 when it is neither.
pub fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(json_error) => match serde_yaml::from_slice::<Value>(bytes) {
            Ok(value) if value.is_object() || value.is_array() => Ok(value),
            _ => Err(Failure::bad_request(format!(
                "the body of the request is no JSON: {json_error}"
            ))),
        },
    }
}

/// Reads the body of a create or update.
///
/// # Errors
/// 400 for a wrong kind or, under strict field validation, unknown fields.
pub fn decode(call: &Call, bytes: &[u8], warnings: &mut Vec<String>) -> Result<Value, Failure> {
    let resource = &call.target.resource;
    let mut value = if call.content_type == "application/vnd.kubernetes.protobuf" {
        protobuf::read(bytes).map_err(|why| {
            Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml ({why})"
            ))
        })?
    } else {
        parse(bytes)?
    };
    check_kind(resource, &mut value)?;
    tidy(call, resource, &mut value, warnings)?;
    if resource.custom {
        prune::nulls(resource.schema.root(), &mut value);
    }
    Ok(value)
}

/// The body must be of the resource's kind; built-in kinds may leave both words out.
fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), Failure> {
    if !value.is_object() {
        return Err(Failure::bad_request(format!(
            "couldn't get version/kind; json parse error: the body is no object but {value}"
        )));
    }
    let wanted = (resource.api_version(), resource.kind.as_str());
    let version = object::text(value, &["apiVersion"]).to_owned();
    let kind = object::text(value, &["kind"]).to_owned();
    if resource.custom && kind.is_empty() {
        return Err(Failure::bad_request(
            "Object 'Kind' is missing in the body of the request",
        ));
    }
    if resource.custom && kind != wanted.1 && version == wanted.0 {
        let mut other = resource.clone();
        other.kind.clone_from(&kind);
        let cause = Cause::invalid(
            "kind",
            &kind.as_str().into(),
            &format!("must be {}", wanted.1),
        );
        return Err(Failure::invalid(&other, object::name(value), &[cause]));
    }
    if !kind.is_empty() && kind != wanted.1 {
        let shown = if version.is_empty() {
            &wanted.0
        } else {
            &version
        };
        let short = shown.rsplit('/').next().unwrap_or_default();
        return Err(Failure::bad_request(format!(
            "{kind} in version \"{short}\" cannot be handled as a {}: converting ({kind}) to ({}): unknown conversion",
            wanted.1, wanted.1
        )));
    }
    if !version.is_empty() && version != wanted.0 {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            wanted.0
        )));
    }
    let map = object::map(value);
    map.insert("apiVersion".into(), wanted.0.into());
    map.insert("kind".into(), wanted.1.into());
    Ok(())
}

/// Drops unknown fields with the warning or refusal that was asked for.
///
/// # Errors
/// 400 under strict field validation, or when a built-in field has the wrong type.
pub fn tidy(
    call: &Call,
    resource: &Resource,
    value: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let mode = match call.query.get("fieldValidation") {
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        None | Some("Warn") => FieldValidation::Warn,
        Some(other) => {
            return Err(Failure::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
            )));
        }
    };
    let read = if resource.custom {
        prune::custom(resource.schema.root(), value)
    } else {
        prune::builtin(resource.schema.root(), value)
    };
    let unknown: Vec<Unknown> = read.map_err(|mismatch| {
        Failure::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {mismatch}",
            kind = resource.kind,
            version = resource.version,
        ))
    })?;
    if unknown.is_empty() {
        return Ok(());
    }
    let sentences: Vec<String> = unknown
        .iter()
        .map(|u| format!("unknown field {:?}", u.0))
        .collect();
    match mode {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(sentences);
            Ok(())
        }
        FieldValidation::Strict => Err(Failure::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
            sentences.join(", "),
            kind = resource.kind,
            version = resource.version,
        ))),
    }
}

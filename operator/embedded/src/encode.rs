//! Owns turning answers into HTTP: plain JSON, tables and metadata only, as the Accept header asks. Must not read state.

mod builtin;
mod path;
mod table;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::Body;
use crate::handler::{List, WatchEvent};
use crate::object;
use crate::registry::Resource;
use crate::request::{Query, Target};
use crate::status::Failure;

/// The form an answer is wanted in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Plain,
    /// metadata only.
    Metadata,
    /// Columns, with what each row carries: `None`, `Metadata` or `Object`.
    Table(String),
    /// Aggregated discovery in this version (`v2`).
    Discovery(String),
    /// Another media type, such as protobuf.
    Other(String),
}

impl Form {
    /// Reads the Accept header: the first form that can be served.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        let accept = parts
            .headers
            .get(header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let include = Query::parse(parts.uri.query().unwrap_or_default())
            .get("includeObject")
            .unwrap_or("Metadata")
            .to_owned();
        let mut other = None;
        for choice in accept.split(',') {
            let mut words = choice.split(';').map(str::trim);
            let media = words.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = words.filter_map(|w| w.split_once('=')).collect();
            let parameter = |key: &str| parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
            if !matches!(
                media,
                "application/json" | "*/*" | "application/*" | "" | "application/yaml"
            ) {
                other.get_or_insert_with(|| media.to_owned());
                continue;
            }
            match (parameter("as"), parameter("v")) {
                (None, _) => return Self::Plain,
                (Some("Table"), Some("v1")) => return Self::Table(include),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => {
                    return Self::Metadata;
                }
                (Some("APIGroupDiscoveryList"), Some(version @ ("v2" | "v2beta1"))) => {
                    return Self::Discovery(version.to_owned());
                }
                _ => {}
            }
        }
        other.map_or(Self::Plain, Self::Other)
    }

    /// The object of a watch event in this form; `headed` when the columns were sent before.
    #[must_use]
    pub fn event(
        &self,
        event: &WatchEvent,
        resource: &Resource,
        headed: bool,
        now: Timestamp,
    ) -> Arc<Value> {
        let object = &event.object;
        let shown = match self {
            _ if event.kind == "ERROR" => return object.clone(),
            Self::Table(_) if event.kind == "BOOKMARK" => table::table(
                resource,
                &[],
                object.get("metadata").cloned().unwrap_or_default(),
                "None",
                headed,
                now,
            ),
            Self::Table(include) => {
                let version = object::text(object, &["metadata", "resourceVersion"]);
                table::table(
                    resource,
                    std::slice::from_ref(object),
                    json!({"resourceVersion": version}),
                    include,
                    headed,
                    now,
                )
            }
            Self::Metadata => metadata(object),
            _ => return object.clone(),
        };
        Arc::new(shown)
    }
}

fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A JSON answer.
#[must_use]
pub fn json_response(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::whole(format!("{value}\n")));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A refusal.
#[must_use]
pub fn failure(failure: &Failure) -> Response<Body> {
    let mut response = json_response(failure.code, &failure.to_value());
    let seconds = failure
        .details
        .as_ref()
        .and_then(|d| d.get("retryAfterSeconds"))
        .and_then(Value::as_u64);
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// One object in the form asked for.
#[must_use]
pub fn object(
    code: u16,
    object: &Arc<Value>,
    resource: &Resource,
    target: &Target,
    form: &Form,
    now: Timestamp,
) -> Response<Body> {
    let status = object::text(object, &["kind"]) == "Status"
        && object::text(object, &["apiVersion"]) == "v1";
    if status || !target.subresource.is_empty() && target.subresource != "status" {
        return json_response(code, object);
    }
    match form {
        Form::Table(include) => {
            let version = object::text(object, &["metadata", "resourceVersion"]);
            let value = table::table(
                resource,
                std::slice::from_ref(object),
                json!({"resourceVersion": version}),
                include,
                false,
                now,
            );
            json_response(code, &value)
        }
        Form::Metadata => json_response(code, &metadata(object)),
        Form::Other(media) => not_acceptable(media),
        _ => json_response(code, object),
    }
}

fn not_acceptable(media: &str) -> Response<Body> {
    let mut refused = Failure::not_acceptable(format!(
        "406: Not Acceptable

Available representations: application/json, application/yaml (not {media})"
    ));
    refused.details = Some(json!({}));
    failure(&refused)
}

/// A list in the form asked for.
#[must_use]
pub fn list(list: &List, resource: &Resource, form: &Form, now: Timestamp) -> Response<Body> {
    let mut meta = Map::new();
    meta.insert("resourceVersion".into(), list.revision.to_string().into());
    if !list.next.is_empty() || resource.custom && *form == Form::Plain {
        meta.insert("continue".into(), list.next.clone().into());
    }
    if let Some(remaining) = list.remaining {
        meta.insert("remainingItemCount".into(), remaining.into());
    }
    let meta = Value::Object(meta);
    let value = match form {
        Form::Table(include) => table::table(resource, &list.items, meta, include, false, now),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "items": list.items.iter().map(|i| metadata(i)).collect::<Vec<_>>(),
        }),
        Form::Other(media) => return not_acceptable(media),
        _ => {
            // Items of built-in lists carry no kind of their own.
            let items: Vec<Value> = list
                .items
                .iter()
                .map(|item| {
                    let mut item = (**item).clone();
                    if !resource.custom {
                        let map = object::map(&mut item);
                        map.remove("kind");
                        map.remove("apiVersion");
                    }
                    item
                })
                .collect();
            json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": meta, "items": items})
        }
    };
    json_response(200, &value)
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text = warning
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

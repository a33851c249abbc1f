//! Owns synchronous calls to the embedded API for users and actors of the simulation; no fault touches them.

use bessemer_api::Kind;
use bessemer_embedded::Api;
use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::object::NAMESPACE;

/// Sends one request; returns the HTTP status and the answer.
pub fn call(api: &Api, method: Method, path: &str, content: &str, body: &Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, content)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "simulation")
        .body(());
    let Ok(request) = request else {
        return (0, Value::Null);
    };
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let answer = api.answer(&request.into_parts().0, body);
    let code = answer.status().as_u16();
    let bytes = answer
        .into_body()
        .collect()
        .now_or_never()
        .and_then(Result::ok)
        .map(|b| b.to_bytes());
    (
        code,
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default(),
    )
}

/// Path of one of our objects.
#[must_use]
pub fn ours(kind: Kind, name: &str) -> String {
    format!(
        "/apis/bessemer.dev/v1alpha1/namespaces/{NAMESPACE}/{}/{name}",
        kind.plural()
    )
}

/// Table of one of our kinds.
#[must_use]
pub fn table(kind: Kind) -> String {
    format!("{}.bessemer.dev", kind.plural())
}

/// One of our objects as a manifest.
#[must_use]
pub fn whole(kind: Kind, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "bessemer.dev/v1alpha1", "kind": kind.name(),
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

/// Applies a spec as `kubectl apply --server-side` does. Returns the HTTP status.
pub fn apply(api: &Api, kind: Kind, name: &str, spec: &Value) -> (u16, Value) {
    let body = whole(kind, name, spec);
    let path = format!("{}?fieldManager=kubectl&force=true", ours(kind, name));
    call(
        api,
        Method::PATCH,
        &path,
        "application/apply-patch+yaml",
        &body,
    )
}

/// Deletes one of our objects. Returns the HTTP status.
pub fn delete(api: &Api, kind: Kind, name: &str) -> u16 {
    call(
        api,
        Method::DELETE,
        &ours(kind, name),
        "application/json",
        &Value::Null,
    )
    .0
}

/// Merge patch. Returns the HTTP status.
pub fn merge(api: &Api, path: &str, patch: &Value) -> u16 {
    call(
        api,
        Method::PATCH,
        path,
        "application/merge-patch+json",
        patch,
    )
    .0
}

/// A text field by JSON pointer.
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

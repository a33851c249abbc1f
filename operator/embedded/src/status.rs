//! Owns the shape of Kubernetes `Status` answers; must not know about storage or transport.

use serde_json::{Map, Value, json};

use crate::registry::Resource;

/// One field error of a 422 answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine word: `FieldValueRequired`, `FieldValueInvalid`, ...
    pub reason: &'static str,
    /// What is wrong, without the field.
    pub message: String,
    /// Path of the field, such as `spec.replicas`.
    pub field: String,
}

impl Cause {
    /// A field that must be given.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            reason: "FieldValueRequired",
            message,
            field: field.into(),
        }
    }

    /// A field whose value is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::invalid_as(field, &describe(value), detail)
    }

    /// A field whose value, printed as `shown`, is not allowed.
    pub fn invalid_as(field: impl Into<String>, shown: &str, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {shown}: {detail}"),
            field: field.into(),
        }
    }

    /// A field that must not be given or changed.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
            field: field.into(),
        }
    }

    /// A value that must not appear twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {}", describe(value)),
            field: field.into(),
        }
    }

    /// A value outside a closed list.
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[String]) -> Self {
        let quoted: Vec<String> = allowed.iter().map(|v| format!("{v:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {}: supported values: {}",
                describe(value),
                quoted.join(", ")
            ),
            field: field.into(),
        }
    }

    /// A value of the wrong JSON type.
    pub fn type_invalid(field: impl Into<String>, shown: &str, detail: &str) -> Self {
        Self {
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {shown}: {detail}"),
            field: field.into(),
        }
    }

    fn sentence(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }
}

/// A value as Kubernetes prints it inside a field error.
fn describe(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// A refusal: becomes a `Status` object with the HTTP code `code`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes reason word, such as `NotFound`.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// `details` of the Status, if any.
    pub details: Option<Value>,
    /// `metadata.continue`: where a new list goes on.
    pub page: Option<String>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            page: None,
        }
    }

    fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Stable word for metrics and logs.
    #[must_use]
    pub fn category(&self) -> &'static str {
        self.reason
    }

    /// The request itself makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A request that the server takes as an error of its own: no reason, no details.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// The verb does not exist on this custom resource.
    #[must_use]
    pub fn not_supported(resource: &Resource, verb: &str) -> Self {
        if !resource.custom {
            return Self::method_not_allowed();
        }
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            resource.qualified()
        );
        Self::new(405, "MethodNotAllowed", message)
            .with_details(json!({"group": resource.group, "kind": resource.plural}))
    }

    /// Options of a request (`ListOptions`, `PatchOptions`) that make no sense.
    #[must_use]
    pub fn options(kind: &str, cause: &Cause) -> Self {
        Self::new(
            422,
            "Invalid",
            format!("{kind}.meta.k8s.io \"\" is invalid: {}", cause.sentence()),
        )
        .with_details(json!({
            "group": "meta.k8s.io", "kind": kind,
            "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}],
        }))
    }

    /// A patch whose result cannot be read.
    #[must_use]
    pub fn patch_result(result: &Value, why: &str) -> Self {
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {:?}: {why}", result.to_string()),
            field: "patch".to_owned(),
        };
        Self::new(
            422,
            "Invalid",
            format!(" \"\" is invalid: {}", cause.sentence()),
        )
        .with_details(json!({
            "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}],
        }))
    }

    /// An update that must name the version it replaces.
    #[must_use]
    pub fn needs_version(resource: &Resource, name: &str) -> Self {
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &0.into(),
            "must be specified for an update",
        );
        let mut details = details(resource, name);
        crate::object::set(
            &mut details,
            &["causes"],
            json!([
            {"reason": cause.reason, "message": cause.message, "field": cause.field}]),
        );
        Self::new(
            422,
            "Invalid",
            format!(
                "{} {name:?} is invalid: {}",
                resource.qualified(),
                cause.sentence()
            ),
        )
        .with_details(details)
    }

    /// A deletion whose precondition on `what` does not hold.
    #[must_use]
    pub fn precondition(
        resource: &Resource,
        name: &str,
        what: &str,
        wanted: &str,
        actual: &str,
    ) -> Self {
        let hint = if what == "UID" {
            "deleted and then recreated"
        } else {
            "modified"
        };
        let mut named = resource.clone();
        named.plural.clone_from(&resource.kind);
        Self::conflict(
            &named,
            name,
            &format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). The object might have been {hint}"
            ),
        )
    }

    /// No or a wrong bearer token.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// Nothing lives at this address.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(json!({}))
    }

    /// The verb does not exist on this resource.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(json!({}))
    }

    /// None of the media types asked for can be served.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// The body's media type is not understood.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The object does not exist.
    #[must_use]
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", resource.qualified()),
        )
        .with_details(details(resource, name))
    }

    /// An object of this name exists.
    #[must_use]
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", resource.qualified()),
        )
        .with_details(details(resource, name))
    }

    /// Optimistic concurrency was lost, or a precondition failed.
    #[must_use]
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                resource.qualified()
            ),
        )
        .with_details(details(resource, name))
    }

    /// The standard sentence of a lost resourceVersion race.
    #[must_use]
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Server-side apply conflicts: (manager sentence, field path).
    #[must_use]
    pub fn apply_conflict(message: String, causes: Vec<(String, String)>) -> Self {
        let causes: Vec<Value> = causes
            .into_iter()
            .map(|(message, field)| json!({"reason": "FieldManagerConflict", "message": message, "field": field}))
            .collect();
        Self::new(409, "Conflict", message).with_details(json!({ "causes": causes }))
    }

    /// Policy refuses.
    #[must_use]
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            403,
            "Forbidden",
            format!("{} {name:?} is forbidden: {why}", resource.qualified()),
        )
        .with_details(details(resource, name))
    }

    /// Validation failed. `kind` is the kind's name, causes must not be empty.
    #[must_use]
    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let sentences: Vec<String> = causes.iter().map(Cause::sentence).collect();
        let joined = match sentences.as_slice() {
            [one] => one.clone(),
            many => {
                // Kubernetes' aggregate drops repeated sentences.
                let mut seen = Vec::new();
                for sentence in many {
                    if !seen.contains(sentence) {
                        seen.push(sentence.clone());
                    }
                }
                if seen.len() == 1 {
                    seen.concat()
                } else {
                    format!("[{}]", seen.join(", "))
                }
            }
        };
        let qualified = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut detail = Map::new();
        if !name.is_empty() {
            detail.insert("name".into(), name.into());
        }
        if !resource.group.is_empty() {
            detail.insert("group".into(), resource.group.clone().into());
        }
        detail.insert("kind".into(), resource.kind.clone().into());
        detail.insert(
            "causes".into(),
            causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect(),
        );
        Self::new(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {joined}"),
        )
        .with_details(Value::Object(detail))
    }

    /// A patch that cannot be carried out.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// History needed for the answer is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The asked resourceVersion lies in the future.
    #[must_use]
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        Self::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        )
        .with_details(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1
        }))
    }

    /// The server itself failed (storage).
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
        .with_details(json!({"causes": [{"message": message}]}))
    }

    /// An injected failure with the standard reason of `code` (429, 500, 503, 504; others read as 500).
    #[must_use]
    pub fn injected(code: u16) -> Self {
        let (code, reason) = match code {
            409 => (409, "Conflict"),
            429 => (429, "TooManyRequests"),
            503 => (503, "ServiceUnavailable"),
            504 => (504, "Timeout"),
            _ => (500, "InternalError"),
        };
        Self::new(code, reason, format!("injected failure {code}"))
    }

    /// The `Status` object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            crate::object::set(&mut status, &["reason"], self.reason.into());
        }
        if let (Some(details), Some(map)) = (&self.details, status.as_object_mut()) {
            map.insert("details".into(), details.clone());
        }
        if let Some(page) = &self.page {
            crate::object::set(&mut status, &["metadata", "continue"], page.clone().into());
        }
        status
    }
}

/// `details` naming one object.
#[must_use]
pub fn details(resource: &Resource, name: &str) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), name.into());
    if !resource.group.is_empty() {
        map.insert("group".into(), resource.group.clone().into());
    }
    map.insert("kind".into(), resource.plural.clone().into());
    Value::Object(map)
}

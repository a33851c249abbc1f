//! Owns how errors look to clients: OpenAI's error body, the status codes and Retry-After. It must
//! not decide when an error happens.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error as an OpenAI client understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable PascalCase word, for metrics and the body's `code`.
    pub category: &'static str,
    /// A sentence that ends with what to do.
    pub message: String,
    /// The request field that is wrong.
    pub parameter: Option<String>,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u32>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl Fault {
    fn new(status: StatusCode, category: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            category,
            message: message.into(),
            parameter: None,
            retry_after: None,
        }
    }

    /// 400: `parameter` of the request is wrong.
    #[must_use]
    pub fn invalid(parameter: &str, message: impl Into<String>) -> Self {
        let parameter = (!parameter.is_empty()).then(|| parameter.to_owned());
        Self {
            parameter,
            ..Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
        }
    }

    /// 401: no or a wrong API key.
    #[must_use]
    pub fn unauthorized() -> Self {
        let message = "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.";
        Self::new(StatusCode::UNAUTHORIZED, "InvalidApiKey", message)
    }

    /// 404: no such model or path.
    #[must_use]
    pub fn not_found(category: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, category, message)
    }

    /// 405: the path exists for another method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The path does not take this method; see the API reference.",
        )
    }

    /// 413: the body is larger than `limit` bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let message =
            format!("The request body is larger than {limit} bytes. Send fewer prompts at once.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge", message)
    }

    /// 429: the queue is full.
    #[must_use]
    pub fn busy(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "QueueFull", message)
        }
    }

    /// 503: cannot answer now.
    #[must_use]
    pub fn unavailable(category: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(2),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, category, message)
        }
    }

    /// 500: a defect.
    #[must_use]
    pub fn internal(category: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, category, message)
    }

    /// The body as JSON text, also for errors in the middle of a stream.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let body = Body {
            error: Inner {
                message: &self.message,
                r#type: match self.status.as_u16() {
                    401 => "authentication_error",
                    429 => "rate_limit_error",
                    status if status >= 500 => "server_error",
                    _ => "invalid_request_error",
                },
                param: self.parameter.as_deref(),
                code: self.category,
            },
        };
        serde_json::to_value(body).unwrap_or_default()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Cause(self.category));
        response
    }
}

/// The category of a fault, left in the response's extensions for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_status_and_retry_follow_openai() {
        let fault = Fault::invalid("max_tokens", "max_tokens must be positive.");
        assert_eq!(
            fault.json(),
            serde_json::json!({"error": {"message": "max_tokens must be positive.", "type": "invalid_request_error",
                "param": "max_tokens", "code": "InvalidRequest"}})
        );
        let response = Fault::busy("full").into_response();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["retry-after"]
            ),
            (429, &HeaderValue::from(1))
        );
        assert_eq!(response.extensions().get(), Some(&Cause("QueueFull")));
        assert_eq!(
            Fault::unavailable("Draining", "x").json()["error"]["type"],
            "server_error"
        );
        assert!(
            Fault::unauthorized()
                .into_response()
                .headers()
                .get("retry-after")
                .is_none()
        );
    }
}

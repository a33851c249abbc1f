//! Owns the `log` subresource of pods: options and streaming. Must not run pods (the node agent offers the lines).

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use http::{Response, header};

use crate::api::{Body, BoxError};
use crate::encode;
use crate::request::Query;
use crate::status::Failure;

/// Pieces of a log in order.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// What a reader wants of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Container; "" means the only one.
    pub container: String,
    /// Whether to go on as the log grows.
    pub follow: bool,
    /// Whether the container's run before the present one is meant.
    pub previous: bool,
    /// Only this many last lines.
    pub tail_lines: Option<u64>,
    /// Only lines of the last seconds.
    pub since_seconds: Option<u64>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Gives the logs of pods; implemented by whatever runs them.
pub trait LogSource: Send + Sync {
    /// Opens the log of a pod's container.
    ///
    /// # Errors
    /// A sentence when there is no such container or log.
    fn open(&self, namespace: &str, pod: &str, options: &LogOptions) -> Result<LogStream, String>;
}

/// Answers a log request.
pub(crate) fn respond(
    source: &dyn LogSource,
    namespace: &str,
    pod: &str,
    query: &Query,
) -> Response<Body> {
    let options = match options(query) {
        Ok(options) => options,
        Err(failure) => return encode::failure(&failure),
    };
    match source.open(namespace, pod, &options) {
        Ok(stream) => {
            let mut response = Response::new(Body::stream(stream));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("text/plain"),
            );
            response
        }
        Err(message) => encode::failure(&Failure::bad_request(message)),
    }
}

fn options(query: &Query) -> Result<LogOptions, Failure> {
    Ok(LogOptions {
        container: query.get("container").unwrap_or_default().to_owned(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines: query.number("tailLines")?,
        since_seconds: query.number("sinceSeconds")?,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
    })
}

//! Owns the way of one request to a backend and of its answer back: what is forwarded, when it is
//! tried again, and what is measured. It must not choose the backend's share.
//!
//! A request is tried again only while nothing of an answer has been seen and nothing can have been
//! done: the connection failed, or the backend said that it is draining.

use crate::backend::{Backend, InFlight};
use crate::fault::Fault;
use crate::metric::{Metrics, Target};
use crate::table::Table;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, request};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Header that names the weights which answered.
pub const DIGEST: HeaderName = HeaderName::from_static("x-bessemer-digest");
/// Header of a 503 by which a server says that it is draining and has not begun the request.
pub const DRAINING: HeaderName = HeaderName::from_static("x-bessemer-draining");
/// Attempts per request.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubles with each further one.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends requests to backends over pooled connections.
#[derive(Clone, Debug)]
pub struct Proxy {
    client: Client<HttpConnector, Full<Bytes>>,
    metrics: Metrics,
}

impl Proxy {
    /// A proxy without connections.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .build(connector);
        Self { client, metrics }
    }

    /// Asks a backend's `/ready`.
    ///
    /// # Errors
    /// Why it is not ready, in words.
    pub async fn probe(&self, backend: &Backend) -> Result<(), String> {
        let uri: Uri = format!("{}/ready", backend.configured.url.trim_end_matches('/'))
            .parse()
            .map_err(|error| format!("{error}"))?;
        match tokio::time::timeout(Duration::from_secs(2), self.client.get(uri)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("its /ready answers {}", response.status().as_u16())),
            Ok(Err(error)) => Err(cause(&error)),
            Err(_) => Err("its /ready does not answer within 2 s".to_owned()),
        }
    }

    /// Forwards a request with its whole `body`. `counted` requests take part in the split.
    ///
    /// # Errors
    /// 503 when no backend can take it.
    pub async fn forward(
        &self,
        table: &Table,
        parts: request::Parts,
        body: Bytes,
        counted: bool,
        token: TaskTrackerToken,
    ) -> Result<Response<Body>, Fault> {
        let arrived = Instant::now();
        let pick = || match counted {
            true => table.choose(),
            false => table
                .primary()
                .ok_or_else(|| "no revision of this model takes traffic".to_owned()),
        };
        let unavailable = |reason: String| {
            self.metrics.failed("", "NoRevisionReady");
            Fault::unavailable(
                "NoRevisionReady",
                format!("The model cannot answer now: {reason}. Try again shortly."),
            )
        };
        let mut backend = pick().map_err(unavailable)?;
        let mut in_flight = counted.then(|| backend.begin());
        let mut attempt = 0;
        loop {
            attempt += 1;
            let reason = match self.attempt(&backend, &parts, body.clone()).await {
                Ok(response) if !refused(&response) => {
                    return Ok(self.answer(response, backend, in_flight, arrived, token));
                }
                Ok(_) => "it is draining".to_owned(),
                Err(reason) => reason,
            };
            if attempt == ATTEMPTS {
                self.metrics
                    .failed(&backend.configured.name, "ConnectionFailed");
                backend.failed();
                backend.probed(Err(reason.clone()));
                let name = &backend.configured.name;
                return Err(Fault::unavailable(
                    "ConnectionFailed",
                    format!("Revision {name} cannot be reached: {reason}. Try again shortly."),
                ));
            }
            self.metrics.retries.inc();
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
            if !table.serves(&backend) {
                // The traffic has moved on since; so does the request.
                backend = pick().map_err(unavailable)?;
                in_flight = counted.then(|| backend.begin());
            }
        }
    }

    async fn attempt(
        &self,
        backend: &Backend,
        parts: &request::Parts,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, String> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("{}{path}", backend.configured.url.trim_end_matches('/'))
            .parse()
            .map_err(|error| format!("{error}"))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = end_to_end(&parts.headers);
        request.headers_mut().remove(header::HOST);
        request.headers_mut().remove(header::CONTENT_LENGTH);
        self.client
            .request(request)
            .await
            .map_err(|error| cause(&error))
    }

    fn answer(
        &self,
        response: Response<hyper::body::Incoming>,
        backend: Arc<Backend>,
        in_flight: Option<InFlight>,
        arrived: Instant,
        token: TaskTrackerToken,
    ) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        parts.headers = end_to_end(&parts.headers);
        if !parts.headers.contains_key(DIGEST)
            && let Ok(value) = HeaderValue::from_str(&backend.configured.digest)
        {
            parts.headers.insert(DIGEST, value);
        }
        let failed = parts.status.is_server_error();
        if failed {
            backend.failed();
            self.metrics.failed(&backend.configured.name, "ServerError");
        }
        let measured = Measured {
            body,
            backend,
            metrics: self.metrics.clone(),
            arrived,
            // Errors and lists tell nothing about the model's speed.
            unseen: in_flight.is_some() && parts.status.is_success(),
            tail: Vec::new(),
            done: failed,
            _in_flight: in_flight,
            _token: token,
        };
        Response::from_parts(parts, Body::new(measured))
    }
}

fn refused(response: &Response<hyper::body::Incoming>) -> bool {
    response.headers().contains_key(DRAINING)
}

/// The innermost reason of a client error, which is the one that means something.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

/// Headers without those that belong to one connection (RFC 9110, section 7.6.1).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named
        .flat_map(|value| {
            value
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
        })
        .collect();
    let hop = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::PROXY_AUTHORIZATION,
    ];
    let kept = headers.iter().filter(|(name, _)| {
        !hop.contains(name)
            && name.as_str() != "keep-alive"
            && !named.iter().any(|other| other == name.as_str())
    });
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A backend's body on its way to the client.
struct Measured {
    body: hyper::body::Incoming,
    backend: Arc<Backend>,
    metrics: Metrics,
    arrived: Instant,
    unseen: bool,
    /// The last bytes seen: the usage of an answer is at its end.
    tail: Vec<u8>,
    done: bool,
    _in_flight: Option<InFlight>,
    _token: TaskTrackerToken,
}

impl Measured {
    fn saw(&mut self, data: &Bytes) {
        const TAIL: usize = 2048;
        let now = Instant::now();
        if self.unseen && !data.is_empty() {
            self.unseen = false;
            let delay = now - self.arrived;
            self.backend.first_byte(now, delay);
            let target = Target {
                backend: self.backend.configured.name.clone(),
                digest: self.backend.configured.digest.clone(),
            };
            self.metrics
                .first_byte
                .get_or_create(&target)
                .observe(delay.as_secs_f64());
        }
        self.tail.extend_from_slice(data);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    fn ended(&mut self) {
        let now = Instant::now();
        if let Some(tokens) = completion_tokens(&self.tail) {
            self.backend
                .completed(now, tokens, (now - self.arrived).as_secs_f64());
        }
        self.done = true;
    }

    fn cut(&mut self) {
        if !self.done {
            self.done = true;
            self.backend.failed();
            self.metrics
                .failed(&self.backend.configured.name, "StreamCut");
        }
    }
}

/// The last `"completion_tokens":N` in the end of a body.
fn completion_tokens(tail: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(tail);
    let (_, after) = text.rsplit_once("\"completion_tokens\":")?;
    let digits = after.trim_start();
    let end = digits
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.saw(data);
                }
                if self.body.is_end_stream() && !self.done {
                    self.ended();
                }
            }
            Poll::Ready(Some(Err(_))) => self.cut(),
            Poll::Ready(None) if !self.done => self.ended(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("accept", "a"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let kept = end_to_end(&headers);
        assert_eq!(
            kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }

    #[test]
    fn usage_is_found_at_the_end_of_answers_and_streams() {
        assert_eq!(
            completion_tokens(br#"{"usage":{"prompt_tokens":3,"completion_tokens":17}}"#),
            Some(17.0)
        );
        assert_eq!(
            completion_tokens(
                b"data: {\"usage\": {\"completion_tokens\": 5,\"x\":1}}\n\ndata: [DONE]\n\n"
            ),
            Some(5.0)
        );
        assert_eq!(completion_tokens(b"data: [DONE]\n\n"), None);
    }
}

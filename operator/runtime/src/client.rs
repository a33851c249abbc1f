//! Owns the way to the API server: a client that counts its requests and never retries by itself.
//! It must not interpret answers. Retrying is the work queue's job: kube's own layer repeats POSTs for minutes.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use tower::{BoxError, Layer, Service};

use crate::metric::{self, Metrics};

/// A client for `config` whose requests are counted in `metrics`.
///
/// # Errors
/// A configuration that cannot be used: unreadable certificates, an unsupported proxy.
pub fn connect(mut config: kube::Config, metrics: &Metrics) -> Result<kube::Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&Counting(metrics.clone()))
        .build())
}

/// An answer must begin within this time; a watch begins to answer at once, so this bounds every request.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Counts requests by code, method and host, and bounds the wait for an answer.
#[derive(Clone)]
pub struct Counting(pub Metrics);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().to_string();
        let host = request.uri().host().unwrap_or("").to_owned();
        let requests = self.metrics.requests.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match tokio::time::timeout(ANSWER_DEADLINE, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(elapsed) => Err(elapsed.into()),
            };
            let code = answer
                .as_ref()
                .map_or("<error>".to_owned(), |a| a.status().as_str().to_owned());
            requests
                .get_or_create(&metric::Request { code, method, host })
                .inc();
            answer
        })
    }
}

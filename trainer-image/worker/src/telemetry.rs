//! Owns logs (JSON lines on standard error) and, where OTEL_EXPORTER_OTLP_ENDPOINT is set, spans over OTLP/HTTP; it
//! must not decide anything.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::Value;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What has to be flushed at the end.
#[must_use]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Starts logging; `RUST_LOG` filters, by default `info`.
    pub fn start(endpoint: Option<&str>) -> Self {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let logs = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(std::io::stderr);
        let provider = endpoint.map(provider);
        let (provider, problem) = match provider {
            Some(Ok(provider)) => (Some(provider), None),
            Some(Err(problem)) => (None, Some(problem)),
            None => (None, None),
        };
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer("bessemer"))
        });
        // A second subscriber in this process is impossible: main calls this once.
        let _ = tracing_subscriber::registry()
            .with(spans)
            .with(logs)
            .with(filter)
            .try_init();
        if let Some(problem) = problem {
            tracing::warn!(problem, "no spans are sent");
        }
        Self(provider)
    }

    /// Sends what is left.
    pub fn finish(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::debug!(%error, "spans were lost");
        }
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let url = format!(
        "{}/v1/traces",
        endpoint
            .trim_end_matches('/')
            .trim_end_matches("/v1/traces")
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder()
        .with_service_name("bessemer-worker")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// The context that a W3C `traceparent` names; `None` when it names none.
pub fn context(traceparent: &str) -> Option<Context> {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let valid = context.span().span_context().is_valid();
    valid.then_some(context)
}

/// Links the current span to the run that made an input, by its manifest's statistics.
pub fn link(statistics: &Value) {
    let made = statistics.get("traceparent").and_then(Value::as_str);
    if let Some(made) = made.and_then(context) {
        tracing::Span::current().add_link(made.span().span_context().clone());
    }
}

/// `traceparent` of the current span; `None` when spans are not recorded.
pub fn current() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    carrier.remove("traceparent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_nonsense_is_not() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = |text: &str| {
            context(text).map(|found| found.span().span_context().trace_id().to_string())
        };
        assert_eq!(trace(parent).unwrap(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace(""), None);
        assert_eq!(
            trace("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            None
        );
    }
}

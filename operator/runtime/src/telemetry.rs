//! Owns how logs and traces leave the process. It must not be called by anything that decides.

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter cannot be read.
    #[error(
        "log filter {filter:?} cannot be read: {reason}; write for example info,bessemer_runtime=debug"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The exporter cannot be built.
    #[error("spans cannot be sent to {endpoint}: {reason}")]
    Exporter {
        /// The OTLP endpoint.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// Something else has set up logging already.
    #[error("logging is already set up: {0}")]
    Taken(String),
}

impl Error {
    /// Stable word for exit messages.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "LogFilterInvalid",
            Self::Exporter { .. } => "TraceExporterInvalid",
            Self::Taken(_) => "LoggingTaken",
        }
    }
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Lines for people.
    Text,
}

/// Sends what is left when dropped.
#[must_use]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // Nothing can be done about spans that cannot be sent at the end.
            let _ = provider.shutdown();
        }
    }
}

/// Sets up logs on standard error and, if `endpoint` is given, spans over OTLP/HTTP.
///
/// # Errors
/// A filter that cannot be read, an endpoint that is none, or logging that is set up already.
pub fn install(
    service: &'static str,
    filter: &str,
    format: Format,
    endpoint: Option<&str>,
) -> Result<Telemetry, Error> {
    let unreadable = |e: tracing_subscriber::filter::ParseError| Error::Filter {
        filter: filter.into(),
        reason: e.to_string(),
    };
    let filter_layer = EnvFilter::try_new(filter).map_err(unreadable)?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match format {
        Format::Json => logs
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        Format::Text => logs.compact().boxed(),
    };
    let provider = endpoint
        .map(|endpoint| provider(service, endpoint))
        .transpose()?;
    let spans = provider
        .as_ref()
        .map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("bessemer")));
    tracing_subscriber::registry()
        .with(spans)
        .with(logs)
        .with(filter_layer)
        .try_init()
        .map_err(|e| Error::Taken(e.to_string()))?;
    Ok(Telemetry(provider))
}

fn provider(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let failed = |reason: String| Error::Exporter {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let traces = format!(
        "{}/v1/traces",
        endpoint
            .trim_end_matches('/')
            .trim_end_matches("/v1/traces")
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(traces)
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// A context that makes a span part of the trace `trace_id` (32 hexadecimal digits), so that every reconcile, attempt
/// and pod of one run is found under one id.
#[must_use]
pub fn within(trace_id: &str) -> Option<Context> {
    let id = TraceId::from_hex(trace_id)
        .ok()
        .filter(|id| *id != TraceId::INVALID)?;
    let (_, low) = trace_id.split_at_checked(16)?;
    let span = SpanId::from_hex(low)
        .ok()
        .filter(|id| *id != SpanId::INVALID)?;
    let parent = SpanContext::new(id, span, TraceFlags::SAMPLED, true, TraceState::default());
    Some(Context::new().with_remote_span_context(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_the_trace_of_the_run() {
        let context = within("0af7651916cd43dd8448eb211c80319c").unwrap();
        assert_eq!(
            context.span().span_context().trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(within("").is_none());
        assert!(within("00000000000000000000000000000000").is_none());
    }
}

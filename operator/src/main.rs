//! The operator's binary: arguments, signals and exit codes. Everything else is bessemer-runtime's.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bessemer_core::{Settings, access};
use bessemer_protocol::Storage;
use bessemer_runtime::clock::{Clock, Random, SteppedClock, SystemClock};
use bessemer_runtime::metric::Metrics;
use bessemer_runtime::outside::{Artefacts, Live};
use bessemer_runtime::{Config, Parts, client, definition, lease, run, telemetry};
use bessemer_store::{Layout, S3Settings, S3Store};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A fifth less CPU than with the C library's, and no more memory (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Kubernetes operator for the life of a large language model.
#[derive(Debug, Parser)]
#[command(name = "bessemer-operator", version)]
struct Arguments {
    /// Image of workers, servers and routers.
    #[arg(long, env = "BESSEMER_IMAGE")]
    image: String,
    /// Bucket that holds the artefacts.
    #[arg(long, env = "BESSEMER_BUCKET")]
    bucket: String,
    /// Key prefix below which all artefacts lie.
    #[arg(long, env = "BESSEMER_PREFIX", default_value = "")]
    prefix: String,
    /// URL of an S3-compatible store; AWS itself without.
    #[arg(long, env = "BESSEMER_S3_ENDPOINT")]
    s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, env = "BESSEMER_REGION", default_value = "us-east-1")]
    region: String,
    /// Base URL of the progress intake as pods reach it; workers report nowhere without.
    #[arg(long, env = "BESSEMER_PROGRESS_URL")]
    progress_url: Option<String>,
    /// Secret in each object's namespace that holds the workers' storage keys; optional there.
    #[arg(
        long,
        env = "BESSEMER_CREDENTIALS_SECRET",
        default_value = "bessemer-storage"
    )]
    credentials_secret: String,
    /// Runtime class of pods with GPUs whose object names none.
    #[arg(long, env = "BESSEMER_GPU_RUNTIME_CLASS")]
    gpu_runtime_class: Option<String>,
    /// Priority class of pods whose object names none.
    #[arg(long, env = "BESSEMER_POD_PRIORITY_CLASS")]
    pod_priority_class: Option<String>,
    /// Namespace to watch; repeat for several, all without.
    #[arg(
        long = "watch-namespace",
        env = "BESSEMER_WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// Namespace of the election's Lease; no election without.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this process, unique among the replicas.
    #[arg(long, env = "POD_NAME", default_value = "bessemer-operator")]
    identity: String,
    /// Base URL of this replica's own intake, to which standbys redirect.
    #[arg(long, env = "BESSEMER_ADVERTISE_URL")]
    advertise_url: Option<String>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,
    /// Address of the progress intake.
    #[arg(long, default_value = "0.0.0.0:8082")]
    intake_address: SocketAddr,
    /// Reconciles at once.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Log filter, as tracing-subscriber's EnvFilter reads it.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// Log lines for people instead of JSON.
    #[arg(long)]
    text_logs: bool,
    /// OTLP/HTTP endpoint for spans; handed to workers too.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// A jump of the operator's own clock, SECONDS@AFTER, for tests.
    #[arg(long, env = "BESSEMER_CLOCK_STEP", hide = true)]
    clock_step: Option<SteppedClock>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail("RuntimeUnavailable", &error.to_string()),
    };
    match runtime.block_on(operate(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((category, message)) => fail(category, &message),
    }
}

fn fail(category: &str, message: &str) -> ExitCode {
    eprintln!("bessemer-operator: {category}: {message}");
    ExitCode::FAILURE
}

async fn operate(arguments: Arguments) -> Result<(), (&'static str, String)> {
    let format = if arguments.text_logs {
        telemetry::Format::Text
    } else {
        telemetry::Format::Json
    };
    let endpoint = arguments.otlp_endpoint.as_deref();
    let _telemetry = telemetry::install("bessemer-operator", &arguments.log, format, endpoint)
        .map_err(|e| (e.category(), e.to_string()))?;
    let kube_config = kube::Config::infer().await.map_err(|e| {
        (
            "KubeconfigMissing",
            format!("{e}; set KUBECONFIG or run in a cluster"),
        )
    })?;
    let metrics = Metrics::new();
    let connect = || {
        client::connect(kube_config.clone(), &metrics)
            .map_err(|e| ("KubeconfigInvalid", e.to_string()))
    };
    let store = S3Store::new(&S3Settings {
        endpoint: arguments.s3_endpoint.clone(),
        region: arguments.region.clone(),
        bucket: arguments.bucket.clone(),
        keys: None,
        deadline: Duration::from_secs(20),
    })
    .await;
    let layout = Layout::new(arguments.bucket.as_str(), &arguments.prefix);
    let outside = Live::new(Artefacts::new(Arc::new(store), layout));
    let stepped = arguments.clock_step;
    let clock = stepped.map_or_else(
        || Arc::new(SystemClock) as Arc<dyn Clock>,
        |clock| Arc::new(clock),
    );
    let parts = Parts {
        lease_client: connect()?,
        clock,
        random: Random::from_system(),
        outside: Arc::new(outside),
        metrics: metrics.clone(),
    };
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("stopping");
        stopping.cancel();
    });
    let client = connect()?;
    definition::check(&client)
        .await
        .map_err(|e| (e.category(), e.to_string()))?;
    let configuration = configuration(&arguments).map_err(|e| (e.category(), e.to_string()))?;
    run(client, configuration, parts, stop)
        .await
        .map_err(|e| (e.category(), e.to_string()))
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, (&'static str, String)> {
    signal(kind).map_err(|e| ("SignalUnavailable", e.to_string()))
}

fn configuration(arguments: &Arguments) -> Result<Config, bessemer_runtime::Error> {
    let storage = Storage {
        endpoint: arguments.s3_endpoint.clone(),
        region: arguments.region.clone(),
        bucket: arguments.bucket.clone(),
        prefix: arguments.prefix.trim_matches('/').to_owned(),
    };
    let mut settings = Settings::new(storage, arguments.image.as_str());
    settings.credentials_secret = arguments.credentials_secret.clone();
    settings.pod_defaults.gpu_runtime_class = arguments.gpu_runtime_class.clone();
    settings.pod_defaults.priority_class = arguments.pod_priority_class.clone();
    settings.progress_url = arguments.progress_url.clone();
    settings.otlp_endpoint = arguments.otlp_endpoint.clone();
    let mut config = Config::new(settings);
    config.namespaces = arguments.namespaces.clone();
    config.concurrency = arguments.concurrency;
    config.identity = arguments.identity.clone();
    config.health = Some(bessemer_runtime::listen(arguments.health_address)?);
    config.intake = Some(bessemer_runtime::listen(arguments.intake_address)?);
    config.election = arguments.lease_namespace.clone().map(|namespace| {
        let mut election =
            lease::Config::new(namespace, access::LEASE.into(), arguments.identity.clone());
        election.progress_url = arguments.advertise_url.clone();
        election
    });
    Ok(config)
}

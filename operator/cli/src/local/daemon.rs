//! Owns the one process of local mode: API, object store, controllers, node agent, operator, wired together. Each of
//! them is what runs elsewhere too; nothing here is a second implementation.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bessemer_api::Kind;
use bessemer_core::{Settings, label};
use bessemer_embedded::objectstore::{self, Credentials};
use bessemer_embedded::{Api, Options, controller, node};
use bessemer_protocol::Storage;
use bessemer_runtime::clock::Random;
use bessemer_runtime::metric::Metrics;
use bessemer_runtime::outside::{Artefacts, Live};
use bessemer_runtime::{Parts, telemetry};
use bessemer_store::{Layout, S3Settings, S3Store};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::place::{IMAGE, METRICS, Place};
use crate::error::Error;
use crate::object::{self, State};

/// Bucket of the local store.
const BUCKET: &str = "bessemer";

/// Options of the hidden command behind `local up`.
#[derive(Debug, Args)]
pub struct DaemonOptions {
    /// Directory with bessemer-worker.
    #[arg(long)]
    worker_dir: PathBuf,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Api(error.to_string())
}

/// Runs until SIGTERM or SIGINT.
pub async fn daemon(place: &Place, options: &DaemonOptions) -> Result<(), Error> {
    let _lock = place.lock()?;
    let otlp_endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT")
        .ok()
        .filter(|endpoint| !endpoint.is_empty());
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let _telemetry = telemetry::install(
        "bessemer-local",
        &filter,
        telemetry::Format::Text,
        otlp_endpoint.as_deref(),
    )
    .map_err(failed)?;
    let stop = CancellationToken::new();
    let credentials = place.credentials()?;

    // The store first: the operator and the workers need it.
    std::fs::create_dir_all(place.objects().join(BUCKET)).map_err(Error::file(place.objects()))?;
    let store_listener = place.listen("objects")?;
    let store_url = format!("http://{}", address(&store_listener)?);
    let store_stop = CancellationToken::new();
    let store = {
        let (root, credentials, stop) = (place.objects(), credentials.clone(), store_stop.clone());
        let listener =
            tokio::net::TcpListener::from_std(store_listener).map_err(Error::file("objects"))?;
        tokio::spawn(async move { objectstore::serve(listener, &root, &credentials, stop).await })
    };

    let api_listener = tokio::net::TcpListener::from_std(place.listen("api")?)
        .map_err(Error::file("127.0.0.1"))?;
    let (_network_lock, network) = place.network()?;
    let api = open_api(place, network)?;
    let server = bessemer_embedded::server::Server::over(api.clone(), &place.api(), api_listener)
        .map_err(failed)?;
    let client = Client::new(api, "default");
    install_definitions(&client).await?;

    let intake = place.listen("progress")?;
    let progress_url = format!("http://{}", address(&intake)?);
    let storage = Storage {
        endpoint: Some(store_url),
        region: "us-east-1".into(),
        bucket: BUCKET.into(),
        prefix: String::new(),
    };
    let mut settings = Settings::new(storage, IMAGE);
    settings.local = true;
    settings.progress_url = Some(progress_url);
    settings.otlp_endpoint = otlp_endpoint;
    settings.threads =
        std::thread::available_parallelism().map_or(1, |n| n.get().try_into().unwrap_or(1));
    let store_client = S3Store::new(&S3Settings {
        endpoint: settings.storage.endpoint.clone(),
        region: settings.storage.region.clone(),
        bucket: BUCKET.into(),
        keys: None,
        deadline: Duration::from_secs(20),
    })
    .await;
    let parts = Parts {
        lease_client: client.clone(),
        clock: Arc::new(bessemer_runtime::clock::SystemClock),
        random: Random::from_system(),
        outside: Arc::new(Live::new(Artefacts::new(
            Arc::new(store_client),
            Layout::new(BUCKET, ""),
        ))),
        metrics: Metrics::new(),
    };
    let mut config = bessemer_runtime::Config::new(settings);
    config.intake = Some(Arc::new(intake));
    config.health = Some(Arc::new(place.listen(METRICS)?));

    let library_path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let agent = node::Agent::new(
        client.clone(),
        node::Config {
            directory: place.pods(),
            images: vec![(IMAGE.into(), options.worker_dir.clone())],
            environment: vec![("LD_LIBRARY_PATH".into(), library_path)],
        },
    );
    agent.disown().await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(controller::run(client.clone(), stop.clone()));
    tasks.spawn(share_credentials(client.clone(), credentials, stop.clone()));
    let agent_stop = CancellationToken::new();
    let agent_task = tokio::spawn(agent.run(agent_stop.clone()));
    let operator = bessemer_runtime::run(client.clone(), config, parts, stop.clone());
    let operator = tokio::spawn(operator);
    told(&client).await?;

    std::fs::write(place.ready(), server.url()).map_err(Error::file(place.ready()))?;
    tracing::info!(url = server.url(), directory = %place.root().display(), "the local control plane runs");
    let outcome = tokio::select! {
        () = terminated() => Ok(()),
        ended = operator => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(error)),
            Err(error) => Err(failed(error)),
        },
    };
    let _ = std::fs::remove_file(place.ready());
    // Workers stop first, so that they can still write their checkpoints; the store goes last.
    agent_stop.cancel();
    let _ = agent_task.await;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    server.stop().await;
    store_stop.cancel();
    let _ = store.await;
    outcome
}

/// Waits until no Deployment says Ready of servers that ended with the daemon before, so that nobody reads it of them.
async fn told(client: &Client) -> Result<(), Error> {
    let started = Instant::now();
    let pods: kube::Api<Pod> = kube::Api::all(client.clone());
    let deployments: kube::Api<DynamicObject> =
        kube::Api::all_with(client.clone(), &object::resource(Kind::Deployment));
    while started.elapsed() < Duration::from_secs(10) {
        let pods = pods.list(&ListParams::default()).await?;
        let waits = |deployment: &DynamicObject| {
            pods.iter().any(|pod| {
                let label = |name| pod.labels().get(name).map(String::as_str);
                label(label::KIND) == Some(Kind::Deployment.name())
                    && label(label::NAME) == deployment.metadata.name.as_deref()
                    && pod.namespace() == deployment.namespace()
                    && controller::ready_since(pod).is_none()
            })
        };
        let all = deployments.list(&ListParams::default()).await?;
        let stale = |found: &&DynamicObject| object::state(found) == State::Ready && waits(found);
        if all.iter().find(stale).is_none() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::warn!("the operator has not looked at all Deployments yet");
    Ok(())
}

fn address(listener: &std::net::TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(Error::file("127.0.0.1"))
}

/// The API over its directory.
fn open_api(place: &Place, network: Ipv4Addr) -> Result<Api, Error> {
    let directory = place.api();
    std::fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
    let seed = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_nanos() as u64);
    let mut options = Options::memory(Arc::new(bessemer_embedded::clock::SystemClock), seed);
    options.service_network = network;
    options.storage = Box::new(bessemer_embedded::storage::Disk::open(&directory).map_err(failed)?);
    options.logs = Some(Arc::new(node::Logs::new(place.pods())));
    options.issuer = Some(Arc::new(
        bessemer_embedded::token::Issuer::open(
            &directory.join("issuer.p8"),
            bessemer_embedded::server::ISSUER,
        )
        .map_err(failed)?,
    ));
    Api::open(options).map_err(failed)
}

/// Installs Bessemer's definitions and waits until they serve.
async fn install_definitions(client: &Client) -> Result<(), Error> {
    let api: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
    for definition in bessemer_api::definitions() {
        let params = PatchParams::apply("bessemer/definitions").force();
        api.patch(&definition.name_any(), &params, &Patch::Apply(&definition))
            .await?;
        let established = kube::runtime::conditions::is_crd_established();
        kube::runtime::wait::await_condition(api.clone(), &definition.name_any(), established)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Puts the store's keys into every namespace, as an administrator does in a cluster.
async fn share_credentials(client: Client, credentials: Credentials, stop: CancellationToken) {
    use futures::{StreamExt, TryStreamExt};
    use kube::runtime::WatchStreamExt;
    let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
    let mut events = watcher::watcher(namespaces, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = events.try_next() => next,
        };
        let namespace = match next {
            Ok(Some(namespace)) => namespace.name_any(),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "the watch of namespaces failed; it is tried again");
                continue;
            }
        };
        if namespace.starts_with("kube-") {
            continue;
        }
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some("bessemer-storage".into()),
                ..ObjectMeta::default()
            },
            string_data: Some(
                [
                    (
                        "AWS_ACCESS_KEY_ID".to_string(),
                        credentials.access_key.clone(),
                    ),
                    (
                        "AWS_SECRET_ACCESS_KEY".to_string(),
                        credentials.secret_key.clone(),
                    ),
                ]
                .into(),
            ),
            ..Secret::default()
        };
        let secrets: kube::Api<Secret> = kube::Api::namespaced(client.clone(), &namespace);
        let params = PatchParams::apply("bessemer/local").force();
        if let Err(error) = secrets
            .patch("bessemer-storage", &params, &Patch::Apply(&secret))
            .await
        {
            tracing::warn!(%error, namespace, "the store's keys could not be written; workers there will be refused");
        }
    }
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

//! Owns get, watch, describe, logs and delete: thin readers and writers over the API, for those without kubectl.

use std::path::PathBuf;
use std::time::Duration;

use bessemer_api::Kind;
use clap::Args;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, PropagationPolicy};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::error::Error;
use crate::{manifest, object};

/// Which objects are listed.
#[derive(Debug, Args)]
pub struct Which {
    /// KIND or KIND/NAME; all of Bessemer's when absent.
    kind: Option<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct LogOptions {
    /// KIND/NAME.
    object: String,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Go on as the log grows.
    #[arg(short, long)]
    follow: bool,
}

/// Options of `delete`.
#[derive(Debug, Args)]
pub struct DeleteOptions {
    /// KIND/NAME ...
    #[arg(required_unless_present = "filename")]
    objects: Vec<String>,
    /// File or directory of manifests.
    #[arg(short, long)]
    filename: Option<PathBuf>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Lists objects, and with `watch` prints a line for each change.
pub async fn get(client: &Client, which: &Which, watch: bool) -> Result<(), Error> {
    let (kind, name) = match which.kind.as_deref() {
        None => (None, None),
        Some(text) if text.contains('/') => {
            object::parse(text).map(|(kind, name)| (Some(kind), Some(name)))?
        }
        Some(text) => (
            Some(object::kind_of(text).ok_or_else(|| Error::BadReference(text.into()))?),
            None,
        ),
    };
    let mut printed: Vec<String> = Vec::new();
    print_row("OBJECT", "READY", "REASON", "PROGRESS", "ABOUT");
    loop {
        let found = object::all(client, &which.namespace).await?;
        let rows = found.iter().filter(|(of, object)| {
            kind.is_none_or(|kind| kind == *of) && name.is_none_or(|name| name == object.name_any())
        });
        let mut now = Vec::new();
        for (of, object) in rows {
            let row = row(*of, object);
            if !printed.contains(&row) {
                println!("{row}");
            }
            now.push(row);
        }
        if !watch {
            return Ok(());
        }
        printed = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn line(object: &str, ready: &str, reason: &str, progress: &str, about: &str) -> String {
    format!("{object:<32} {ready:<8} {reason:<22} {progress:<16} {about}")
}

fn print_row(object: &str, ready: &str, reason: &str, progress: &str, about: &str) {
    println!("{}", line(object, ready, reason, progress, about));
}

fn row(kind: Kind, found: &DynamicObject) -> String {
    let ready = object::condition(found, "Ready");
    let (status, reason) = ready.map_or(("Unknown".into(), "Pending".into()), |condition| {
        (condition.status, condition.reason)
    });
    let number = |pointer: &str| found.data.pointer(pointer).and_then(Value::as_f64);
    let about = match kind {
        Kind::Dataset => {
            number("/status/statistics/tokens").map(|tokens| format!("{tokens} tokens"))
        }
        Kind::PretrainJob | Kind::FineTune | Kind::Evaluation => {
            object::text(found, "/status/headline").map(str::to_string)
        }
        Kind::Deployment => object::text(found, "/status/trafficSummary").map(str::to_string),
    };
    let progress = object::text(found, "/status/progress/summary").unwrap_or("-");
    line(
        &object::title(kind, found),
        &status,
        &reason,
        progress,
        about.as_deref().unwrap_or("-"),
    )
}

/// Prints an object as YAML and its events.
pub async fn describe(client: &Client, namespace: &str, reference: &str) -> Result<(), Error> {
    let (kind, name) = object::parse(reference)?;
    let mut found = object::api(client, kind, namespace).get(name).await?;
    found.metadata.managed_fields = None;
    let text = serde_yaml::to_string(&found).map_err(|error| Error::Api(error.to_string()))?;
    println!("{text}\nEvents:");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let fields = format!("involvedObject.name={name},involvedObject.kind={kind}");
    let mut events = events
        .list(&ListParams::default().fields(&fields))
        .await?
        .items;
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    for event in events {
        println!(
            "  {:<8} {:<24} {}",
            event.type_.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default()
        );
    }
    Ok(())
}

/// Prints the log of the newest pod of an object.
pub async fn logs(client: &Client, options: &LogOptions) -> Result<(), Error> {
    let (kind, name) = object::parse(&options.object)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let labels = format!("bessemer.dev/kind={kind},bessemer.dev/name={name}");
    let mut found = pods
        .list(&ListParams::default().labels(&labels))
        .await?
        .items;
    found.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let Some(pod) = found.pop() else {
        return Err(Error::Api(format!(
            "{kind}/{name} has no pod; a finished run's pods go after ttlSecondsAfterFinished"
        )));
    };
    let params = LogParams {
        follow: options.follow,
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(&pod.name_any(), &params).await?.lines();
    while let Some(line) = lines
        .try_next()
        .await
        .map_err(|error| Error::Unreachable(error.to_string()))?
    {
        println!("{line}");
    }
    Ok(())
}

/// Deletes objects and waits until they are gone.
pub async fn delete(client: &Client, options: &DeleteOptions) -> Result<(), Error> {
    let mut wanted: Vec<(Kind, String, String)> = Vec::new();
    for reference in &options.objects {
        let (kind, name) = object::parse(reference)?;
        wanted.push((kind, options.namespace.clone(), name.into()));
    }
    if let Some(path) = &options.filename {
        for (_, object) in manifest::read(path)? {
            let kind = object
                .types
                .as_ref()
                .and_then(|types| object::kind_of(&types.kind));
            if let Some(kind) = kind {
                let namespace = object
                    .namespace()
                    .unwrap_or_else(|| options.namespace.clone());
                wanted.push((kind, namespace, object.name_any()));
            }
        }
    }
    for (kind, namespace, name) in &wanted {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match object::api(client, *kind, namespace)
            .delete(name, &params)
            .await
        {
            Ok(_) => println!("{kind}/{name} deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                println!("{kind}/{name} was not there")
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (kind, namespace, name) in &wanted {
        while object::api(client, *kind, namespace)
            .get_metadata_opt(name)
            .await?
            .is_some()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

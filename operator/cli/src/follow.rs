//! Owns `apply`: sending manifests and following their objects on the terminal until all are ready or one failed.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bessemer_api::Kind;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::{Discovery, Scope};
use kube::{Client, ResourceExt};

use crate::error::Error;
use crate::local::Place;
use crate::object::{self, State};
use crate::{manifest, summary};

/// Options of `apply`.
#[derive(Debug, Args)]
pub struct Options {
    /// File or directory of manifests.
    #[arg(short, long)]
    filename: PathBuf,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Do not wait.
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait.
    #[arg(long, default_value_t = 7200)]
    timeout: u64,
}

/// Time between two looks at the objects.
const PACE: Duration = Duration::from_millis(250);

/// How long an object may name the failure of another one without being taken at its word.
const PATIENCE: Duration = Duration::from_secs(10);

/// An object that is followed.
struct Followed {
    kind: Kind,
    namespace: String,
    name: String,
    bar: ProgressBar,
    last: Option<String>,
}

/// Sends the manifests in any order, then follows Bessemer's objects among them.
pub async fn apply(client: &Client, place: &Place, options: &Options) -> Result<(), Error> {
    let objects = manifest::read(&options.filename)?;
    let mut changed = false;
    let mut followed = Vec::new();
    let discovery = Discovery::new(client.clone()).run().await?;
    for (file, object) in objects {
        let (kind, namespace, name, differs) =
            send(client, &discovery, &options.namespace, &file, object).await?;
        changed |= differs;
        if let Some(kind) = object::kind_of(&kind) {
            followed.push((kind, namespace, name));
        }
    }
    followed.sort();
    if options.no_wait {
        return Ok(());
    }
    if !changed && all_ready(client, &followed).await? {
        println!(
            "Nothing to do: all {} objects are ready and unchanged.",
            followed.len()
        );
        return Ok(());
    }
    let outcome = follow(client, &followed, Duration::from_secs(options.timeout)).await;
    if outcome.is_ok() {
        summary::print(client, place, &followed).await?;
    }
    outcome
}

/// Applies one object; true when that changed it.
async fn send(
    client: &Client,
    discovery: &Discovery,
    namespace: &str,
    file: &std::path::Path,
    object: DynamicObject,
) -> Result<(String, String, String, bool), Error> {
    let types = object.types.clone().unwrap_or_default();
    let gvk = kube::core::GroupVersionKind::try_from(&types).map_err(|error| Error::Manifest {
        path: file.into(),
        reason: error.to_string(),
    })?;
    let (resource, capabilities) = discovery.resolve_gvk(&gvk).ok_or_else(|| Error::Manifest {
        path: file.into(),
        reason: format!(
            "the API knows no {} {}; check apiVersion and kind",
            types.api_version, types.kind
        ),
    })?;
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_else(|| namespace.into());
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let title = format!("{}/{name}", types.kind);
    let before = api
        .get_metadata_opt(&name)
        .await?
        .and_then(|found| found.resource_version());
    let params = PatchParams::apply("bessemer-cli");
    let applied = api
        .patch(&name, &params, &Patch::Apply(&object))
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) => Error::Refused {
                object: title.clone(),
                reason: status.message.clone(),
            },
            other => other.into(),
        })?;
    let differs = before.is_none() || before != applied.resource_version();
    let word = if before.is_none() {
        "created"
    } else if differs {
        "configured"
    } else {
        "unchanged"
    };
    println!("{title} {word}");
    Ok((types.kind, namespace, name, differs))
}

async fn all_ready(client: &Client, objects: &[(Kind, String, String)]) -> Result<bool, Error> {
    for (kind, namespace, name) in objects {
        let found = object::api(client, *kind, namespace).get_opt(name).await?;
        if found.as_ref().map(object::state) != Some(State::Ready) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Shows the objects until all are ready; an object that failed for good, or the time, ends it.
async fn follow(
    client: &Client,
    objects: &[(Kind, String, String)],
    timeout: Duration,
) -> Result<(), Error> {
    let bars = MultiProgress::new();
    let terminal = std::io::stderr().is_terminal();
    let style = ProgressStyle::with_template("{prefix:28} {bar:24} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut followed: Vec<Followed> = objects
        .iter()
        .map(|(kind, namespace, name)| {
            let bar = if terminal {
                bars.add(ProgressBar::new(100))
            } else {
                ProgressBar::hidden()
            };
            bar.set_style(style.clone());
            bar.set_prefix(format!("{kind}/{name}"));
            Followed {
                kind: *kind,
                namespace: namespace.clone(),
                name: name.clone(),
                bar,
                last: None,
            }
        })
        .collect();
    let started = Instant::now();
    loop {
        let mut pending = 0;
        let mut failed = None;
        let mut lists: BTreeMap<(Kind, String), Vec<DynamicObject>> = BTreeMap::new();
        for item in &mut followed {
            let place = (item.kind, item.namespace.clone());
            if !lists.contains_key(&place) {
                let list = object::api(client, item.kind, &item.namespace)
                    .list(&Default::default())
                    .await?;
                lists.insert(place.clone(), list.items);
            }
            let found = lists
                .get(&place)
                .and_then(|list| list.iter().find(|found| found.name_any() == item.name));
            let state = found.map_or(State::Pending("was deleted".into()), object::state);
            show(item, found, &state, terminal);
            match state {
                State::Ready => {}
                State::Pending(_) => pending += 1,
                // Failed because another failed: that one is named, and this one follows when it is mended.
                State::Failed(reason)
                    if reason.starts_with("DependencyFailed") && started.elapsed() < PATIENCE =>
                {
                    pending += 1;
                }
                State::Failed(reason) => {
                    failed = Some((format!("{}/{}", item.kind, item.name), reason))
                }
            }
        }
        if let Some((object, reason)) = failed {
            followed.iter().for_each(|item| item.bar.abandon());
            return Err(Error::Failed { object, reason });
        }
        if pending == 0 {
            followed.iter().for_each(|item| item.bar.finish());
            return Ok(());
        }
        if started.elapsed() > timeout {
            let waiting = format!(
                "{pending} objects are not ready after {} s; ask `bessemer local why KIND/NAME`",
                timeout.as_secs()
            );
            return Err(Error::Api(waiting));
        }
        tokio::time::sleep(PACE).await;
    }
}

fn show(item: &mut Followed, found: Option<&DynamicObject>, state: &State, terminal: bool) {
    let progress = found.and_then(|found| found.data.pointer("/status/progress"));
    let percent = progress
        .and_then(|progress| progress.get("percent")?.as_u64())
        .unwrap_or(0);
    let number = |field: &str| progress.and_then(|progress| progress.get(field)?.as_f64());
    let message = match state {
        State::Ready => "ready".to_string(),
        State::Failed(reason) => format!("failed: {reason}"),
        State::Pending(reason) => {
            let stage = progress.and_then(|progress| progress.get("stage")?.as_str());
            let loss = number("loss")
                .map(|loss| format!(" loss {loss:.3}"))
                .unwrap_or_default();
            let speed = number("tokensPerSecond")
                .map(|speed| format!(" {speed:.0} tokens/s"))
                .unwrap_or_default();
            let eta = number("etaSeconds")
                .map(|eta| format!(" ETA {eta:.0} s"))
                .unwrap_or_default();
            match stage {
                Some(stage) if percent > 0 => format!("{percent:3} % {stage}{loss}{speed}{eta}"),
                _ => reason.split(':').next().unwrap_or_default().to_string(),
            }
        }
    };
    item.bar
        .set_position(if *state == State::Ready { 100 } else { percent });
    item.bar.set_message(message.clone());
    // Without a terminal a line for each change of stage is printed, not one for each number.
    let brief = match state {
        State::Pending(reason) => reason.split(':').next().unwrap_or_default().to_string(),
        _ => message,
    };
    if !terminal && item.last.as_deref() != Some(brief.as_str()) {
        println!("{}/{}: {brief}", item.kind, item.name);
        item.last = Some(brief);
    }
}

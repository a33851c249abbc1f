//! `scale`: 10,000 objects of mixed kinds from apply to children. The API and the object store live in this process, the
//! operator in its own, alone on one core; printed are seconds, requests and the operator's peak memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bessemer_api::Kind;
use bessemer_e2e::scale::{Operator, corpus, mixed, model, object_store, pairs};
use bessemer_e2e::simulation::actor::{Actor, bad_run};
use bessemer_e2e::simulation::server::{apply, call, table, text};
use bessemer_embedded::server::Server;
use bessemer_embedded::{Api, Options};
use clap::Parser;
use http::Method;

/// Measures the operator at scale. Needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, any values, for its own store.
#[derive(Debug, Parser)]
struct Arguments {
    /// Objects to apply.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// The operator's binary.
    #[arg(long)]
    operator: PathBuf,
    /// Core on which the operator runs alone; any without.
    #[arg(long)]
    core: Option<usize>,
    /// Seconds after which to give up.
    #[arg(long, default_value_t = 900)]
    limit: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scale: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<(), String> {
    let directory = std::env::temp_dir().join(format!("bessemer-scale-{}", std::process::id()));
    let outcome = within(arguments, &directory).await;
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

async fn within(arguments: &Arguments, directory: &std::path::Path) -> Result<(), String> {
    let say = |e: &dyn std::fmt::Display| e.to_string();
    let (endpoint, store) = object_store(&directory.join("objects")).await?;
    std::fs::create_dir_all(directory.join("api")).map_err(|e| say(&e))?;
    let clock = Arc::new(bessemer_embedded::clock::SystemClock);
    let api = Api::open(Options::memory(clock, 1)).map_err(|e| say(&e))?;
    for definition in bessemer_api::definitions() {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let body = serde_json::to_value(definition).map_err(|e| say(&e))?;
        call(&api, Method::POST, path, "application/json", &body);
    }
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(api.clone(), &directory.join("api"), any)
        .await
        .map_err(|e| say(&e))?;
    let operator = Operator::start(
        &arguments.operator,
        arguments.core,
        server.kubeconfig(),
        &endpoint,
        "127.0.0.1:0",
    )?;

    // What the others build on is made first, by an actor that ends with it.
    let mut actor = Actor::new(api.clone(), Arc::new(store), 1, true);
    actor.slowest = 0;
    let actor = tokio::spawn(actor.run());
    let names = upstream(&api).await?;
    actor.abort();

    let (requests, before) = (api.requests(), operator.used()?.cpu);
    let start = Instant::now();
    for number in 0..arguments.objects {
        let (kind, spec) = mixed(number, &names);
        let (code, answer) = apply(&api, kind, &format!("x{number}"), &spec);
        if code != 201 {
            return Err(format!("{kind} x{number} refused with {code}: {answer}"));
        }
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let applied = start.elapsed();
    loop {
        let missing = childless(&api);
        if missing == 0 {
            break;
        }
        if start.elapsed().as_secs() > arguments.limit {
            return Err(format!(
                "{missing} objects have no children after {} s",
                arguments.limit
            ));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = operator.used()?;
    #[allow(clippy::cast_precision_loss)]
    let (count, asked) = (arguments.objects as f64, (api.requests() - requests) as f64);
    println!(
        "{count} objects: {seconds:.1} s to all children ({:.0}/s; applied in {:.1} s), {:.1} requests each, operator: {:.1} s of CPU, {used}",
        count / seconds,
        applied.as_secs_f64(),
        asked / count,
        used.cpu - before,
    );
    // It ends before the API that it would complain about.
    drop(operator);
    server.stop().await;
    Ok(())
}

/// A ready Dataset of each purpose and a ready model. One run in sixteen fails for good in the simulated cluster, hence
/// the second try under another name.
async fn upstream(api: &Api) -> Result<[String; 3], String> {
    let mut names: Vec<String> = Vec::new();
    for stage in 0..3 {
        let mut made = None;
        for attempt in 0..8 {
            let (kind, spec) = match stage {
                0 => (Kind::Dataset, corpus(&format!("base{attempt}"))),
                1 => (Kind::Dataset, pairs(&format!("base{attempt}"))),
                _ => (
                    Kind::PretrainJob,
                    model(names.first().map_or("", String::as_str), 10 + attempt),
                ),
            };
            let name = format!("base-{stage}-{attempt}");
            apply(api, kind, &name, &spec);
            if ready(api, kind, &name).await {
                made = Some(name);
                break;
            }
        }
        names.push(made.ok_or("nothing became ready; see the operator's log")?);
    }
    names.try_into().map_err(|_| "three names".to_owned())
}

async fn ready(api: &Api, kind: Kind, name: &str) -> bool {
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let objects = api.objects(&table(kind));
        let object = objects.iter().find(|o| text(o, "/metadata/name") == name);
        let digest = object.map_or("", |o| text(o, "/status/artifact/digest"));
        let key = object.map_or("", |o| text(o, "/status/runKey"));
        if !digest.is_empty() {
            return true;
        }
        if !key.is_empty() && bad_run(key) {
            return false;
        }
    }
    false
}

/// How many applied objects lack their ConfigMap, or their Job (a served model: its Deployment).
fn childless(api: &Api) -> usize {
    let parents = |table: &str| -> BTreeSet<String> {
        let children = api.objects(table).into_iter();
        children
            .map(|child| text(&child, "/metadata/ownerReferences/0/uid").to_owned())
            .collect()
    };
    let mut working = parents("jobs.batch");
    working.append(&mut parents("deployments.apps"));
    let configured = parents("configmaps");
    Kind::ALL
        .into_iter()
        .flat_map(|kind| api.objects(&table(kind)))
        .filter(|object| {
            let uid = text(object, "/metadata/uid");
            let whole = working.contains(uid) && configured.contains(uid);
            text(object, "/metadata/name").starts_with('x') && !whole
        })
        .count()
}

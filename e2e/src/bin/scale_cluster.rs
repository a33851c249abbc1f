//! `scale_cluster`: objects of mixed kinds from apply to children on a real kube-apiserver, with the scheduler, the controllers
//! of Jobs and Deployments, and kwok for nodes and pods. Printed are seconds and percentiles, requests, the operator's memory
//! and CPU, what it does at rest, and how fast the same children are made on the same server without the operator.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bessemer_api::Kind;
use bessemer_e2e::cluster::{self, Cluster};
use bessemer_e2e::scale::spent::{Spent, counters, grown};
use bessemer_e2e::scale::{Operator, Used, corpus, mixed, model, object_store, pairs};
use bessemer_e2e::simulation::actor::commit;
use bessemer_e2e::simulation::object::NAMESPACE;
use bessemer_e2e::simulation::server::{ours, text, whole};
use bessemer_store::S3Store;
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Measures the operator at scale on a real API server. Needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, any values, for
/// its own store, and builds the programs of the cluster if they are not there.
#[derive(Debug, Parser)]
struct Arguments {
    /// Objects to apply.
    #[arg(long, default_value_t = 1_000)]
    objects: usize,
    /// The operator's binary.
    #[arg(long)]
    operator: std::path::PathBuf,
    /// Objects that it finds when it starts, in each round of those against the server alone.
    #[arg(long, default_value_t = 300)]
    found: usize,
    /// Rounds of that.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds to watch it at rest.
    #[arg(long, default_value_t = 600)]
    rest: u64,
    /// Seconds after which to give up a stage.
    #[arg(long, default_value_t = 3600)]
    limit: u64,
}

const CONTROLLERS: [&str; 4] = [
    "job-controller",
    "deployment-controller",
    "replicaset-controller",
    "node-lifecycle-controller",
];
/// Who makes pods.
const POD_MAKERS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "kwok"];
/// Before anything is timed: what was made or deleted before it is collected and compacted meanwhile.
const PAUSE: Duration = Duration::from_secs(5);
/// Requests at once of whoever applies.
const APPLIERS: usize = 8;
/// Of whoever makes children without the operator: as many as the operator has.
const MAKERS: usize = 16;
/// Where children are made without the operator.
const CEILING: &str = "ceiling";
/// Children by API, plural and kind, and what the server adds to their spec.
const CHILDREN: [(&str, &str, &str, &[&str]); 4] = [
    ("/apis/batch/v1", "jobs", "Job", &["selector"]),
    ("/apis/apps/v1", "deployments", "Deployment", &[]),
    ("/api/v1", "configmaps", "ConfigMap", &[]),
    (
        "/api/v1",
        "services",
        "Service",
        &["clusterIP", "clusterIPs"],
    ),
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = std::env::temp_dir().join(format!("bessemer-scale-{}", std::process::id()));
    let outcome = measure(&arguments, &directory).await;
    let _ = std::fs::remove_dir_all(&directory);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scale_cluster: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments, directory: &std::path::Path) -> Result<(), String> {
    let limit = Duration::from_secs(arguments.limit);
    let (endpoint, store) = object_store(directory).await?;
    let cluster = started().await.map_err(|e| e.to_string())?;
    let client = cluster.client();
    install(client).await?;
    let health = format!("127.0.0.1:{}", cluster::port().map_err(|e| e.to_string())?);
    let kubeconfig = cluster.kubeconfig().unwrap_or_default();
    let start_operator =
        || Operator::start(&arguments.operator, None, &kubeconfig, &endpoint, &health);

    let operator = start_operator()?;
    let names = upstream(client, &store).await?;
    apply(client, "form", 10, &names, &Mutex::default()).await?;
    let seen = watch_children(client);
    all_have_children(client, "form", 10, &seen, limit).await?;
    drop(operator);
    let forms = forms(client).await?;

    let operator = start_operator()?;
    let (idle, before) = settled(&operator, &health, limit).await?;
    let began = Mutex::default();
    let idled = Spent::now(&cluster, Some(&operator)).await?;
    let start_of_all = Instant::now();
    apply(client, "x", arguments.objects, &names, &began).await?;
    let applied = start_of_all.elapsed();
    let children = all_have_children(client, "x", arguments.objects, &seen, limit).await?;
    let mut waits: Vec<f64> = Vec::new();
    let mut last = start_of_all;
    let began = began.into_inner();
    for (uid, at) in children {
        last = last.max(at);
        if let Some(from) = began.get(&uid) {
            waits.push(at.saturating_duration_since(*from).as_secs_f64());
        }
    }
    let count = float(arguments.objects);
    let seconds = last.duration_since(start_of_all).as_secs_f64();
    println!(
        "{} objects on kube-apiserver: {seconds:.1} s to all children ({:.0}/s; applied in {:.1} s), p50 {:.2} s, p99 {:.2} s",
        arguments.objects,
        count / seconds,
        applied.as_secs_f64(),
        percentile(&waits, 50),
        percentile(&waits, 99),
    );
    idled.print(&cluster, Some(&operator), count).await?;
    let print = |until: &str, asked: f64, used: &Used| {
        println!(
            "until {until}: {:.1} requests of the operator each, {:.1} s of its CPU, {used}",
            (asked - idle) / count,
            used.cpu - before.cpu,
        );
    };
    let asked = requests(&counted(&health).await?);
    print("then", asked, &operator.used()?);
    let (asked, worked) = settled(&operator, &health, limit).await?;
    print("nothing more is to do", asked, &worked);
    tokio::time::sleep(Duration::from_secs(arguments.rest)).await;
    let (later, used) = (requests(&counted(&health).await?), operator.used()?);
    println!(
        "{} s at rest: {:.0} requests, {:.1} s of CPU, {used}",
        arguments.rest,
        later - asked,
        used.cpu - worked.cpu,
    );
    drop(operator);

    let operator = start_operator()?;
    let (_, used) = settled(&operator, &health, limit).await?;
    println!("started again over them: {:.1} s of CPU, {used}", used.cpu);
    drop(operator);

    // All that anybody could do while objects are applied: nobody looks at these.
    let found = arguments.objects.min(arguments.found);
    let idled = Spent::now(&cluster, None).await?;
    let start = Instant::now();
    let none = Mutex::default();
    tokio::try_join!(
        apply(client, "z", found, &names, &none),
        ceiling(client, found, &forms)
    )?;
    let both = float(found) / start.elapsed().as_secs_f64();
    println!(
        "objects and children at once, without the operator: {both:.0}/s; with it {:.0} % of that",
        100.0 * count / seconds / both
    );
    idled.print(&cluster, None, float(found)).await?;

    // Pods apart: whoever would make them of the Jobs to come stands still, and no other object asks for a look.
    halt(&cluster, &POD_MAKERS)?;
    delete(client, &["form", "x", "z"]).await?;
    clear(client).await?;
    // In turn, first one then the other first, because the speed of shared machines changes.
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        let (mut with, mut without) = (0.0, 0.0);
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let prefix = format!("y{round}-");
                apply(client, &prefix, found, &names, &Mutex::default()).await?;
                tokio::time::sleep(PAUSE).await;
                let operator = start_operator()?;
                with = backlog(&cluster, &operator, &prefix, found, &seen, limit).await?;
                drop(operator);
                delete(client, &[&prefix]).await?;
            } else {
                tokio::time::sleep(PAUSE).await;
                let idled = Spent::now(&cluster, None).await?;
                without = ceiling(client, found, &forms).await?;
                println!("the same children without the operator: {without:.0}/s");
                idled.print(&cluster, None, float(found)).await?;
            }
            clear(client).await?;
        }
        rates.push(with);
        shares.push(with / without);
    }
    println!(
        "of what it found it made the children of {:.0}/s, {:.0} % of what is made without it: medians of {} rounds",
        percentile(&rates, 50),
        100.0 * percentile(&shares, 50),
        arguments.rounds,
    );
    Ok(())
}

/// Objects per second whose children `operator`, which has just started, makes from the first child on: objects named
/// `prefix` and a number.
async fn backlog(
    cluster: &Cluster,
    operator: &Operator,
    prefix: &str,
    count: usize,
    seen: &Seen,
    limit: Duration,
) -> Result<f64, String> {
    let begin = Instant::now();
    let known = seen.lock().len();
    let begun = within(limit, || async {
        (seen.lock().len() > known).then_some(())
    });
    let begun = begun.await;
    begun.ok_or_else(|| format!("no children after {limit:?}"))?;
    let idled = Spent::now(cluster, Some(operator)).await?;
    let children = all_have_children(cluster.client(), prefix, count, seen, limit).await?;
    let first = children.values().min().copied().unwrap_or(begin);
    let last = children.values().max().copied().unwrap_or(begin);
    let rate = float(count) / last.duration_since(first).as_secs_f64();
    println!(
        "{count} objects found at the start: {:.1} s to the first children, then {rate:.0}/s",
        first.duration_since(begin).as_secs_f64(),
    );
    idled.print(cluster, Some(operator), float(count)).await?;
    Ok(rate)
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

fn float(number: usize) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let float = number as f64;
    float
}

/// The control plane with a scheduler and kwok.
async fn started() -> Result<Cluster, cluster::ClusterError> {
    cluster::build(&["kube-scheduler", "kwok"])?;
    let mut cluster = Cluster::start(&CONTROLLERS, "5m").await?;
    let kubeconfig = cluster.kubeconfig().unwrap_or_default();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let scheduler = [
        kubeconfig.clone(),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
    ];
    cluster.spawn("kube-scheduler", &scheduler)?;
    let stages = cluster::binaries().join("kwok.stages.yaml");
    let kwok = [
        kubeconfig,
        "--manage-all-nodes".into(),
        "--node-lease-duration-seconds=40".into(),
        format!("--config={}", stages.display()),
    ];
    cluster.spawn("kwok", &kwok)?;
    Ok(cluster)
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let content = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).map_err(|e| e.to_string())?
    };
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", content).body(bytes);
    let answer = client.request::<Value>(request.map_err(|e| e.to_string())?);
    answer.await.map_err(|e| format!("{method} {path}: {e}"))
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    send(client, "GET", path, &Value::Null).await
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    let items = list.get("items").and_then(Value::as_array);
    items.into_iter().flatten()
}

/// Definitions, namespaces and nodes.
async fn install(client: &Client) -> Result<(), String> {
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for definition in bessemer_api::definitions() {
        let body = serde_json::to_value(definition).map_err(|e| e.to_string())?;
        send(client, "POST", definitions, &body).await?;
    }
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CEILING}});
    send(client, "POST", "/api/v1/namespaces", &body).await?;
    for number in 0..10 {
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")}});
        send(client, "POST", "/api/v1/nodes", &body).await?;
    }
    for kind in Kind::ALL {
        within(Duration::from_secs(60), || async {
            get(client, &ours(kind, "")).await.ok()
        })
        .await
        .ok_or_else(|| format!("{kind} is not served after a minute"))?;
    }
    Ok(())
}

/// Asks again until there is an answer.
async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    ask: impl Fn() -> F,
) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A ready Dataset of each purpose and a ready model: their workers' part is done here.
async fn upstream(client: &Client, store: &S3Store) -> Result<[String; 3], String> {
    let limit = Duration::from_secs(120);
    let names = ["text", "pairs", "base"].map(str::to_owned);
    let [text_name, pairs_name, base] = &names;
    for (kind, name, spec) in [
        (Kind::Dataset, text_name, corpus("text")),
        (Kind::Dataset, pairs_name, pairs("pairs")),
        (Kind::PretrainJob, base, model(text_name, 10)),
    ] {
        send(client, "POST", &ours(kind, ""), &whole(kind, name, &spec)).await?;
        let selector = format!("?labelSelector=bessemer.dev/kind={kind},bessemer.dev/name={name}");
        let found = |what: &'static str| {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/{what}{selector}");
            async move {
                let list = get(client, &path).await.ok()?;
                items(&list).next().cloned()
            }
        };
        let missing = |what: &str| format!("{kind} {name} has no {what} after {limit:?}");
        let map = within(limit, || found("configmaps")).await;
        let map = map.ok_or_else(|| missing("ConfigMap"))?;
        let config = serde_json::from_str(text(&map, "/data/run.json"));
        commit(store, &config.map_err(|e| e.to_string())?).await;
        let running = || async {
            let pod = found("pods").await?;
            (text(&pod, "/status/phase") == "Running").then_some(pod)
        };
        let pod = within(limit, running).await;
        let pod = pod.ok_or_else(|| missing("running pod"))?;
        let pod = text(&pod, "/metadata/name");
        let status = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/status");
        let done = json!({"status": {"phase": "Succeeded", "containerStatuses": null}});
        send(client, "PATCH", &status, &done).await?;
        let ready = || async {
            let object = get(client, &ours(kind, name)).await.ok()?;
            (!text(&object, "/status/artifact/digest").is_empty()).then_some(())
        };
        let ready = within(limit, ready).await;
        ready.ok_or_else(|| missing("artefact"))?;
    }
    Ok(names)
}

/// Creates `count` objects named `prefix` and a number; keeps when each was sent, by UID.
async fn apply(
    client: &Client,
    prefix: &str,
    count: usize,
    names: &[String; 3],
    began: &Mutex<HashMap<String, Instant>>,
) -> Result<(), String> {
    let numbers = stream::iter((0..count).map(Ok));
    numbers
        .try_for_each_concurrent(APPLIERS, |number| async move {
            let (kind, spec) = mixed(number, names);
            let body = whole(kind, &format!("{prefix}{number}"), &spec);
            let at = Instant::now();
            let made = send(client, "POST", &ours(kind, ""), &body).await?;
            began
                .lock()
                .insert(text(&made, "/metadata/uid").to_owned(), at);
            Ok(())
        })
        .await
}

/// Stops those of `programs` where they are, for good.
fn halt(cluster: &Cluster, programs: &[&str]) -> Result<(), String> {
    for (program, process) in cluster.processes() {
        if programs.contains(&program) {
            let mut kill = std::process::Command::new("kill");
            let done = kill.args(["-STOP", &process.to_string()]).status();
            let done = done.map_err(|e| format!("kill: {e}"))?;
            let failed = || format!("{program} cannot be stopped");
            done.success().then_some(()).ok_or_else(failed)?;
        }
    }
    Ok(())
}

/// Deletes the objects whose names begin with one of `prefixes`.
async fn delete(client: &Client, prefixes: &[&str]) -> Result<(), String> {
    for kind in Kind::ALL {
        let list = get(client, &ours(kind, "")).await?;
        let names = items(&list).map(|object| text(object, "/metadata/name"));
        let chosen = names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        stream::iter(chosen.map(Ok))
            .try_for_each_concurrent(APPLIERS, |name| async move {
                let none = Value::Null;
                send(client, "DELETE", &ours(kind, name), &none).await?;
                Ok::<_, String>(())
            })
            .await?;
    }
    Ok(())
}

/// Deletes all children, whose owners are gone: the operator would list them at its next start.
async fn clear(client: &Client) -> Result<(), String> {
    for (prefix, plural, ..) in CHILDREN {
        for namespace in [NAMESPACE, CEILING] {
            let path =
                format!("{prefix}/namespaces/{namespace}/{plural}?propagationPolicy=Background");
            send(client, "DELETE", &path, &Value::Null).await?;
        }
    }
    Ok(())
}

/// When the first Job or Deployment, and the first ConfigMap, of each owner was seen.
type Seen = Arc<Mutex<HashMap<String, [Option<Instant>; 2]>>>;

fn watch_children(client: &Client) -> Seen {
    fn watch<K>(client: &Client, seen: &Seen, slot: usize)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
    {
        // Those that are made without the operator too: to watch is work for the server.
        let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
        let seen = seen.clone();
        tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = events.touched_objects().boxed();
            while let Some(event) = events.next().await {
                let Ok(child) = event else { continue };
                for owner in child.metadata.owner_references.into_iter().flatten() {
                    let mut seen = seen.lock();
                    let slots = seen.entry(owner.uid).or_default();
                    if let Some(slot) = slots.get_mut(slot) {
                        slot.get_or_insert_with(Instant::now);
                    }
                }
            }
        });
    }
    let seen = Seen::default();
    watch::<Job>(client, &seen, 0);
    watch::<Deployment>(client, &seen, 0);
    watch::<ConfigMap>(client, &seen, 1);
    seen
}

/// Waits until every object named `prefix` and a number has its ConfigMap and its Job (a served model: its Deployment).
/// Returns when each had both, by UID.
async fn all_have_children(
    client: &Client,
    prefix: &str,
    count: usize,
    seen: &Seen,
    limit: Duration,
) -> Result<BTreeMap<String, Instant>, String> {
    let mut uids = Vec::new();
    for kind in Kind::ALL {
        let list = get(client, &ours(kind, "")).await?;
        let named =
            items(&list).filter(|object| text(object, "/metadata/name").starts_with(prefix));
        uids.extend(named.map(|object| text(object, "/metadata/uid").to_owned()));
    }
    if uids.len() != count {
        return Err(format!("{} of {count} objects are there", uids.len()));
    }
    let complete = || async {
        let seen = seen.lock();
        let both = |uid: &String| match seen.get(uid) {
            Some([Some(work), Some(map)]) => Some((uid.clone(), *work.max(map))),
            _ => None,
        };
        uids.iter().map(both).collect::<Option<BTreeMap<_, _>>>()
    };
    let complete = within(limit, complete).await;
    complete.ok_or_else(|| format!("objects without children after {limit:?}"))
}

/// The children of the ten objects `form`, by the number of the object, as somebody else would create them.
async fn forms(client: &Client) -> Result<BTreeMap<usize, Vec<(String, Value)>>, String> {
    let mut forms: BTreeMap<usize, Vec<(String, Value)>> = BTreeMap::new();
    for (prefix, plural, kind, given) in CHILDREN {
        let group = prefix
            .trim_start_matches("/apis/")
            .trim_start_matches("/api/");
        let list = get(client, &format!("{prefix}/namespaces/{NAMESPACE}/{plural}")).await?;
        for child in items(&list) {
            let owner = text(child, "/metadata/ownerReferences/0/name");
            let Some(number) = owner.strip_prefix("form").and_then(|n| n.parse().ok()) else {
                continue;
            };
            let metadata = json!({
                "name": child.pointer("/metadata/name"),
                "labels": child.pointer("/metadata/labels"),
                "annotations": child.pointer("/metadata/annotations"),
            });
            let mut form = json!({"apiVersion": group, "kind": kind, "metadata": metadata,
                "spec": child.get("spec"), "data": child.get("data")});
            if let Some(form) = form.as_object_mut() {
                form.retain(|_, part| !part.is_null());
            }
            if let Some(spec) = form.get_mut("spec").and_then(Value::as_object_mut) {
                spec.retain(|field, _| !given.contains(&field.as_str()));
            }
            if let Some(labels) = form.pointer_mut("/spec/template/metadata/labels")
                && plural == "jobs"
                && let Some(labels) = labels.as_object_mut()
            {
                labels.retain(|name, _| {
                    !name.contains("controller-uid") && !name.contains("job-name")
                });
            }
            let family = forms.entry(number).or_default();
            family.push((format!("{prefix}/namespaces/NAMESPACE/{plural}"), form));
        }
    }
    Ok(forms)
}

/// Objects per second whose children are made without the operator.
async fn ceiling(
    client: &Client,
    count: usize,
    forms: &BTreeMap<usize, Vec<(String, Value)>>,
) -> Result<f64, String> {
    let start = Instant::now();
    let numbers = stream::iter((0..count).map(Ok::<_, String>));
    numbers
        .try_for_each_concurrent(MAKERS, |number| async move {
            for (path, form) in forms.get(&(number % 10)).into_iter().flatten() {
                let mut child = form.clone();
                if let Some(name) = child.pointer_mut("/metadata/name") {
                    *name = format!("{}-{number}", text(form, "/metadata/name")).into();
                }
                let path = path.replace("NAMESPACE", CEILING);
                send(client, "POST", &path, &child).await?;
            }
            Ok(())
        })
        .await?;
    Ok(float(count) / start.elapsed().as_secs_f64())
}

/// What the operator has counted so far.
async fn counted(health: &str) -> Result<BTreeMap<String, f64>, String> {
    let client = reqwest::Client::new();
    let answer = client.get(format!("http://{health}/metrics")).send().await;
    let text = answer.map_err(|e| e.to_string())?.text().await;
    let text = text.map_err(|e| e.to_string())?;
    let totals = counters(&text).filter(|(series, _)| series.contains("_total"));
    Ok(totals
        .map(|(series, total)| (series.to_owned(), total))
        .collect())
}

/// Requests of the operator so far, but those that only begin or renew a watch.
fn requests(counted: &BTreeMap<String, f64>) -> f64 {
    let requests = counted
        .iter()
        .filter(|(series, _)| series.starts_with("rest_client_requests_total"));
    requests.map(|(_, total)| total).sum()
}

/// Waits until the operator has asked nothing for half a minute. Returns its requests and what it has used so far.
async fn settled(
    operator: &Operator,
    health: &str,
    limit: Duration,
) -> Result<(f64, Used), String> {
    let begin = Instant::now();
    let mut known = (BTreeMap::new(), begin);
    let mut busy = String::new();
    while begin.elapsed() < limit {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = counted(health).await.unwrap_or_default();
        let asked = requests(&now);
        // Ten watches are renewed every 200 s.
        if asked > requests(&known.0) + 10.0 || asked == 0.0 {
            let (_, counters) = grown(&known.0, &now, 1.0);
            busy = format!("within {:.0?} {counters}", known.1.elapsed());
            known = (now, Instant::now());
        } else if known.1.elapsed() > Duration::from_secs(30) {
            return Ok((asked, operator.used()?));
        }
    }
    Err(format!(
        "the operator is still busy after {limit:?}: {busy}"
    ))
}

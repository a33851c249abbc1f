//! The node agent: owns the pods of one machine and runs them as local processes.
//! It must reach the API only through a client, and knows nothing of Bessemer's kinds.
//!
//! Differences to a kubelet, all because pods are plain processes: no images are pulled (an
//! image names a directory of binaries), each pod has a loopback address 127.64.x.y instead
//! of a network namespace, which stands in environment values in place of the host name that a
//! headless Service gives a pod, mounts are directories whose paths replace the mount paths in
//! arguments and environment values, and a pod's processes die with the agent; after an
//! agent's crash a pod that may not restart fails with condition DisruptionTarget. Exec
//! probes, lifecycle hooks, init containers and persistent volumes are refused by an event.

mod address;
mod container;
mod environment;
mod log;
mod memory;
mod pod;
mod probe;
mod proxy;
mod status;
mod volume;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::controller::action::{Note, note_down, reference};
use crate::controller::cache::{self, Store};

pub use log::Logs;

/// Name of the node that the agent registers.
pub const NODE: &str = "local";

/// What the agent is given.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where pods, logs and pid files are kept.
    pub directory: PathBuf,
    /// Image and the directory of its binaries; the image `*` stands for all others.
    pub images: Vec<(String, PathBuf)>,
    /// Environment of every container, such as `LD_LIBRARY_PATH`.
    pub environment: Vec<(String, String)>,
}

/// Hands a pod's task the pod's newest state; none once it is gone.
type PodSender = watch::Sender<Option<Arc<Pod>>>;

/// What every pod's task shares.
struct Shared {
    client: Client,
    config: Config,
    clock: SystemClock,
    spawner: container::Spawner,
    addresses: address::Pool,
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
    services: Store<Service>,
    /// Changes whenever a ConfigMap or Secret does.
    sources: watch::Receiver<u64>,
    shutdown: CancellationToken,
}

impl Shared {
    async fn note(
        &self,
        pod: &Pod,
        warning: bool,
        reason: &str,
        message: &str,
        component: &'static str,
    ) {
        let note = Note {
            about: reference(pod),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            component,
        };
        note_down(&self.client, self.clock.now(), &note).await;
    }
}

/// The agent; `run` does the work.
pub struct Agent {
    client: Client,
    config: Config,
}

impl Agent {
    /// An agent that is not running yet.
    #[must_use]
    pub fn new(client: Client, config: Config) -> Self {
        Self { client, config }
    }

    /// Says of every pod of this node that it is not ready, because no process outlives its agent. Called before anybody
    /// acts on what pods say.
    ///
    /// # Errors
    /// What the API answers.
    pub async fn disown(&self) -> kube::Result<()> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        for pod in pods.list(&ListParams::default()).await? {
            let ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE);
            let lost = status::lost(&pod, SystemClock.now()).filter(|_| ours);
            let Some(lost) = lost else { continue };
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {
                "conditions": lost.conditions, "containerStatuses": lost.container_statuses}});
            let namespace = pod.namespace().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            api.patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        }
        Ok(())
    }

    /// Ends what an earlier agent left running, registers the node, and runs pods until
    /// `shutdown`; then stops them within their grace period, but at most 20 seconds.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { client, config } = self;
        if let Err(error) = std::fs::create_dir_all(config.directory.join("pods")) {
            tracing::error!(%error, directory = %config.directory.display(), "the node agent cannot write its directory");
            return;
        }
        container::end_leftovers(&config.directory);
        register(&client, &shutdown).await;
        let (changed, sources) = watch::channel(0_u64);
        let changed = Arc::new(changed);
        let touch = |changed: &Arc<watch::Sender<u64>>| {
            let changed = changed.clone();
            move || changed.send_modify(|n| *n = n.wrapping_add(1))
        };
        // Watches outlive `shutdown`: stopping pods still read them.
        let (t1, t2) = (touch(&changed), touch(&changed));
        let config_maps =
            cache::watch::<ConfigMap>(&client, CancellationToken::new(), move |_| t1());
        let secrets = cache::watch::<Secret>(&client, CancellationToken::new(), move |_| t2());
        let proxy = proxy::Proxy::default();
        let (p1, p2) = (proxy.clone(), proxy.clone());
        let services = cache::watch::<Service>(&client, shutdown.clone(), move |_| p1.touch());
        let slices = cache::watch::<EndpointSlice>(&client, shutdown.clone(), move |_| p2.touch());
        tokio::spawn(proxy.run(services.clone(), slices, shutdown.clone()));
        tokio::join!(
            config_maps.clone().into_ready(),
            secrets.clone().into_ready(),
            services.clone().into_ready()
        );

        let shared = Arc::new(Shared {
            client: client.clone(),
            config,
            clock: SystemClock,
            spawner: container::Spawner::start(),
            addresses: address::Pool::default(),
            config_maps,
            secrets,
            services,
            sources,
            shutdown: shutdown.clone(),
        });
        let tasks: Arc<Mutex<HashMap<String, PodSender>>> = Arc::default();
        let tracker = tokio_util::task::TaskTracker::new();
        let (pods_tx, mut pods_rx) = tokio::sync::mpsc::unbounded_channel::<Pod>();
        let _pods = cache::watch::<Pod>(&client, shutdown.clone(), move |pod| {
            let _ = pods_tx.send(pod.clone());
        });
        loop {
            let pod = tokio::select! {
                () = shutdown.cancelled() => break,
                pod = pods_rx.recv() => match pod { Some(pod) => pod, None => break },
            };
            route(&shared, &tasks, &tracker, pod);
        }
        tracker.close();
        tracker.wait().await;
    }
}

type Tasks = Arc<Mutex<HashMap<String, watch::Sender<Option<Arc<Pod>>>>>>;

/// Hands a pod's new state to its task; begins one for a pod that is or becomes ours.
fn route(shared: &Arc<Shared>, tasks: &Tasks, tracker: &tokio_util::task::TaskTracker, pod: Pod) {
    let uid = pod.uid().unwrap_or_default();
    let node = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .unwrap_or_default();
    if node.is_empty() {
        let waits = pod
            .spec
            .as_ref()
            .is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()));
        if pod.metadata.deletion_timestamp.is_none() && !waits {
            tracker.spawn(bind(shared.clone(), pod));
        }
        return;
    }
    if node != NODE {
        return;
    }
    let mut all = tasks.lock();
    if let Some(sender) = all.get(&uid) {
        let _ = sender.send(Some(Arc::new(pod)));
        return;
    }
    let pod = Arc::new(pod);
    let (sender, receiver) = watch::channel(Some(pod.clone()));
    all.insert(uid.clone(), sender);
    drop(all);
    let (shared, tasks) = (shared.clone(), tasks.clone());
    tracker.spawn(async move {
        pod::run(&shared, pod, receiver).await;
        tasks.lock().remove(&uid);
    });
}

/// Schedules a pod to this node.
async fn bind(shared: Arc<Shared>, pod: Pod) {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let selector = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_selector.clone())
        .unwrap_or_default();
    let labels = labels();
    if let Some((key, value)) = selector
        .iter()
        .find(|(k, v)| labels.get(k.as_str()) != Some(v))
    {
        let message = format!(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node selector ({key}={value})."
        );
        shared
            .note(
                &pod,
                true,
                "FailedScheduling",
                &message,
                "default-scheduler",
            )
            .await;
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        ]}});
        let api: Api<Pod> = Api::namespaced(shared.client.clone(), &namespace);
        let known = pod
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        if !known.into_iter().any(|c| c.type_ == "PodScheduled") {
            let _ = api
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
        }
        return;
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace, "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}
    });
    let request = http::Request::post(format!(
        "/api/v1/namespaces/{namespace}/pods/{name}/binding"
    ))
    .header(http::header::CONTENT_TYPE, "application/json")
    .body(binding.to_string().into_bytes());
    let Ok(request) = request else { return };
    match shared.client.request::<serde_json::Value>(request).await {
        Ok(_) => {
            let message = format!("Successfully assigned {namespace}/{name} to {NODE}");
            shared
                .note(&pod, false, "Scheduled", &message, "default-scheduler")
                .await;
        }
        // Bound already, gone, or lost: the watch tells, and a later event tries again.
        Err(error) => tracing::debug!(%error, pod = name, "binding refused"),
    }
}

fn labels() -> std::collections::BTreeMap<&'static str, String> {
    [
        ("kubernetes.io/hostname", NODE.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        (
            "kubernetes.io/arch",
            if cfg!(target_arch = "x86_64") {
                "amd64"
            } else {
                "arm64"
            }
            .to_owned(),
        ),
    ]
    .into()
}

/// Makes the node known; it has no lease, because it lives and dies with the API beside it.
async fn register(client: &Client, shutdown: &CancellationToken) {
    let api: Api<Node> = Api::all(client.clone());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory::machine_kib();
    let capacity =
        json!({"cpu": cores.to_string(), "memory": format!("{memory}Ki"), "pods": "110"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels()}, "spec": {}});
    let status = json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE}],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "AgentReady", "message": memory::notice(),
            "lastTransitionTime": crate::clock::stamp(SystemClock.now()),
        }],
        "nodeInfo": {
            "architecture": std::env::consts::ARCH, "operatingSystem": "linux", "kubeletVersion": "v1.33.0-bessemer",
            "kubeProxyVersion": "", "containerRuntimeVersion": "process://1", "osImage": "local machine",
            "kernelVersion": "", "machineID": "", "systemUUID": "", "bootID": ""
        }
    }});
    while !shutdown.is_cancelled() {
        let node = serde_json::from_value::<Node>(node.clone()).unwrap_or_default();
        let made = match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        };
        let told = match made {
            Ok(()) => api
                .patch_status(NODE, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        let Err(error) = told else { return };
        tracing::warn!(%error, "the node cannot be registered; trying again");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

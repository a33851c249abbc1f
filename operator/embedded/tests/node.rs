//! Controllers and node agent together, over the embedded API in memory: real processes, real sockets.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bessemer_embedded::clock::SystemClock;
use bessemer_embedded::log::{LogOptions, LogSource};
use bessemer_embedded::{Api as Server, Options, controller, node};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

struct Cluster {
    api: Server,
    client: Client,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    agent_stop: CancellationToken,
    agent: tokio::task::JoinHandle<()>,
}

fn python() -> PathBuf {
    let out = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .unwrap();
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

fn agent(
    client: &Client,
    directory: &Path,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let config = node::Config {
        directory: directory.to_path_buf(),
        images: vec![
            ("tools".into(), "/bin".into()),
            ("python".into(), python().parent().unwrap().to_path_buf()),
        ],
        environment: Vec::new(),
    };
    tokio::spawn(node::Agent::new(client.clone(), config).run(stop.clone()))
}

/// Pod addresses follow from uids and uids from the seed: each test needs its own.
fn start(seed: u64) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::memory(
        Arc::new(SystemClock),
        seed * 1000 + u64::from(std::process::id()),
    );
    options.service_network = std::net::Ipv4Addr::new(127, 100 + u8::try_from(seed).unwrap(), 0, 0);
    options.logs = Some(Arc::new(node::Logs::new(directory.path().to_path_buf())));
    let api = Server::open(options).unwrap();
    let client = Client::new(api.clone(), "default");
    let (stop, agent_stop) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(controller::run(client.clone(), stop.clone()));
    let agent = agent(&client, directory.path(), &agent_stop);
    Cluster {
        api,
        client,
        directory,
        stop,
        agent_stop,
        agent,
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

impl Cluster {
    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, value: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(value).unwrap();
        self.all()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    async fn job_with(&self, name: &str, kind: &str) -> Job {
        let jobs: Api<Job> = self.all();
        until(&format!("job {name} {kind}"), || async {
            let job = jobs.get_opt(name).await.unwrap()?;
            let conditions = job
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten());
            let met = conditions
                .into_iter()
                .any(|c| c.type_ == kind && c.status == "True");
            met.then_some(job)
        })
        .await
    }

    async fn pods(&self, label: &str) -> Vec<Pod> {
        self.all::<Pod>()
            .list(&ListParams::default().labels(label))
            .await
            .unwrap()
            .items
    }

    async fn log(&self, pod: &str, options: LogOptions) -> String {
        let logs = node::Logs::new(self.directory.path().to_path_buf());
        let mut stream = logs.open("default", pod, &options).unwrap();
        let mut out = Vec::new();
        while let Some(piece) = stream.next().await {
            out.extend(piece.unwrap());
        }
        String::from_utf8(out).unwrap()
    }
}

fn job(name: &str, script: &str, spec: Value) -> Value {
    let mut value = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{
            "name": "worker", "image": "tools", "command": ["sh"], "args": ["-c", script],
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }]}}
    }});
    for (key, field) in spec.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_completes_and_its_logs_follow() {
    let cluster = start(1);
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2});
    cluster
        .create::<Job>(job("count", "echo index $JOB_COMPLETION_INDEX", spec))
        .await;
    let done = cluster.job_with("count", "Complete").await.status.unwrap();
    assert_eq!(
        (
            done.succeeded,
            done.completed_indexes.as_deref(),
            done.failed
        ),
        (Some(3), Some("0-2"), None)
    );
    assert!(
        done.conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "SuccessCriteriaMet")
    );
    let pods = cluster
        .pods("batch.kubernetes.io/job-completion-index=2")
        .await;
    assert_eq!(pods.len(), 1);
    assert!(pods[0].finalizers().is_empty());
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    assert_eq!(cluster.log(&pods[0].name_any(), follow).await, "index 2\n");
    cluster
        .all::<Job>()
        .delete("count", &DeleteParams::background())
        .await
        .unwrap();
    until("pods collected", || async {
        cluster
            .pods("job-name=count")
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_exit_code_fails_the_job_at_once_and_others_count() {
    let cluster = start(2);
    let policy = json!({"backoffLimit": 3, "podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "worker", "operator": "In", "values": [65]}}
    ]}});
    let script = r#"echo '{"category":"BadData"}' > "$BESSEMER_TERMINATION_LOG"; exit 65"#;
    cluster.create::<Job>(job("bad", script, policy)).await;
    let failed = cluster.job_with("bad", "Failed").await.status.unwrap();
    let reason = failed
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Failed")
        .unwrap();
    assert_eq!(reason.reason.as_deref(), Some("PodFailurePolicy"));
    let pods = cluster.pods("job-name=bad").await;
    assert_eq!(pods.len(), 1);
    let end = pods[0]
        .status
        .as_ref()
        .unwrap()
        .container_statuses
        .as_ref()
        .unwrap()[0]
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(
        (end.exit_code, end.message.as_deref()),
        (65, Some("{\"category\":\"BadData\"}\n"))
    );

    cluster
        .create::<Job>(job("flaky", "exit 1", json!({"backoffLimit": 1})))
        .await;
    let failed = cluster.job_with("flaky", "Failed").await.status.unwrap();
    assert_eq!(failed.failed, Some(2));
    let reason = failed
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Failed")
        .unwrap();
    assert_eq!(reason.reason.as_deref(), Some("BackoffLimitExceeded"));
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspend_deadline_and_time_to_live_are_kept() {
    let cluster = start(3);
    cluster
        .create::<Job>(job(
            "slow",
            "sleep 60",
            json!({"activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 0}),
        ))
        .await;
    until("slow is gone", || async {
        cluster
            .all::<Job>()
            .get_opt("slow")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    cluster
        .create::<Job>(job("held", "echo ran", json!({"suspend": true})))
        .await;
    cluster.job_with("held", "Suspended").await;
    assert!(cluster.pods("job-name=held").await.is_empty());
    let resume = Patch::Merge(json!({"spec": {"suspend": false}}));
    cluster
        .all::<Job>()
        .patch("held", &PatchParams::default(), &resume)
        .await
        .unwrap();
    cluster.job_with("held", "Complete").await;
    cluster.stop.cancel();
}

const SERVER: &str = r#"
import http.server, os, pathlib, signal, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        if self.path == "/stream":
            for n in range(20):
                self.wfile.write(b"x"); self.wfile.flush(); time.sleep(0.05)
        else:
            self.wfile.write(pathlib.Path(os.environ["CONFIG"], "value").read_bytes())
    def log_message(self, *a): pass
class Threaded(http.server.ThreadingHTTPServer):
    daemon_threads = False
server = Threaded((os.environ["POD_IP"], 8080), Handler)
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=server.shutdown).start())
server.serve_forever(); server.server_close()
"#;

fn deployment(version: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": "web", "version": version}}, "spec": {
            "containers": [{
                "name": "web", "image": "python", "command": ["python3"], "args": ["-c", SERVER],
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CONFIG", "value": "/etc/web"}
                ],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}]
            }],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}]
        }}
    }})
}

async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((address, 80)).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains("200").then(|| body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_without_a_cut_stream_and_configuration_follows() {
    let cluster = start(4);
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "web"}, "data": {"value": "one"}}))
        .await;
    let service = cluster
        .create::<Service>(json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]
        }}))
        .await;
    let address = service.spec.unwrap().cluster_ip.unwrap();
    cluster.create::<Deployment>(deployment("1")).await;
    let body = until("served", || get(&address, "/")).await;
    assert_eq!(body, "one");
    let change = Patch::Merge(json!({"data": {"value": "two"}}));
    cluster
        .all::<ConfigMap>()
        .patch("web", &PatchParams::default(), &change)
        .await
        .unwrap();
    until("mounted file follows", || async {
        (get(&address, "/").await? == "two").then_some(())
    })
    .await;

    // Streams begin every 50 ms while the Deployment rolls; each must arrive whole.
    let mut streams = Vec::new();
    let roll = Patch::Merge(deployment("2"));
    cluster
        .all::<Deployment>()
        .patch("web", &PatchParams::default(), &roll)
        .await
        .unwrap();
    let rolled = async {
        until("rolled", || async {
            let status = cluster
                .all::<Deployment>()
                .get("web")
                .await
                .unwrap()
                .status
                .unwrap();
            let pods = cluster.pods("app=web").await;
            let new = pods.iter().all(|p| p.labels()["version"] == "2");
            (new && status.updated_replicas == Some(1) && status.replicas == Some(1))
                .then_some(status)
        })
        .await
    };
    tokio::pin!(rolled);
    let status = loop {
        tokio::select! {
            status = &mut rolled => break status,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                let address = address.clone();
                streams.push(tokio::spawn(async move { get(&address, "/stream").await }));
            }
        }
    };
    assert!(!streams.is_empty());
    for stream in streams {
        assert_eq!(
            stream.await.unwrap().as_deref(),
            Some("x".repeat(20).as_str())
        );
    }
    let available = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Available")
        .unwrap();
    assert_eq!(available.status, "True");
    cluster
        .all::<Deployment>()
        .delete("web", &DeleteParams::foreground())
        .await
        .unwrap();
    until("foreground deletion", || async {
        let gone = cluster
            .all::<Deployment>()
            .get_opt("web")
            .await
            .unwrap()
            .is_none();
        gone.then_some(())
    })
    .await;
    // The last pod may still be within its grace period.
    until("the pods' end", || async {
        cluster.pods("app=web").await.is_empty().then_some(())
    })
    .await;
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_cut_short_by_the_agents_end_is_a_disruption_and_is_replaced() {
    let mut cluster = start(5);
    let policy = json!({"backoffLimit": 0, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]}});
    let mark = cluster.directory.path().join("second");
    let script = format!(
        "test -e {0} && exit 0; touch {0}; exec sleep 300",
        mark.display()
    );
    cluster.create::<Job>(job("long", &script, policy)).await;
    until("first run", || async { mark.exists().then_some(()) }).await;
    // As after SIGKILL of the agent: no status was written, the process is gone.
    cluster.agent_stop.cancel();
    (&mut cluster.agent).await.unwrap();
    let stop = CancellationToken::new();
    let second = agent(&cluster.client, cluster.directory.path(), &stop);
    let done = cluster.job_with("long", "Complete").await;
    assert_eq!(done.status.unwrap().failed, None);
    let failed = cluster
        .pods("job-name=long")
        .await
        .into_iter()
        .find(|p| p.status.as_ref().unwrap().phase.as_deref() == Some("Failed"));
    let conditions = failed.unwrap().status.unwrap().conditions.unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c.type_ == "DisruptionTarget" && c.status == "True")
    );
    stop.cancel();
    second.await.unwrap();
    assert!(cluster.api.requests() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_get_an_account_and_are_emptied_and_orphans_stay() {
    let cluster = start(6);
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let space: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &space)
        .await
        .unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(cluster.client.clone(), "team");
    until("default account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let map = |name: &str, owner: Option<&ConfigMap>| -> ConfigMap {
        let mut map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        map.metadata.owner_references =
            owner.map(|o| vec![kube::Resource::owner_ref(o, &()).unwrap()]);
        map
    };
    let owner = maps
        .create(&PostParams::default(), &map("owner", None))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("child", Some(&owner)))
        .await
        .unwrap();
    maps.delete("owner", &DeleteParams::orphan()).await.unwrap();
    until("owner gone", || async {
        maps.get_opt("owner").await.unwrap().is_none().then_some(())
    })
    .await;
    until("orphan freed", || async {
        maps.get("child")
            .await
            .unwrap()
            .owner_references()
            .is_empty()
            .then_some(())
    })
    .await;
    let owner = maps
        .create(&PostParams::default(), &map("owner", None))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("other", Some(&owner)))
        .await
        .unwrap();
    maps.delete("owner", &DeleteParams::default())
        .await
        .unwrap();
    until("dependent collected", || async {
        maps.get_opt("other").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(maps.get_opt("child").await.unwrap().is_some());
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    until("namespace gone", || async {
        namespaces
            .get_opt("team")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert!(
        cluster
            .api
            .objects("configmaps")
            .iter()
            .all(|o| o["metadata"]["namespace"] != "team")
    );
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_the_key_of_a_secret_and_says_which() {
    let cluster = start(7);
    let variable = |name: &str, key: &str, optional: bool| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "keys", "key": key, "optional": optional}}});
    let mut value = job("keyed", "echo \"$ID-$REGION-\"", json!({}));
    value["spec"]["template"]["spec"]["containers"][0]["env"] = json!([
        variable("ID", "id", false),
        variable("REGION", "region", true)
    ]);
    cluster.create::<Job>(value).await;
    let waiting = |text: &'static str| {
        let cluster = &cluster;
        until(text, move || async move {
            let pods = cluster.pods("job-name=keyed").await;
            let status = pods.first()?.status.as_ref()?;
            let state = status
                .container_statuses
                .as_ref()?
                .first()?
                .state
                .as_ref()?;
            let waiting = state.waiting.as_ref()?;
            let told = waiting.reason.as_deref() == Some("CreateContainerConfigError")
                && waiting.message.as_ref()?.contains(text);
            told.then_some(())
        })
    };
    let secret = |data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": data});
    waiting("keys").await;
    cluster
        .create::<Secret>(secret(json!({"other": "x"})))
        .await;
    waiting("couldn't find key id in Secret default/keys").await;
    let patch = Patch::Merge(secret(json!({"id": "mine"})));
    let secrets: Api<Secret> = cluster.all();
    secrets
        .patch("keys", &PatchParams::default(), &patch)
        .await
        .unwrap();
    cluster.job_with("keyed", "Complete").await;
    let pod = cluster.pods("job-name=keyed").await[0].name_any();
    let log = cluster.log(&pod, LogOptions::default()).await;
    assert!(log.contains("mine--"), "{log}");
    cluster.stop.cancel();
    cluster.agent_stop.cancel();
}

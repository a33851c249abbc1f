//! Owns the rendering of pod templates, for workers, servers and routers alike. It must be a pure function of its
//! arguments: what changes here changes [`TEMPLATE_VERSION`], and running objects keep the version they have.

use std::collections::BTreeMap;

use bessemer_api::ObjectPolicy;
use bessemer_protocol::{PROGRESS_AUDIENCE, env};
use serde_json::{Map, Value, json};

use crate::label;
use crate::settings::PodDefaults;

/// Version of the templates below; kept in status and on children.
pub const TEMPLATE_VERSION: i32 = 1;

/// Where the run configuration is mounted.
pub const CONFIG_DIR: &str = "/etc/bessemer";
const TOKEN_DIR: &str = "/var/run/secrets/bessemer";
const WORK_DIR: &str = "/var/lib/bessemer";
const KEYS_DIR: &str = "/etc/bessemer-keys";
const USER: i64 = 65532;
/// Resource of NVIDIA's device plugin.
pub(crate) const GPU: &str = "nvidia.com/gpu";

/// What one pod runs.
#[derive(Clone, Debug)]
pub struct Container {
    /// `worker`, `server` or `router`; name of the container and value of the role label.
    pub role: &'static str,
    /// Image.
    pub image: String,
    /// Subcommand and arguments.
    pub args: Vec<String>,
    /// ConfigMap mounted at [`CONFIG_DIR`].
    pub config_map: String,
    /// Secret whose keys become environment variables, if it exists.
    pub credentials_secret: Option<String>,
    /// Secrets whose keys become variables for one source each.
    pub source_secrets: Vec<SourceSecret>,
    /// Base URL of the progress intake; mounts the token too.
    pub progress_url: Option<String>,
    /// OTLP endpoint.
    pub otlp_endpoint: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Secret with API keys, mounted as files.
    pub api_keys_secret: Option<String>,
    /// GPUs, whatever the resources block says.
    pub gpus: i32,
    /// Serves HTTP on [`label::PORT`]: gets probes.
    pub serves: bool,
    /// Never restarted in place (Jobs).
    pub runs_once: bool,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: i64,
    /// How several ranks find each other.
    pub ranks: Option<Ranks>,
    /// What holds where the object says nothing.
    pub defaults: PodDefaults,
}

/// How the pods of one run find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Headless Service that gives them their names.
    pub subdomain: String,
    /// Host and port of the first.
    pub first: String,
}

/// Keys of a source's own store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSecret {
    /// Name of the source.
    pub source: String,
    /// Name of the Secret.
    pub secret: String,
}

/// The pod template (`metadata` and `spec`) for `container` under the object's policy.
pub fn template(
    container: &Container,
    policy: &ObjectPolicy,
    labels: &BTreeMap<String, String>,
) -> Value {
    let pod = &policy.pod;
    let mut all = pod.labels.clone();
    all.extend(labels.clone());
    all.insert(label::ROLE.into(), container.role.into());
    let mut metadata = json!({"labels": all});
    if !pod.annotations.is_empty() {
        put(&mut metadata, "annotations", json!(pod.annotations));
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": container.grace_seconds,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"}
        },
        "containers": [container_value(container, policy)],
        "volumes": volumes(container, policy),
    });
    if container.runs_once {
        put(&mut spec, "restartPolicy", json!("Never"));
    }
    if let Some(ranks) = &container.ranks {
        put(&mut spec, "subdomain", json!(ranks.subdomain));
    }
    if !pod.node_selector.is_empty() {
        put(&mut spec, "nodeSelector", json!(pod.node_selector));
    }
    if !pod.tolerations.is_empty() {
        put(&mut spec, "tolerations", json!(pod.tolerations));
    }
    let defaults = &container.defaults;
    let gpu_runtime = defaults
        .gpu_runtime_class
        .as_ref()
        .filter(|_| container.gpus > 0);
    let priority = pod.priority_class_name.as_ref();
    let runtime = pod.runtime_class_name.as_ref();
    for (field, value) in [
        (
            "priorityClassName",
            priority.or(defaults.priority_class.as_ref()),
        ),
        ("runtimeClassName", runtime.or(gpu_runtime)),
        ("serviceAccountName", pod.service_account_name.as_ref()),
    ] {
        if let Some(value) = value {
            put(&mut spec, field, json!(value));
        }
    }
    if !pod.image_pull_secrets.is_empty() {
        let secrets: Vec<Value> = pod
            .image_pull_secrets
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        put(&mut spec, "imagePullSecrets", json!(secrets));
    }
    json!({"metadata": metadata, "spec": spec})
}

fn container_value(container: &Container, policy: &ObjectPolicy) -> Value {
    let mut mounts = vec![
        json!({"name": "config", "mountPath": CONFIG_DIR, "readOnly": true}),
        json!({"name": "work", "mountPath": WORK_DIR}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
        json!({"name": "shm", "mountPath": "/dev/shm"}),
    ];
    if container.progress_url.is_some() {
        mounts.push(json!({"name": "token", "mountPath": TOKEN_DIR, "readOnly": true}));
    }
    if container.api_keys_secret.is_some() {
        mounts.push(json!({"name": "keys", "mountPath": KEYS_DIR, "readOnly": true}));
    }
    let mut value = json!({
        "name": container.role,
        "image": container.image,
        "command": ["bessemer-worker"],
        "args": container.args,
        "env": environment(container, policy),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}
        },
    });
    if let Some(secret) = &container.credentials_secret {
        put(
            &mut value,
            "envFrom",
            json!([{"secretRef": {"name": secret, "optional": true}}]),
        );
    }
    let resources = resources(container, policy);
    if !resources.is_empty() {
        put(
            &mut value,
            "resources",
            json!({"requests": resources, "limits": resources}),
        );
    }
    if container.serves {
        let probe = |path: &str, period: u32, failures: u32| {
            json!({
                "httpGet": {"path": path, "port": label::PORT}, "periodSeconds": period,
                "failureThreshold": failures, "timeoutSeconds": 5
            })
        };
        put(
            &mut value,
            "ports",
            json!([{"name": "http", "containerPort": label::PORT, "protocol": "TCP"}]),
        );
        put(&mut value, "readinessProbe", probe("/ready", 1, 3));
        put(&mut value, "startupProbe", probe("/health", 1, 900));
        put(&mut value, "livenessProbe", probe("/health", 10, 6));
    }
    value
}

fn environment(container: &Container, policy: &ObjectPolicy) -> Vec<Value> {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let mut all = vec![
        json!({"name": env::POD_IP, "valueFrom": field("status.podIP")}),
        json!({"name": env::POD_NAME, "valueFrom": field("metadata.name")}),
        json!({"name": env::WORK_DIR, "value": WORK_DIR}),
    ];
    if let Some(ranks) = &container.ranks {
        all.push(json!({"name": env::RENDEZVOUS, "value": ranks.first}));
    }
    if let Some(url) = &container.progress_url {
        all.push(json!({"name": env::PROGRESS_URL, "value": url}));
        all.push(json!({"name": env::TOKEN_FILE, "value": format!("{TOKEN_DIR}/token")}));
    }
    if container.gpus > 0 {
        // Without it cuBLAS is not deterministic: docs.nvidia.com/cuda/cublas, Results reproducibility.
        all.push(json!({"name": "CUBLAS_WORKSPACE_CONFIG", "value": ":4096:8"}));
    }
    if container.api_keys_secret.is_some() {
        all.push(json!({"name": env::API_KEYS_DIR, "value": KEYS_DIR}));
    }
    if let Some(trace) = &container.traceparent {
        all.push(json!({"name": "TRACEPARENT", "value": trace}));
    }
    if let Some(endpoint) = &container.otlp_endpoint {
        all.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}));
    }
    for SourceSecret { source, secret } in &container.source_secrets {
        let required = env::STORE_KEYS.map(|key| (key, false));
        let optional = env::OPTIONAL_STORE_KEYS.map(|key| (key, true));
        all.extend(required.into_iter().chain(optional).map(|(key, optional)| {
            json!({"name": env::source_key(source, key), "valueFrom": {"secretKeyRef": {
                "name": secret, "key": key, "optional": optional
            }}})
        }));
    }
    // The user's variables come last, but never replace one that the worker's contract names.
    let taken: Vec<String> = all
        .iter()
        .filter_map(|v| Some(v.get("name")?.as_str()?.to_owned()))
        .collect();
    let own = policy
        .pod
        .env
        .iter()
        .filter(|variable| !taken.contains(&variable.name));
    all.extend(own.map(|variable| json!({"name": variable.name, "value": variable.value})));
    all
}

fn resources(container: &Container, policy: &ObjectPolicy) -> Map<String, Value> {
    let wanted = &policy.resources;
    let mut all = Map::new();
    if let Some(cpu) = &wanted.cpu {
        all.insert("cpu".into(), json!(cpu));
    }
    if let Some(memory) = &wanted.memory {
        all.insert("memory".into(), json!(memory));
    }
    if let Some(scratch) = &wanted.scratch {
        all.insert("ephemeral-storage".into(), json!(scratch));
    }
    if container.gpus > 0 {
        all.insert(GPU.into(), json!(container.gpus.to_string()));
    }
    all
}

fn volumes(container: &Container, policy: &ObjectPolicy) -> Vec<Value> {
    let mut work = Map::new();
    if let Some(scratch) = &policy.resources.scratch {
        work.insert("sizeLimit".into(), json!(scratch));
    }
    let mut all = vec![
        json!({"name": "config", "configMap": {"name": container.config_map}}),
        json!({"name": "work", "emptyDir": work}),
        json!({"name": "tmp", "emptyDir": {}}),
        json!({"name": "shm", "emptyDir": {"medium": "Memory"}}),
    ];
    if container.progress_url.is_some() {
        all.push(
            json!({"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": PROGRESS_AUDIENCE, "expirationSeconds": 3600, "path": "token"
            }}]}}),
        );
    }
    if let Some(secret) = &container.api_keys_secret {
        all.push(json!({"name": "keys", "secret": {"secretName": secret}}));
    }
    all
}

/// Sets a field of a JSON object.
pub fn put(value: &mut Value, field: &str, content: Value) {
    if let Some(object) = value.as_object_mut() {
        object.insert(field.into(), content);
    }
}

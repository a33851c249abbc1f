//! Owns the defaults of built-in kinds, which Kubernetes keeps in code and not in schemas; must not validate.

use serde_json::{Map, Value, json};

use crate::object;
use crate::registry::Resource;

/// Sets `field` when it is absent.
fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    map.entry(field.to_owned()).or_insert(value.into());
}

fn child<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    object::map(map.entry(field.to_owned()).or_insert(json!({})))
}

/// The maps of the list `field`.
fn each<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .map(object::map)
}

fn spec(value: &mut Value) -> &mut Map<String, Value> {
    child(object::map(value), "spec")
}

/// Fills in the defaults of a built-in kind.
pub fn defaults(resource: &Resource, value: &mut Value) {
    match resource.table.as_str() {
        "pods" => {
            let spec = spec(value);
            pod(spec);
            default(spec, "enableServiceLinks", true);
            for field in ["containers", "initContainers"] {
                each(spec, field).for_each(requests);
            }
        }
        "deployments.apps" => {
            let spec = spec(value);
            default(spec, "replicas", 1);
            default(spec, "progressDeadlineSeconds", 600);
            default(spec, "revisionHistoryLimit", 10);
            let strategy = child(spec, "strategy");
            default(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                let rolling = child(strategy, "rollingUpdate");
                default(rolling, "maxSurge", "25%");
                default(rolling, "maxUnavailable", "25%");
            }
            template(spec);
        }
        "replicasets.apps" => {
            let spec = spec(value);
            default(spec, "replicas", 1);
            template(spec);
        }
        "jobs.batch" => {
            job(spec(value));
            let labels = object::at(value, &["spec", "template", "metadata", "labels"]).cloned();
            if let Some(labels) = labels {
                default(object::metadata(value), "labels", labels);
            }
        }
        "services" => service(spec(value)),
        "secrets" => {
            let map = object::map(value);
            default(map, "type", "Opaque");
            // stringData is write-only: its values become base64 in data.
            if let Some(Value::Object(texts)) = map.remove("stringData") {
                use base64::Engine as _;
                let data = child(map, "data");
                for (key, text) in texts {
                    let bytes = text.as_str().unwrap_or_default().as_bytes();
                    data.insert(
                        key,
                        base64::engine::general_purpose::STANDARD
                            .encode(bytes)
                            .into(),
                    );
                }
            }
        }
        "rolebindings.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io" => {
            for subject in each(object::map(value), "subjects") {
                if subject.get("kind").and_then(Value::as_str) != Some("ServiceAccount") {
                    default(subject, "apiGroup", "rbac.authorization.k8s.io");
                }
            }
        }
        "endpointslices.discovery.k8s.io" => {
            for port in each(object::map(value), "ports") {
                default(port, "name", "");
                default(port, "protocol", "TCP");
            }
        }
        crate::custom::TABLE => crate::custom::defaults(value),
        _ => {}
    }
}

fn job(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    default(spec, "parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replaces = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default(spec, "podReplacementPolicy", replaces);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in each(object::map(policy), "rules") {
            for pattern in each(rule, "onPodConditions") {
                default(pattern, "status", "True");
            }
        }
    }
    template(spec);
}

fn service(spec: &mut Map<String, Value>) {
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    for port in each(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if port
            .get("targetPort")
            .is_none_or(|t| t == &json!(0) || t == &json!(""))
        {
            port.insert("targetPort".into(), number);
        }
    }
}

fn template(spec: &mut Map<String, Value>) {
    let template = child(spec, "template");
    child(template, "metadata");
    pod(child(template, "spec"));
}

/// Defaults of a PodSpec.
fn pod(spec: &mut Map<String, Value>) {
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    child(spec, "securityContext");
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default(spec, "serviceAccount", account);
    }
    for field in ["containers", "initContainers"] {
        each(spec, field).for_each(container);
    }
    for volume in each(spec, "volumes") {
        for source in ["secret", "configMap", "projected", "downwardAPI"] {
            if let Some(source) = volume.get_mut(source) {
                default(object::map(source), "defaultMode", 420);
            }
        }
        if let Some(projected) = volume.get_mut("projected") {
            for source in each(object::map(projected), "sources") {
                if let Some(token) = source.get_mut("serviceAccountToken") {
                    default(object::map(token), "expirationSeconds", 3600);
                }
            }
        }
        if volume.len() == 1 && volume.contains_key("name") {
            volume.insert("emptyDir".into(), json!({}));
        }
    }
}

/// A limit without a request is the request too, in pods (not in templates).
fn requests(container: &mut Map<String, Value>) {
    if let Some(Value::Object(limits)) = container
        .get("resources")
        .and_then(|r| r.get("limits"))
        .cloned()
    {
        let requests = child(child(container, "resources"), "requests");
        for (name, quantity) in limits {
            default(requests, &name, quantity);
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    child(container, "resources");
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    default(
        container,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
    for port in each(container, "ports") {
        default(port, "protocol", "TCP");
    }
    for entry in each(container, "env") {
        if let Some(field) = entry
            .get_mut("valueFrom")
            .and_then(|v| v.get_mut("fieldRef"))
        {
            default(object::map(field), "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).map(object::map) else {
            continue;
        };
        default(probe, "failureThreshold", 3);
        default(probe, "periodSeconds", 10);
        default(probe, "successThreshold", 1);
        default(probe, "timeoutSeconds", 1);
        if let Some(http) = probe.get_mut("httpGet") {
            let http = object::map(http);
            default(http, "scheme", "HTTP");
            default(http, "path", "/");
        }
    }
}

/// What admission gives a pod: its account, priority and tolerations of lost nodes.
pub fn admit_pod(value: &mut Value) {
    let spec = spec(value);
    default(spec, "serviceAccountName", "default");
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    default(spec, "priority", 0);
    let toleration = |key: &str| json!({"effect": "NoExecute", "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "tolerationSeconds": 300});
    default(
        spec,
        "tolerations",
        json!([toleration("not-ready"), toleration("unreachable")]),
    );
}

/// Times that Go writes as null when conditions lack them, and a pod's list of addresses.
pub fn condition_times(resource: &Resource, value: &mut Value) {
    let times: &[&str] = match resource.table.as_str() {
        "deployments.apps" => &["lastUpdateTime", "lastTransitionTime"],
        "replicasets.apps" => &["lastTransitionTime"],
        "pods" | "jobs.batch" => &["lastProbeTime", "lastTransitionTime"],
        "nodes" => &["lastHeartbeatTime", "lastTransitionTime"],
        _ => return,
    };
    if let Some(status) = value.get_mut("status") {
        let address = status
            .get("podIP")
            .cloned()
            .filter(|_| resource.table == "pods");
        if let Some(address) = address {
            default(object::map(status), "podIPs", json!([{ "ip": address }]));
        }
        for condition in each(object::map(status), "conditions") {
            times
                .iter()
                .for_each(|time| default(condition, time, Value::Null));
        }
    }
}

/// A pod's quality-of-service class.
#[must_use]
pub fn quality_of_service(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for field in ["containers", "initContainers"] {
        for container in object::at(pod, &["spec", field])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let limits = object::at(container, &["resources", "limits"]);
            let requests = object::at(container, &["resources", "requests"]);
            for name in ["cpu", "memory"] {
                let limit = limits.and_then(|l| l.get(name));
                let request = requests.and_then(|r| r.get(name));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

/// A Job selects its pods by its uid.
pub fn job_selector(value: &mut Value) {
    object::set(value, &["status"], json!({}));
    if object::at(value, &["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    let uid = object::text(value, &["metadata", "uid"]).to_owned();
    let name = object::name(value).to_owned();
    object::set(
        value,
        &["spec", "selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let labels = child(child(child(spec(value), "template"), "metadata"), "labels");
    for prefix in ["batch.kubernetes.io/", ""] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone().into());
        labels.insert(format!("{prefix}job-name"), name.clone().into());
    }
}

/// The status of a new built-in object.
#[must_use]
pub fn empty_status(resource: &Resource) -> Value {
    match resource.table.as_str() {
        "replicasets.apps" | "statefulsets.apps" => json!({"replicas": 0}),
        _ => json!({}),
    }
}

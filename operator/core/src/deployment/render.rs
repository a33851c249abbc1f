//! Owns the rendering of a Deployment's objects: servers of a revision, router. It must be a pure function; what exists
//! keeps its image, so an upgrade of the operator restarts nothing.

use std::collections::BTreeMap;

use bessemer_api::ModelDeployment;
use bessemer_protocol::route::RouteConfig;
use bessemer_protocol::{Run as RunId, RunConfig, SCHEMA_VERSION, run_key};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::resolve::{DRAIN_SECONDS, Desired};
use crate::action::{Action, owner};
use crate::kind::Kind;
use crate::label;
use crate::pod::{self, CONFIG_DIR, Container, TEMPLATE_VERSION, put};
use crate::run::CONFIG_FILE;
use crate::settings::Settings;

/// Value of the run label of the router's objects.
pub(super) const ROUTER: &str = "router";
/// Key of the router's configuration in its ConfigMap.
pub(super) const ROUTE_FILE: &str = "route.json";

/// Name of the children of a revision or of the router.
pub(super) fn name(object: &ModelDeployment, short: &str) -> String {
    label::child(ModelDeployment::KIND, &object.key().name, short)
}

fn labels(object: &ModelDeployment, short: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            label::KIND.to_owned(),
            ModelDeployment::KIND.name().to_owned(),
        ),
        (label::NAME.to_owned(), object.key().name),
        (label::RUN.to_owned(), short.to_owned()),
    ])
}

/// Selector of the servers' pods, for the scale subresource.
pub(super) fn selector(object: &ModelDeployment) -> String {
    format!(
        "{}={},{}={},{}=server",
        label::KIND,
        ModelDeployment::KIND,
        label::NAME,
        object.key().name,
        label::ROLE
    )
}

pub(super) fn metadata(object: &ModelDeployment, short: &str, annotations: Value) -> Value {
    json!({
        "name": name(object, short), "namespace": object.key().namespace, "labels": labels(object, short),
        "annotations": annotations, "ownerReferences": [owner(object)]
    })
}

/// The configuration of a revision's servers; never changes.
pub(super) fn revision_config(
    object: &ModelDeployment,
    desired: &Desired,
    settings: &Settings,
) -> Value {
    let key = object.key();
    let inputs = vec![desired.model.clone()];
    let config = RunConfig {
        schema_version: SCHEMA_VERSION,
        run: RunId {
            namespace: key.namespace,
            kind: ModelDeployment::KIND.name().into(),
            name: key.name,
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            run_key: run_key(&desired.task, &inputs).unwrap_or_default(),
            attempt: 0,
        },
        storage: settings.storage.clone(),
        inputs,
        task: desired.task.clone(),
        gpus: u32::try_from(desired.gpus).unwrap_or_default(),
    };
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
        "metadata": metadata(object, &desired.revision, json!({label::DIGEST: desired.model.digest})),
        "data": {CONFIG_FILE: serde_json::to_string(&config).unwrap_or_default()},
    })
}

/// What is said of a revision's servers.
#[derive(Clone, Debug)]
pub(super) struct Servers<'a> {
    /// Revision.
    pub short: &'a str,
    /// Digest of its weights.
    pub digest: &'a str,
    /// Pods.
    pub replicas: i32,
    /// When its check began.
    pub since: &'a str,
    /// Generation it was last tried for.
    pub generation: i64,
    /// Why it was rejected, `Reason: sentence`.
    pub rejected: Option<&'a str>,
}

/// The servers of a revision.
pub(super) fn servers(
    object: &ModelDeployment,
    servers: &Servers<'_>,
    live: Option<&Deployment>,
    settings: &Settings,
) -> Value {
    let spec = &object.spec;
    let container = Container {
        role: "server",
        args: vec![
            "serve".into(),
            "--config".into(),
            format!("{CONFIG_DIR}/{CONFIG_FILE}"),
        ],
        credentials_secret: Some(settings.credentials_secret.clone()),
        source_secrets: Vec::new(),
        api_keys_secret: spec
            .auth
            .as_ref()
            .map(|auth| auth.api_keys_secret_ref.name.clone()),
        // A revision keeps the device it was checked on, as it keeps its image.
        gpus: live.map_or(spec.policy.resources.gpus.unwrap_or(0), gpus),
        grace_seconds: i64::from(DRAIN_SECONDS) + 10,
        ..container(object, servers.short, live, settings)
    };
    let mut annotations = json!({
        label::DIGEST: servers.digest, label::SINCE: servers.since,
        label::GENERATION: servers.generation.to_string(), label::TEMPLATE: TEMPLATE_VERSION.to_string(),
    });
    if let Some(rejected) = servers.rejected {
        put(&mut annotations, label::REJECTED, json!(rejected));
    }
    let deadline = i32::try_from(spec.progress_deadline_seconds).unwrap_or(i32::MAX);
    deployment(
        object,
        servers.short,
        &container,
        servers.replicas,
        deadline,
        annotations,
    )
}

/// The router.
pub(super) fn router(
    object: &ModelDeployment,
    live: Option<&Deployment>,
    settings: &Settings,
) -> Value {
    let auth = object.spec.auth.as_ref();
    let container = Container {
        role: "router",
        args: vec![
            "route".into(),
            "--config".into(),
            format!("{CONFIG_DIR}/{ROUTE_FILE}"),
        ],
        api_keys_secret: auth.map(|auth| auth.api_keys_secret_ref.name.clone()),
        grace_seconds: i64::from(DRAIN_SECONDS) + 10,
        ..container(object, ROUTER, live, settings)
    };
    let annotations = json!({label::TEMPLATE: TEMPLATE_VERSION.to_string()});
    deployment(object, ROUTER, &container, 1, 600, annotations)
}

fn container(
    object: &ModelDeployment,
    short: &str,
    live: Option<&Deployment>,
    settings: &Settings,
) -> Container {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let trace = label::short_hash(&["trace", &uid, short], 32);
    let span = label::short_hash(&["span", &uid, short], 16);
    Container {
        role: "server",
        image: live
            .and_then(image)
            .unwrap_or_else(|| settings.image.clone()),
        args: Vec::new(),
        config_map: name(object, short),
        credentials_secret: None,
        source_secrets: Vec::new(),
        progress_url: None,
        otlp_endpoint: settings.otlp_endpoint.clone(),
        traceparent: Some(format!("00-{trace}-{span}-01")),
        api_keys_secret: None,
        gpus: 0,
        serves: true,
        runs_once: false,
        grace_seconds: 30,
        ranks: None,
        defaults: settings.pod_defaults.clone(),
    }
}

fn first_container(live: &Deployment) -> Option<&k8s_openapi::api::core::v1::Container> {
    let pod = live.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.first()
}

fn image(live: &Deployment) -> Option<String> {
    first_container(live)?.image.clone()
}

/// GPUs of each of its pods.
fn gpus(live: &Deployment) -> i32 {
    first_container(live)
        .and_then(|container| container.resources.as_ref()?.limits.as_ref()?.get(pod::GPU))
        .and_then(|quantity| quantity.0.parse().ok())
        .unwrap_or(0)
}

fn deployment(
    object: &ModelDeployment,
    short: &str,
    container: &Container,
    replicas: i32,
    deadline: i32,
    annotations: Value,
) -> Value {
    let mut labels = labels(object, short);
    // A router needs none of what a model needs.
    let mut policy = object.spec.policy.clone();
    if short == ROUTER {
        policy.resources = bessemer_api::Resources::default();
    }
    let template = pod::template(container, &policy, &labels);
    let mut metadata = metadata(object, short, annotations);
    labels.insert(label::ROLE.into(), container.role.into());
    if let (Some(queue), Some(all)) = (&object.spec.policy.queue_name, metadata.get_mut("labels")) {
        put(all, label::QUEUE, json!(queue));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": deadline, "revisionHistoryLimit": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": template,
        }
    })
}

/// The Service in front of a revision or of the router.
pub(super) fn service(object: &ModelDeployment, short: &str) -> Value {
    let mut selector = labels(object, short);
    let role = if short == ROUTER { "router" } else { "server" };
    selector.insert(label::ROLE.into(), role.into());
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(object, short, json!({})),
        "spec": {
            "type": "ClusterIP", "selector": selector,
            "ports": [{"name": "http", "port": label::PORT, "targetPort": label::PORT, "protocol": "TCP"}]
        }
    })
}

/// The router's configuration; `notes` are the annotations in which a rollout remembers where it is.
pub(super) fn route_config(
    object: &ModelDeployment,
    config: &RouteConfig,
    notes: &BTreeMap<String, String>,
) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(object, ROUTER, json!(notes)),
        "data": {ROUTE_FILE: serde_json::to_string_pretty(config).unwrap_or_default()},
    })
}

/// Applies `object` unless the live one already is what we applied last. Only our own hash is compared: fields that
/// the API server or others fill in are no difference.
pub(super) fn apply<R: kube::Resource>(mut object: Value, live: Option<&R>) -> Option<Action> {
    let hash = label::short_hash(&[&object.to_string()], 16);
    if let Some(live) = live {
        let annotations = live.meta().annotations.as_ref();
        if annotations.and_then(|all| all.get(label::APPLIED)) == Some(&hash) {
            return None;
        }
    }
    let metadata = object.get_mut("metadata")?;
    if let Some(uid) = live.and_then(|live| live.meta().uid.clone()) {
        put(metadata, "uid", json!(uid));
    }
    if metadata.get("annotations").is_none() {
        put(metadata, "annotations", json!({}));
    }
    put(
        metadata.get_mut("annotations")?,
        label::APPLIED,
        json!(hash),
    );
    Some(Action::Apply {
        object,
        manager: label::manager(ModelDeployment::KIND),
    })
}

/// As [`apply`], but only onto the very version that was observed, or as a creation: a plan from an old snapshot must
/// not bring back an old division of traffic.
pub(super) fn fenced<R: kube::Resource>(object: Value, live: Option<&R>) -> Option<Action> {
    let action = apply(object, live)?;
    let Action::Apply {
        mut object,
        manager,
    } = action
    else {
        return Some(action);
    };
    let Some(live) = live else {
        return Some(Action::Create { object });
    };
    let version = live.meta().resource_version.clone().unwrap_or_default();
    put(
        object.get_mut("metadata")?,
        "resourceVersion",
        json!(version),
    );
    Some(Action::Apply { object, manager })
}

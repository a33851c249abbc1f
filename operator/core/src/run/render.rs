//! Owns the rendering of a run's objects: ConfigMap, Job and, with several ranks, the headless Service. It must be a
//! pure function: the same run and attempt give the same bytes.

use std::collections::BTreeMap;

use bessemer_protocol::{ExitCode, RENDEZVOUS_PORT, Run as RunId, RunConfig, SCHEMA_VERSION};
use serde_json::{Value, json};

use super::{Identity, Run, RunKind};
use crate::action::owner;
use crate::kind::Kind;
use crate::label;
use crate::pod::{self, CONFIG_DIR, Container, Ranks, TEMPLATE_VERSION, put};
use crate::settings::Settings;

/// Key of the run configuration in the ConfigMap.
pub const CONFIG_FILE: &str = "run.json";

/// A run's objects, in the order in which they are created.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Run configuration.
    pub config_map: Value,
    /// Names for the ranks, with several of them.
    pub service: Option<Value>,
    /// The Job.
    pub job: Value,
    /// Name of the Job and the ConfigMap.
    pub name: String,
    /// Hash of the pod template.
    pub template_hash: String,
}

impl Rendered {
    /// The objects in order.
    pub fn into_objects(self) -> Vec<Value> {
        [Some(self.config_map), self.service, Some(self.job)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Renders attempt `attempt` of `run`. `lost_seconds` is the work lost before it.
pub fn render<K: RunKind>(
    object: &K,
    run: &Run,
    identity: &Identity,
    attempt: i32,
    lost_seconds: i64,
    settings: &Settings,
) -> Rendered {
    let key = object.key();
    let (policy, run_policy) = object.policy();
    let uid = object.meta().uid.clone().unwrap_or_default();
    let generation = object.meta().generation.unwrap_or_default();
    let name = label::child(K::KIND, &key.name, &format!("{}-{attempt}", identity.short));
    let labels = BTreeMap::from([
        (label::KIND.to_owned(), K::KIND.name().to_owned()),
        (label::NAME.to_owned(), key.name.clone()),
        (label::RUN.to_owned(), identity.short.clone()),
    ]);
    let config = RunConfig {
        schema_version: SCHEMA_VERSION,
        run: RunId {
            namespace: key.namespace.clone(),
            kind: K::KIND.name().into(),
            name: key.name.clone(),
            uid: uid.clone(),
            generation,
            run_key: identity.run_key.clone(),
            attempt: u32::try_from(attempt).unwrap_or_default(),
        },
        storage: settings.storage.clone(),
        inputs: run.inputs.clone(),
        task: run.task.clone(),
        gpus: u32::try_from(run.gpus).unwrap_or_default(),
    };
    let metadata = |annotations: Value| {
        json!({
            "name": name, "namespace": key.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [owner(object)]
        })
    };
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
        "metadata": metadata(json!({
            label::ATTEMPT: attempt.to_string(), label::GENERATION: generation.to_string(),
            label::NONCE: identity.nonce.clone().unwrap_or_default(),
        })),
        "data": {CONFIG_FILE: serde_json::to_string(&config).unwrap_or_default()},
    });
    let several = run.pods() > 1;
    let span = label::short_hash(&["span", &uid, &identity.short, &attempt.to_string()], 16);
    let container = Container {
        role: "worker",
        image: settings.image.clone(),
        args: vec![
            run.task.command().into(),
            "--config".into(),
            format!("{CONFIG_DIR}/{CONFIG_FILE}"),
        ],
        config_map: name.clone(),
        credentials_secret: Some(settings.credentials_secret.clone()),
        source_secrets: object.source_secrets(),
        progress_url: settings.progress_url.clone(),
        otlp_endpoint: settings.otlp_endpoint.clone(),
        traceparent: Some(format!("00-{}-{span}-01", identity.trace_id(&uid))),
        api_keys_secret: None,
        gpus: run.gpus,
        serves: false,
        runs_once: true,
        grace_seconds: 120,
        ranks: several.then(|| Ranks {
            subdomain: name.clone(),
            // An Indexed Job names its pods' hosts by their index.
            first: format!("{name}-0.{name}.{}.svc:{RENDEZVOUS_PORT}", key.namespace),
        }),
        defaults: settings.pod_defaults.clone(),
    };
    let template = pod::template(&container, policy, &labels);
    let template_hash = label::short_hash(&[&template.to_string()], 16);
    let mut spec = json!({
        "completionMode": "Indexed", "completions": run.pods(), "parallelism": run.pods(),
        "backoffLimit": 0, "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": failure_rules(several)},
        "template": template,
    });
    if let Some(deadline) = run_policy.active_deadline_seconds {
        put(&mut spec, "activeDeadlineSeconds", json!(deadline));
    }
    let mut job_metadata = metadata(json!({
        label::ATTEMPT: attempt.to_string(), label::GENERATION: generation.to_string(),
        label::TEMPLATE: TEMPLATE_VERSION.to_string(), label::TEMPLATE_HASH: template_hash,
        label::LOST: lost_seconds.to_string(),
    }));
    if let Some(queue) = &policy.queue_name {
        // Kueue decides when the Job starts; from here on `suspend` is its field.
        put(&mut spec, "suspend", json!(true));
        if let Some(labels) = job_metadata.get_mut("labels") {
            put(labels, label::QUEUE, json!(queue));
        }
    }
    let job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": job_metadata, "spec": spec});
    let service = several.then(|| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(json!({})),
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": labels}
        })
    });
    Rendered {
        config_map,
        service,
        job,
        name,
        template_hash,
    }
}

/// Terminal exit codes fail the Job at once. A disruption of a single pod is not counted; with several ranks it fails
/// the Job, since the others would wait for the lost rank until a timeout.
fn failure_rules(several: bool) -> Vec<Value> {
    let codes: Vec<i32> = ExitCode::TERMINAL.iter().map(|code| code.code()).collect();
    let mut rules = vec![json!({
        "action": "FailJob",
        "onExitCodes": {"containerName": "worker", "operator": "In", "values": codes}
    })];
    if !several {
        rules.push(json!({
            "action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]
        }));
    }
    rules
}

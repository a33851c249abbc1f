//! Owns the rest of a cluster in a simulation: Jobs with their pods, Deployments, the garbage collector. It must behave as
//! Kubernetes does where the operator can tell the difference, and it never fails by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_embedded::Api;
use bessemer_protocol::{RunConfig, Task};
use bessemer_store::{Code, InputDigest, Layout, Location, Manifest, ObjectStore, RunPointer};
use http::Method;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{call, merge, table, text};
use super::store::BUCKET;

/// Tables whose objects the garbage collector looks at.
pub const CHILD_TABLES: [&str; 5] = [
    "jobs.batch",
    "pods",
    "configmaps",
    "services",
    "deployments.apps",
];
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
}

struct Work {
    phase: Phase,
    due: Instant,
}

/// The actor of one simulated cluster.
pub struct Actor {
    api: Api,
    store: Arc<dyn ObjectStore>,
    random: ChaCha8Rng,
    work: BTreeMap<String, Work>,
    servers: BTreeMap<String, (i64, Instant)>,
    orphans: BTreeMap<String, Instant>,
    revision: u64,
    /// No attempt fails by chance.
    calm: bool,
    /// Everything takes at most this long (ms).
    pub slowest: u64,
}

impl Actor {
    /// An actor on `api` that commits artefacts to `store`.
    #[must_use]
    pub fn new(api: Api, store: Arc<dyn ObjectStore>, seed: u64, calm: bool) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed ^ 0xAC70);
        let (work, servers, orphans) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            api,
            store,
            random,
            work,
            servers,
            orphans,
            revision: 0,
            calm,
            slowest: 30_000,
        }
    }

    /// Acts for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(TICK).await;
            let idle = self.work.is_empty() && self.servers.is_empty() && self.orphans.is_empty();
            if idle && self.api.revision() == self.revision {
                continue;
            }
            self.revision = self.api.revision();
            self.collect_garbage();
            self.deployments();
            for job in self.api.objects("jobs.batch") {
                self.job(&job).await;
            }
            let jobs: BTreeSet<String> = self
                .api
                .objects("jobs.batch")
                .iter()
                .map(|job| text(job, "/metadata/uid").to_owned())
                .collect();
            self.work.retain(|uid, _| jobs.contains(uid));
        }
    }

    fn delay(&mut self, low: u64, high: u64) -> Instant {
        Instant::now()
            + Duration::from_millis(self.random.random_range(low..=high).min(self.slowest))
    }

    async fn job(&mut self, job: &Value) {
        if owners(job).next().is_none() {
            return; // a Job of somebody else, put in the operator's way; nobody waits for it
        }
        let uid = text(job, "/metadata/uid").to_owned();
        if !text(job, "/metadata/deletionTimestamp").is_empty() {
            self.drop_pods(&uid);
            merge(
                &self.api,
                &path(job),
                &json!({"metadata": {"finalizers": null}}),
            );
            return;
        }
        let conditions = job
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if conditions.iter().any(|c| {
            matches!(text(c, "/type"), "Complete" | "Failed") && text(c, "/status") == "True"
        }) {
            self.work.remove(&uid);
            return;
        }
        if job.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true) {
            self.work.remove(&uid);
            let active = job
                .pointer("/status/active")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            self.drop_pods(&uid);
            if active > 0 {
                self.status(job, &json!({"active": 0, "startTime": null}));
            }
            return;
        }
        let due = self.delay(500, 3000);
        let work = self.work.entry(uid.clone()).or_insert(Work {
            phase: Phase::Starting,
            due,
        });
        if work.due > Instant::now() {
            return;
        }
        if work.phase == Phase::Starting {
            let due = self.delay(2000, 30_000);
            self.work.insert(
                uid.clone(),
                Work {
                    phase: Phase::Running,
                    due,
                },
            );
            self.start_pod(job, "batch/v1", "Job");
            let now = self.now();
            self.status(job, &json!({"active": 1, "startTime": now}));
            return;
        }
        self.work.remove(&uid);
        self.finish(job).await;
    }

    fn now(&self) -> String {
        bessemer_embedded::clock::stamp(self.api.clock().now())
    }

    fn status(&self, object: &Value, status: &Value) {
        merge(
            &self.api,
            &format!("{}/status", path(object)),
            &json!({"status": status}),
        );
    }

    /// The first pod of `of`, a Job or a Deployment; one that is there already stays.
    fn start_pod(&self, of: &Value, version: &str, kind: &str) {
        let name = format!("{}-0", text(of, "/metadata/name"));
        let mut template = of.pointer("/spec/template").cloned().unwrap_or_default();
        let spec = template
            .get_mut("spec")
            .map(Value::take)
            .unwrap_or_default();
        let owner = json!([{"apiVersion": version, "kind": kind, "name": text(of, "/metadata/name"),
            "uid": text(of, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true}]);
        let namespace = text(of, "/metadata/namespace");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace,
            "labels": template.pointer("/metadata/labels"), "ownerReferences": owner}, "spec": spec});
        let (code, pod) = call(
            &self.api,
            Method::POST,
            &format!("/api/v1/namespaces/{namespace}/pods"),
            "application/json",
            &pod,
        );
        if code == 201 {
            self.status(&pod, &json!({"phase": "Running"}));
        }
    }

    fn drop_pods(&self, uid: &str) {
        for pod in self.api.objects("pods") {
            if owners(&pod).any(|owner| owner == uid) {
                call(
                    &self.api,
                    Method::DELETE,
                    &format!("{}?gracePeriodSeconds=0", path(&pod)),
                    "application/json",
                    &Value::Null,
                );
            }
        }
    }

    /// Ends an attempt: what it ends in follows from the run, whether it fails on the way from chance.
    async fn finish(&mut self, job: &Value) {
        let Some(config) = self.config(job) else {
            return;
        };
        let bad = bad_run(&config.run.run_key);
        let unlucky = !self.calm && config.run.attempt == 0 && self.random.random_bool(0.15);
        let code = if bad {
            65
        } else if unlucky {
            75
        } else {
            0
        };
        if code == 0 {
            commit(self.store.as_ref(), &config).await;
        }
        let uid = text(job, "/metadata/uid").to_owned();
        for pod in self
            .api
            .objects("pods")
            .iter()
            .filter(|pod| owners(pod).any(|owner| owner == uid))
        {
            let message = if bad {
                r#"{"category":"BadData","message":"line 7 is no text","hint":"correct it"}"#
            } else {
                ""
            };
            let now = self.now();
            let ended = json!({"name": "worker", "image": "worker", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "message": message, "finishedAt": now}}});
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            self.status(pod, &json!({"phase": phase, "containerStatuses": [ended]}));
        }
        let now = self.now();
        let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": reason, "lastTransitionTime": now, "lastProbeTime": now});
        let status = match code {
            0 => json!({"active": 0, "succeeded": 1, "completionTime": now,
                "conditions": [condition("SuccessCriteriaMet", "CompletionsReached"), condition("Complete", "CompletionsReached")]}),
            65 => {
                json!({"active": 0, "failed": 1, "conditions": [condition("FailureTarget", "PodFailurePolicy"), condition("Failed", "PodFailurePolicy")]})
            }
            _ => {
                json!({"active": 0, "failed": 1, "conditions": [condition("FailureTarget", "BackoffLimitExceeded"), condition("Failed", "BackoffLimitExceeded")]})
            }
        };
        self.status(job, &status);
    }

    fn config(&self, job: &Value) -> Option<RunConfig> {
        let name = text(job, "/metadata/name");
        let maps = self.api.objects("configmaps");
        let map = maps
            .iter()
            .find(|map| text(map, "/metadata/name") == name)?;
        serde_json::from_str(text(map, "/data/run.json")).ok()
    }

    fn deployments(&mut self) {
        let all = self.api.objects("deployments.apps");
        for deployment in &all {
            let uid = text(deployment, "/metadata/uid").to_owned();
            if !text(deployment, "/metadata/deletionTimestamp").is_empty() {
                merge(
                    &self.api,
                    &path(deployment),
                    &json!({"metadata": {"finalizers": null}}),
                );
                continue;
            }
            let generation = deployment
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            let observed = deployment
                .pointer("/status/observedGeneration")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            if observed >= generation {
                self.servers.remove(&uid);
                continue;
            }
            let due = self.delay(500, 5000);
            let waiting = self.servers.entry(uid.clone()).or_insert((generation, due));
            if waiting.0 != generation {
                *waiting = (generation, due);
            }
            if waiting.1 > Instant::now() {
                continue;
            }
            self.servers.remove(&uid);
            let replicas = deployment
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(1);
            self.status(deployment, &json!({"observedGeneration": generation, "replicas": replicas,
                "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}));
            if text(
                deployment,
                "/spec/template/metadata/labels/bessemer.dev~1role",
            ) == "router"
            {
                self.start_pod(deployment, "apps/v1", "Deployment");
            }
        }
        let alive: BTreeSet<&str> = all.iter().map(|d| text(d, "/metadata/uid")).collect();
        self.servers.retain(|uid, _| alive.contains(uid.as_str()));
    }

    /// Removes what is controlled by something that is gone, after a while.
    fn collect_garbage(&mut self) {
        let mut alive = BTreeSet::new();
        for kind in Kind::ALL {
            alive.extend(
                self.api
                    .objects(&table(kind))
                    .iter()
                    .map(|o| text(o, "/metadata/uid").to_owned()),
            );
        }
        for name in ["jobs.batch", "deployments.apps"] {
            alive.extend(
                self.api
                    .objects(name)
                    .iter()
                    .map(|o| text(o, "/metadata/uid").to_owned()),
            );
        }
        let mut seen = BTreeSet::new();
        let children: Vec<Arc<Value>> = CHILD_TABLES
            .iter()
            .flat_map(|table| self.api.objects(table))
            .collect();
        for object in children {
            let mut owners = owners(&object).peekable();
            if owners.peek().is_none() || owners.any(|owner| alive.contains(owner)) {
                continue;
            }
            let uid = text(&object, "/metadata/uid").to_owned();
            let due = self.delay(500, 3000);
            let due = *self.orphans.entry(uid.clone()).or_insert(due);
            if due <= Instant::now() {
                let path = format!(
                    "{}?propagationPolicy=Background&gracePeriodSeconds=0",
                    path(&object)
                );
                call(
                    &self.api,
                    Method::DELETE,
                    &path,
                    "application/json",
                    &Value::Null,
                );
            }
            seen.insert(uid);
        }
        self.orphans.retain(|uid, _| seen.contains(uid));
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|o| text(o, "/uid"))
}

/// Path of a child.
#[must_use]
pub fn path(object: &Value) -> String {
    let (plural, prefix) = match text(object, "/kind") {
        "Job" => ("jobs", "/apis/batch/v1"),
        "Deployment" => ("deployments", "/apis/apps/v1"),
        "Pod" => ("pods", "/api/v1"),
        "ConfigMap" => ("configmaps", "/api/v1"),
        _ => ("services", "/api/v1"),
    };
    let (namespace, name) = (
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    format!("{prefix}/namespaces/{namespace}/{plural}/{name}")
}

/// One run in sixteen cannot succeed, whatever is tried.
#[must_use]
pub fn bad_run(run_key: &str) -> bool {
    run_key.starts_with('0')
}

/// Commits the artefact of a run, as a worker does: files, manifest, pointer.
pub async fn commit(store: &dyn ObjectStore, config: &RunConfig) {
    let layout = Layout::new(BUCKET, "");
    let run = &config.run;
    let at = Location {
        namespace: &run.namespace,
        kind: &run.kind,
        name: &run.name,
    };
    let statistics = match &config.task {
        Task::Evaluate(_) => {
            json!({"results": [{"suite": "held-out", "metric": "loss", "value": 2.5, "low": 2.0,
            "high": 3.0, "samples": 100, "higherIsBetter": false}]})
        }
        _ => json!({}),
    };
    let inputs = config.inputs.iter().map(|input| InputDigest {
        kind: input.kind.clone(),
        digest: input.digest.clone(),
    });
    let manifest = Manifest {
        schema_version: 1,
        kind: run.kind.clone(),
        files: Vec::new(),
        inputs: inputs.collect(),
        parameters: json!({"run": run.run_key}),
        seed: 1,
        code: Code::default(),
        statistics,
    };
    let Ok(digest) = manifest.digest() else {
        return;
    };
    let directory = layout.artefact(at, &digest);
    let (Ok(body), uri) = (serde_json::to_vec(&manifest), layout.uri(&directory)) else {
        return;
    };
    let Ok(pointer) = serde_json::to_vec(&RunPointer { digest, uri }) else {
        return;
    };
    // A store in memory cannot fail.
    let _ = store
        .put(&format!("{directory}/manifest.json"), body.into())
        .await;
    let _ = store
        .put_if_absent(&layout.run(at, &run.run_key), pointer.into())
        .await;
}

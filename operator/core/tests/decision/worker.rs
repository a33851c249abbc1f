//! Owns the actors of the tiny cluster: Job controller, workers, servers, garbage collector. It must move each thing by
//! one step at a time, so that tests see every intermediate state.

use bessemer_api::Kind as KindName;
use bessemer_core::{Artefact, Key};
use bessemer_protocol::{RunConfig, Task};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::cluster::{Cluster, End, NAMESPACE, owner};

impl Cluster {
    /// Every actor does one step.
    pub fn step(&mut self) {
        self.collect();
        for name in self
            .of_kind("Job")
            .iter()
            .map(|v| v["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
        {
            self.step_job(&name);
        }
        self.step_deployments();
        self.step_router();
        self.collect();
    }

    fn bump(&mut self, value: &mut Value) {
        self.writes += 1;
        let version = value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|v| v.parse::<u64>().ok())
            .unwrap_or(0);
        value["metadata"]["resourceVersion"] = json!(format!("{}", version + 1_000_000));
    }

    /// The garbage collector: children without an owner go.
    fn collect(&mut self) {
        loop {
            let alive: BTreeSet<String> = self
                .objects
                .values()
                .chain(self.children.values())
                .filter_map(|v| v["metadata"]["uid"].as_str().map(str::to_owned))
                .collect();
            let before = self.children.len();
            self.children
                .retain(|_, value| alive.contains(owner(value)));
            if self.children.len() == before {
                return;
            }
            self.writes += 1;
        }
    }

    fn pod_name(job: &str) -> (String, String) {
        ("Pod".into(), format!("{job}-0-x"))
    }

    fn step_job(&mut self, name: &str) {
        let at = ("Job".to_owned(), name.to_owned());
        let pod = Self::pod_name(name);
        let mut job = self.children[&at].clone();
        if job["status"]["conditions"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
        {
            return;
        }
        if job["spec"]["suspend"] == true {
            if self.children.remove(&pod).is_some() {
                job["status"]["active"] = json!(0);
                self.bump(&mut job);
                self.children.insert(at, job);
            }
            return;
        }
        let now = self.time().to_string();
        let Some(mut live) = self.children.get(&pod).cloned() else {
            if self.quota.is_some() {
                if job["status"]["startTime"].is_null() {
                    job["status"] = json!({"startTime": now});
                    self.bump(&mut job);
                    self.children.insert(at, job);
                }
                return;
            }
            job["status"] = json!({"startTime": now, "active": 1});
            let labels = job["spec"]["template"]["metadata"]["labels"].clone();
            let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "controller": true,
                "uid": job["metadata"]["uid"]}]);
            self.children.insert(pod.clone(), json!({
                "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending"},
                "metadata": {"name": pod.1, "namespace": NAMESPACE, "labels": labels, "ownerReferences": owner,
                    "uid": format!("{}-pod", job["metadata"]["uid"].as_str().unwrap())}
            }));
            self.bump(&mut job);
            self.children.insert(at, job);
            return;
        };
        if live["status"]["phase"] == "Pending" {
            live["status"]["phase"] = json!("Running");
            self.bump(&mut live);
            self.children.insert(pod, live);
            return;
        }
        if !live["metadata"]["deletionTimestamp"].is_null() {
            return; // on a node that does not answer
        }
        let config = self.config(&job);
        let key = Key {
            kind: kind_of(&config),
            namespace: NAMESPACE.into(),
            name: config.run.name.clone(),
        };
        let end = self
            .ends
            .get_mut(&key)
            .and_then(|ends| ends.pop_front())
            .unwrap_or(End::Success);
        let (code, message, condition) = match &end {
            End::Success | End::Empty => (0, String::new(), "Complete"),
            End::Exit(code, message) => (*code, message.clone(), "Failed"),
            End::Disrupted => (137, String::new(), "Failed"),
        };
        if end == End::Success {
            self.commit(key, &config);
        }
        live["status"] = json!({
            "phase": if code == 0 { "Succeeded" } else { "Failed" },
            "conditions": if end == End::Disrupted { json!([{"type": "DisruptionTarget", "status": "True"}]) } else { json!([]) },
            "containerStatuses": [{"name": "worker", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code, "message": message}}}]
        });
        job["status"]["active"] = json!(0);
        job["status"]["conditions"] =
            json!([{"type": condition, "status": "True", "lastTransitionTime": now}]);
        if code == 0 {
            job["status"]["completionTime"] = json!(now);
        }
        self.bump(&mut live);
        self.bump(&mut job);
        self.children.insert(pod, live);
        self.children.insert(at, job);
    }

    fn config(&self, job: &Value) -> RunConfig {
        let map = job["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let map = &self.children[&("ConfigMap".to_owned(), map)];
        serde_json::from_str(map["data"]["run.json"].as_str().unwrap()).unwrap()
    }

    /// A worker publishes its artefact.
    pub fn commit(&mut self, key: Key, config: &RunConfig) {
        let run = &config.run.run_key;
        let digest = bessemer_core::label::hash(&[run, &self.digest_salt]);
        let statistics = match &config.task {
            Task::Prepare(task) => {
                let size = task.tokenizer.as_ref().map(|_| 4096);
                json!({"documents": 1000, "bytes": 1_000_000, "tokens": 100_000, "validationTokens": 10_000,
                    "vocabularySize": size})
            }
            Task::Train(_) => {
                json!({"parameters": 1_050_000, "losses": {"training": 2.0, "validation": 2.5}})
            }
            Task::Tune(_) => {
                json!({"trainableParameters": 8192, "losses": {"training": 1.0, "validation": 1.5}})
            }
            Task::Evaluate(task) => {
                let model = config.inputs[0].digest.clone();
                let value = self.quality.get(&model).copied().unwrap_or(1.0);
                let results: Vec<Value> = task.suites.iter().map(|suite| json!({
                    "suite": suite.name, "metric": "bleu", "value": value, "low": value - 0.1, "high": value + 0.1,
                    "samples": 100, "higherIsBetter": true
                })).collect();
                json!({"results": results})
            }
            Task::Serve(_) => unreachable!("servers publish nothing"),
        };
        let uri = format!("s3://models/root/{}{digest}", key.path());
        let artefact = Artefact {
            uri,
            digest,
            size_bytes: 1000,
            kind: key.kind.name().into(),
            statistics,
        };
        self.store.entry((key, run.clone())).or_insert(artefact);
    }

    /// The Deployment controller and its pods.
    fn step_deployments(&mut self) {
        let all: Vec<_> = self
            .children
            .iter()
            .filter(|((k, _), _)| k == "Deployment")
            .map(|(at, v)| (at.clone(), v.clone()))
            .collect();
        for (at, mut value) in all {
            let digest = value["metadata"]["annotations"]["bessemer.dev/digest"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let replicas = value["spec"]["replicas"].as_i64().unwrap_or(1);
            let ready = if self.unready.contains(&digest) || self.quota.is_some() {
                0
            } else {
                replicas
            };
            let mut status = json!({
                "observedGeneration": value["metadata"]["generation"], "replicas": replicas, "updatedReplicas": replicas,
                "readyReplicas": ready, "availableReplicas": ready
            });
            if let Some(words) = &self.quota {
                status["conditions"] = json!([{
                    "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words
                }]);
            }
            if value["status"] != status {
                value["status"] = status;
                self.bump(&mut value);
                self.children.insert(at, value);
            }
        }
    }
}

fn kind_of(config: &RunConfig) -> KindName {
    KindName::ALL
        .into_iter()
        .find(|kind| kind.name() == config.run.kind)
        .unwrap()
}

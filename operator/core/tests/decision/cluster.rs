//! Owns a tiny Kubernetes in memory: enough of it to carry actions out and to answer queries. It must refuse what a real
//! API server refuses (preconditions, names that are taken), so that the properties mean something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bessemer_api::{Dataset, Evaluation, FineTune, Kind as KindName, ModelDeployment, PretrainJob};
use bessemer_core::{
    Action, Answer, Artefact, Children, Completion, Event, Facts, Key, Kind, ObjectRef, Peer, Plan,
    Query, Received, Settings, StoreOperation, World, observe,
};
use bessemer_protocol::Storage;
use bessemer_protocol::route::RouteConfig;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kstatus;

pub const NAMESPACE: &str = "default";

/// Runs `$body` with the object as its own type.
macro_rules! typed {
    ($key:expr, $value:expr, $object:ident => $body:expr) => {
        match $key.kind {
            KindName::Dataset => {
                let $object: Dataset = read($value);
                $body
            }
            KindName::PretrainJob => {
                let $object: PretrainJob = read($value);
                $body
            }
            KindName::FineTune => {
                let $object: FineTune = read($value);
                $body
            }
            KindName::Evaluation => {
                let $object: Evaluation = read($value);
                $body
            }
            KindName::Deployment => {
                let $object: ModelDeployment = read($value);
                $body
            }
        }
    };
}

pub fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

pub fn key(kind: KindName, name: &str) -> Key {
    Key {
        kind,
        namespace: NAMESPACE.into(),
        name: name.into(),
    }
}

/// How a worker ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Success,
    /// Exit code and termination message.
    Exit(i32, String),
    /// Evicted.
    Disrupted,
    /// Succeeds without a result.
    Empty,
}

pub struct Cluster {
    pub objects: BTreeMap<Key, Value>,
    pub children: BTreeMap<(String, String), Value>,
    pub store: BTreeMap<(Key, String), Artefact>,
    pub settings: Settings,
    pub now: i64,
    pub events: Vec<(Key, Event)>,
    pub progress: BTreeMap<Key, Received>,
    /// What the next workers of an object do; success when empty.
    pub ends: BTreeMap<Key, VecDeque<End>>,
    /// Digests whose servers never become ready, or give a wrong answer.
    pub unready: BTreeSet<String>,
    pub mute: BTreeSet<String>,
    /// Router counters by digest: requests, errors, in flight, p99.
    pub counters: BTreeMap<String, (u64, u64, u64, Option<f64>)>,
    /// Why no pod is created.
    pub quota: Option<String>,
    /// Why there is no Gateway API.
    pub no_gateway: Option<String>,
    /// Seconds until the router's pod sees a changed configuration.
    pub router_lag: i64,
    /// Configuration in force at the router, and since when.
    pub router: Option<(RouteConfig, i64)>,
    /// Revision of a configuration that the router has not seen yet, and when it was written.
    pub router_awaits: Option<(String, i64)>,
    /// Value of every metric by digest of the model; 1.0 when absent.
    pub quality: BTreeMap<String, f64>,
    pub store_down: bool,
    pub writes: usize,
    pub digest_salt: String,
    pub requeue: Option<u64>,
    /// Every object as it was after each write of its status.
    pub history: Vec<Value>,
    count: u64,
}

impl World for Cluster {
    fn peer(&self, key: &Key) -> Option<Peer> {
        let value = self.objects.get(key)?;
        Some(typed!(key, value, object => object.peer()))
    }

    fn children(&self, uid: &str) -> Children {
        fn of<T: DeserializeOwned>(cluster: &Cluster, kind: &str, uid: &str) -> Vec<T> {
            let all = cluster.children.iter().filter(|((k, _), _)| k == kind);
            all.filter(|(_, value)| owner(value) == uid)
                .map(|(_, value)| read(value))
                .collect()
        }
        let name = self
            .objects
            .values()
            .find(|v| v["metadata"]["uid"] == uid)
            .map(|v| v["metadata"]["name"].clone());
        let kind = self
            .objects
            .iter()
            .find(|(_, v)| v["metadata"]["uid"] == uid)
            .map(|(k, _)| k.kind.name());
        let labelled = |value: &Value| {
            let labels = &value["metadata"]["labels"];
            Some(labels["bessemer.dev/name"].clone()) == name
                && labels["bessemer.dev/kind"].as_str() == kind
        };
        let pods = self
            .children
            .iter()
            .filter(|((k, _), value)| k == "Pod" && labelled(value));
        Children {
            jobs: of(self, "Job", uid),
            pods: pods.map(|(_, value)| read(value)).collect(),
            config_maps: of(self, "ConfigMap", uid),
            services: of(self, "Service", uid),
            deployments: of(self, "Deployment", uid),
        }
    }
}

pub fn owner(value: &Value) -> &str {
    value["metadata"]["ownerReferences"][0]["uid"]
        .as_str()
        .unwrap_or_default()
}

impl Cluster {
    pub fn new() -> Self {
        let storage = Storage {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: "models".into(),
            prefix: "root".into(),
        };
        let mut settings = Settings::new(storage, "bessemer/worker:1");
        settings.local = true;
        settings.progress_url = Some("http://operator:8080".into());
        Self {
            objects: BTreeMap::new(),
            children: BTreeMap::new(),
            store: BTreeMap::new(),
            settings,
            now: 1_800_000_000,
            events: Vec::new(),
            progress: BTreeMap::new(),
            ends: BTreeMap::new(),
            unready: BTreeSet::new(),
            mute: BTreeSet::new(),
            counters: BTreeMap::new(),
            quota: None,
            no_gateway: None,
            router_lag: 0,
            router: None,
            router_awaits: None,
            quality: BTreeMap::new(),
            store_down: false,
            writes: 0,
            digest_salt: String::new(),
            requeue: None,
            history: Vec::new(),
            count: 0,
        }
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    pub fn tick(&mut self) -> String {
        self.count += 1;
        self.writes += 1;
        self.count.to_string()
    }

    /// Applies a manifest as a user does.
    pub fn apply(&mut self, kind: KindName, name: &str, spec: Value) {
        let key = key(kind, name);
        let version = self.tick();
        if let Some(known) = self.objects.get_mut(&key) {
            if known["spec"] != spec {
                known["spec"] = spec;
                let generation = known["metadata"]["generation"].as_i64().unwrap();
                known["metadata"]["generation"] = json!(generation + 1);
                known["metadata"]["resourceVersion"] = json!(version);
            }
            return;
        }
        let metadata = json!({
            "name": name, "namespace": NAMESPACE, "generation": 1, "resourceVersion": version,
            "uid": format!("uid-{}-{name}-{version}", kind.name()), "creationTimestamp": self.time().to_string(),
        });
        let object = json!({
            "apiVersion": "bessemer.dev/v1alpha1", "kind": kind.name(), "metadata": metadata, "spec": spec
        });
        typed!(key, &object, typed => drop(typed));
        self.objects.insert(key, object);
    }

    /// Changes a field of a spec.
    pub fn edit(&mut self, key: &Key, change: impl Fn(&mut Value)) {
        if let Some(mut spec) = self.objects.get(key).map(|object| object["spec"].clone()) {
            change(&mut spec);
            self.apply(key.kind, &key.name.clone(), spec);
        }
    }

    /// Sets an annotation.
    pub fn annotate(&mut self, key: &Key, name: &str, value: &str) {
        let version = self.tick();
        let object = self.objects.get_mut(key).unwrap();
        if object["metadata"]["annotations"].is_null() {
            object["metadata"]["annotations"] = json!({});
        }
        object["metadata"]["annotations"][name] = json!(value);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    pub fn delete(&mut self, key: &Key) {
        let (version, time) = (self.tick(), self.time().to_string());
        let Some(object) = self.objects.get_mut(key) else {
            return;
        };
        let finalizers = object["metadata"]["finalizers"]
            .as_array()
            .map_or(0, Vec::len);
        if finalizers == 0 {
            self.objects.remove(key);
        } else if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(time);
            object["metadata"]["resourceVersion"] = json!(version);
        }
    }

    /// The plan for an object once all its questions are answered; the same snapshot must give the same bytes.
    pub fn think(&self, key: &Key) -> Option<Plan> {
        let value = self.objects.get(key)?;
        let mut facts = Facts {
            progress: self.progress.get(key).cloned(),
            ..Facts::default()
        };
        for _ in 0..8 {
            let plan = typed!(key, value, object => {
                let observed = observe(&object, self, facts.clone(), self.time());
                let plan = Kind::plan(&observed, &self.settings);
                let again = Kind::plan(&observed, &self.settings);
                let bytes = |plan: &Plan| serde_json::to_string(plan).unwrap();
                assert_eq!(bytes(&plan), bytes(&again), "P8: the same input gives the same bytes");
                plan
            });
            if plan.queries.is_empty() {
                return Some(plan);
            }
            assert!(
                plan.actions.is_empty() && plan.status.is_none(),
                "a plan that asks does nothing else"
            );
            for query in plan.queries {
                let answer = self.answer(&query);
                assert!(
                    facts.answers.insert(query, answer).is_none(),
                    "nothing is asked twice"
                );
            }
        }
        panic!("{key}: questions without end");
    }

    /// Carries out the first `limit` actions of a plan, and publishes if it came to the end.
    pub fn execute(&mut self, key: &Key, plan: &Plan, limit: usize) -> bool {
        let Some(uid) = self.uid(key) else {
            return false;
        };
        self.execute_as(key, &uid, plan, limit)
    }

    /// UID of a living object.
    pub fn uid(&self, key: &Key) -> Option<String> {
        Some(
            self.objects.get(key)?["metadata"]["uid"]
                .as_str()?
                .to_owned(),
        )
    }

    /// Carries out a plan that was made for the object with this UID, which may be gone since.
    pub fn execute_as(&mut self, key: &Key, uid: &str, plan: &Plan, limit: usize) -> bool {
        for (index, action) in plan.actions.iter().enumerate() {
            if index >= limit || self.act(action, uid).is_err() {
                return false;
            }
        }
        if plan.actions.len() < limit {
            self.publish(key, uid, plan);
            self.events
                .extend(plan.events.iter().map(|event| (key.clone(), event.clone())));
            return true;
        }
        false
    }

    fn publish(&mut self, key: &Key, uid: &str, plan: &Plan) {
        let Some(status) = &plan.status else { return };
        let Some(object) = self.objects.get(key) else {
            return;
        };
        if object["metadata"]["uid"] != uid || object["status"] == *status {
            return;
        }
        let before = object["status"]["observedGeneration"].as_i64().unwrap_or(0);
        let after = status["observedGeneration"].as_i64().unwrap_or(0);
        assert!(
            before <= after,
            "P7: observedGeneration never falls ({key})"
        );
        let version = self.tick();
        let object = self.objects.get_mut(key).unwrap();
        let old = object["status"].clone();
        object["status"] = status.clone();
        object["metadata"]["resourceVersion"] = json!(version);
        typed!(key, object, typed => drop(typed));
        kstatus::check(key, object, &old);
        let seen = object.clone();
        self.history.push(seen);
    }

    /// One pass over one object.
    pub fn reconcile(&mut self, key: &Key) -> Option<Plan> {
        let plan = self.think(key)?;
        self.execute(key, &plan, usize::MAX);
        if let Some(seconds) = plan.requeue {
            self.requeue = Some(self.requeue.map_or(seconds, |known| known.min(seconds)));
        }
        Some(plan)
    }

    fn act(&mut self, action: &Action, uid: &str) -> Result<(), String> {
        match action {
            Action::AddFinalizer { object, finalizer } => self.finalize(object, |all| {
                if !all.contains(finalizer) {
                    all.push(finalizer.clone());
                }
            }),
            Action::RemoveFinalizer { object, finalizer } => {
                self.finalize(object, |all| all.retain(|f| f != finalizer))
            }
            Action::Create { object } => self.create(object, uid),
            Action::Apply { object, .. } => self.server_side_apply(object, uid),
            Action::Delete { object, .. } => {
                let at = (object.kind.clone(), object.name.clone());
                let Some(live) = self.children.get(&at) else {
                    return Ok(());
                };
                if object.uid.as_deref() != live["metadata"]["uid"].as_str() {
                    return Ok(());
                }
                assert_eq!(owner(live), uid, "P5: only what we own is deleted");
                self.children.remove(&at);
                self.tick();
                Ok(())
            }
            Action::Suspend { job } => self.hold(job, true, uid),
            Action::Resume { job } => self.hold(job, false, uid),
            Action::Annotate {
                object,
                annotation,
                value,
            } => self.annotate_child(object, annotation, value),
            Action::External {
                operation: StoreOperation::DeleteArtifacts { owner, path, keep },
            } => {
                let live = self
                    .objects
                    .values()
                    .find(|o| o["metadata"]["uid"].as_str() == owner.uid.as_deref());
                if live.is_some_and(|o| !o["metadata"]["deletionTimestamp"].is_null()) {
                    self.store.retain(|(key, _), artefact| {
                        key.path() != *path || keep.contains(&artefact.digest)
                    });
                }
                Ok(())
            }
        }
    }

    fn finalize(
        &mut self,
        at: &ObjectRef,
        change: impl Fn(&mut Vec<String>),
    ) -> Result<(), String> {
        let found = self
            .objects
            .iter()
            .find(|(_, o)| o["metadata"]["uid"].as_str() == at.uid.as_deref());
        let Some(key) = found.map(|(key, _)| key.clone()) else {
            return Ok(());
        };
        let object = self.objects.get_mut(&key).unwrap();
        if object["metadata"]["resourceVersion"].as_str() != at.resource_version.as_deref() {
            return Err("Conflict".into());
        }
        let mut all: Vec<String> = read(&json!(
            object["metadata"]["finalizers"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        ));
        change(&mut all);
        let gone = all.is_empty() && !object["metadata"]["deletionTimestamp"].is_null();
        object["metadata"]["finalizers"] = json!(all);
        let version = self.tick();
        self.objects.get_mut(&key).unwrap()["metadata"]["resourceVersion"] = json!(version);
        if gone {
            self.objects.remove(&key);
        }
        Ok(())
    }

    fn create(&mut self, object: &Value, uid: &str) -> Result<(), String> {
        assert_eq!(owner(object), uid, "P5: what is made belongs to the object");
        let at = (
            object["kind"].as_str().unwrap().to_owned(),
            object["metadata"]["name"].as_str().unwrap().to_owned(),
        );
        assert!(at.1.len() <= 63, "{} is too long a name", at.1);
        if let Some(live) = self.children.get(&at) {
            return if owner(live) == uid {
                Ok(())
            } else {
                Err("NameTaken".into())
            };
        }
        let mut object = object.clone();
        self.insert(&mut object);
        self.children.insert(at, object);
        Ok(())
    }

    fn insert(&mut self, object: &mut Value) {
        let version = self.tick();
        object["metadata"]["uid"] = json!(format!("uid-{version}"));
        object["metadata"]["resourceVersion"] = json!(version);
        object["metadata"]["creationTimestamp"] = json!(self.time().to_string());
        object["metadata"]["generation"] = json!(1);
        if object["kind"] == "Service" && object["spec"]["clusterIP"].is_null() {
            object["spec"]["clusterIP"] = json!(format!("10.0.0.{version}"));
        }
    }

    fn server_side_apply(&mut self, object: &Value, uid: &str) -> Result<(), String> {
        assert_eq!(
            owner(object),
            uid,
            "P5: what is applied belongs to the object"
        );
        let at = (
            object["kind"].as_str().unwrap().to_owned(),
            object["metadata"]["name"].as_str().unwrap().to_owned(),
        );
        let Some(live) = self.children.get(&at).cloned() else {
            if !object["metadata"]["uid"].is_null() {
                return Err("Conflict".into());
            }
            return self.create(object, uid);
        };
        for field in ["uid", "resourceVersion"] {
            let wanted = &object["metadata"][field];
            if !wanted.is_null() && *wanted != live["metadata"][field] {
                return Err("Conflict".into());
            }
        }
        if owner(&live) != uid {
            return Err("NameTaken".into());
        }
        let mut new = object.clone();
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
        ] {
            if !live["metadata"][field].is_null() {
                new["metadata"][field] = live["metadata"][field].clone();
            }
        }
        new["status"] = live["status"].clone();
        if at.0 == "Service" {
            new["spec"]["clusterIP"] = live["spec"]["clusterIP"].clone();
        }
        if new["spec"] != live["spec"] {
            new["metadata"]["generation"] =
                json!(live["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
        }
        new["metadata"]["resourceVersion"] = json!(self.tick());
        self.children.insert(at, new);
        Ok(())
    }

    fn hold(&mut self, job: &ObjectRef, suspend: bool, uid: &str) -> Result<(), String> {
        let at = ("Job".to_owned(), job.name.clone());
        let version = self.tick();
        let Some(live) = self.children.get_mut(&at) else {
            return Err("NotFound".into());
        };
        let same = live["metadata"]["uid"].as_str() == job.uid.as_deref()
            && live["metadata"]["resourceVersion"].as_str() == job.resource_version.as_deref();
        if !same {
            return Err("Conflict".into());
        }
        assert_eq!(owner(live), uid, "P5: only what we own is held");
        live["spec"]["suspend"] = json!(suspend);
        live["metadata"]["resourceVersion"] = json!(version);
        Ok(())
    }

    /// What the world answers.
    pub fn answer(&self, query: &Query) -> Answer {
        let of_store = !matches!(
            query,
            Query::Route { .. }
                | Query::HttpRoute { .. }
                | Query::PodRefusal { .. }
                | Query::Completion { .. }
        );
        if self.store_down && of_store {
            return Answer::Unavailable("the object store does not answer".into());
        }
        match query {
            Query::Run { object, run_key } => {
                Answer::Run(self.store.get(&(object.clone(), run_key.clone())).cloned())
            }
            Query::Manifest { uri } => Answer::Run(
                self.store
                    .values()
                    .find(|artefact| artefact.uri == *uri)
                    .cloned(),
            ),
            Query::Checkpoint { .. } => Answer::Checkpoint(None),
            Query::DigestsInUse { object } => {
                let living = |key: &&Key| {
                    *key != object && self.objects[*key]["metadata"]["deletionTimestamp"].is_null()
                };
                let others = self.objects.keys().filter(living);
                Answer::DigestsInUse(
                    others
                        .filter_map(|key| self.peer(key))
                        .flat_map(|p| p.digests())
                        .collect(),
                )
            }
            Query::PodRefusal { .. } => Answer::Refusal(self.quota.clone()),
            Query::HttpRoute { route } => {
                let at = (route.kind.clone(), route.name.clone());
                match &self.no_gateway {
                    Some(why) => Answer::Refused(why.clone()),
                    None => {
                        Answer::HttpRoute(self.children.get(&at).map(|route| self.governed(route)))
                    }
                }
            }
            Query::Completion { url, .. } => {
                let digest = self.digest_at(url).unwrap_or_default();
                let mute = self.mute.contains(&digest);
                let status = if mute { 500 } else { 200 };
                Answer::Completion(Completion {
                    status,
                    digest: Some(digest),
                    complete: !mute,
                    message: String::new(),
                })
            }
            Query::Route { url } => {
                let router = self.children.values().find(|v| {
                    v["kind"] == "Service"
                        && url.contains(v["spec"]["clusterIP"].as_str().unwrap_or("?"))
                });
                let Some(name) = router.and_then(|v| v["metadata"]["name"].as_str()) else {
                    return Answer::Unavailable("no router".into());
                };
                match &self.router {
                    Some((config, since)) if self.router_lag > 0 => {
                        let seconds = u64::try_from(self.now - since).unwrap();
                        Answer::Route(self.route_status(config, Some(seconds)))
                    }
                    _ => Answer::Route(self.route_status(&self.route_config(name), None)),
                }
            }
        }
    }

    fn digest_at(&self, url: &str) -> Option<String> {
        let service = self.children.values().find(|v| {
            v["kind"] == "Service"
                && url.contains(&format!(
                    "//{}:",
                    v["spec"]["clusterIP"].as_str().unwrap_or("?")
                ))
        })?;
        let name = service["metadata"]["name"].as_str()?.to_owned();
        let servers = self.children.get(&("Deployment".to_owned(), name))?;
        Some(
            servers["metadata"]["annotations"]["bessemer.dev/digest"]
                .as_str()?
                .to_owned(),
        )
    }

    /// All objects and all actors until nothing changes any more. Panics when that never happens.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..400 {
            let before = self.writes;
            self.requeue = None;
            for key in self.objects.keys().cloned().collect::<Vec<_>>() {
                self.reconcile(&key);
            }
            self.step();
            if self.writes != before {
                quiet = 0;
                continue;
            }
            quiet += 1;
            if quiet == 4 {
                return;
            }
            self.now += i64::try_from(self.requeue.unwrap_or(1)).unwrap();
        }
        panic!("no fixpoint");
    }

    pub fn condition(&self, key: &Key, kind: &str) -> Option<(String, String, String)> {
        let conditions = self.objects.get(key)?["status"]["conditions"]
            .as_array()?
            .clone();
        let found = conditions.into_iter().find(|c| c["type"] == kind)?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    /// Reason of the Ready condition.
    pub fn reason(&self, key: &Key) -> String {
        self.condition(key, "Ready")
            .map(|(_, reason, _)| reason)
            .unwrap_or_default()
    }

    pub fn message(&self, key: &Key) -> String {
        self.condition(key, "Ready")
            .map(|(_, _, message)| message)
            .unwrap_or_default()
    }

    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.children
            .iter()
            .filter(|((k, _), _)| k == kind)
            .map(|(_, v)| v)
            .collect()
    }
}

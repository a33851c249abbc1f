//! The router of the toy cluster: what it was told, when it learns of it, what it counts.

use bessemer_core::ObjectRef;
use bessemer_protocol::route::{BackendStatus, RouteConfig, RouteStatus};
use serde_json::json;

use crate::cluster::Cluster;

impl Cluster {
    pub fn route_config(&self, name: &str) -> RouteConfig {
        let map = &self.children[&("ConfigMap".to_owned(), name.to_owned())];
        serde_json::from_str(map["data"]["route.json"].as_str().unwrap()).unwrap()
    }

    /// A running pod of the router: its kubelet reads the configuration at once when the pod changes.
    pub fn run_router(&mut self) {
        let mut deployments = self.of_kind("Deployment").into_iter();
        let router = deployments
            .find(|v| v["metadata"]["labels"]["bessemer.dev/run"] == "router")
            .unwrap();
        let name = format!("{}-x", router["metadata"]["name"].as_str().unwrap());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"},
            "metadata": {"name": name, "namespace": router["metadata"]["namespace"], "uid": "pod",
                "resourceVersion": "1", "labels": router["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": router["metadata"]["name"],
                    "uid": router["metadata"]["uid"]}]},
        });
        self.children.insert(("Pod".into(), name), pod);
    }

    pub fn annotate_child(
        &mut self,
        of: &ObjectRef,
        name: &str,
        value: &str,
    ) -> Result<(), String> {
        let version = self.tick();
        let at = (of.kind.clone(), of.name.clone());
        let live = self.children.get_mut(&at).ok_or("NotFound")?;
        if of.uid.as_deref() != live["metadata"]["uid"].as_str() {
            return Err("Conflict".into());
        }
        live["metadata"]["annotations"][name] = json!(value);
        live["metadata"]["resourceVersion"] = json!(version);
        Ok(())
    }

    /// The kubelet brings the router's pod a changed configuration after `router_lag`, or when the pod is changed; a new pod
    /// starts with the present one.
    pub fn step_router(&mut self) {
        let maps = self.children.keys().filter(|(kind, _)| kind == "ConfigMap");
        let Some(name) = maps
            .map(|(_, name)| name)
            .find(|name| name.ends_with("-router"))
        else {
            self.router = None;
            return;
        };
        let config = self.route_config(name);
        let written = match &self.router_awaits {
            Some((revision, written)) if *revision == config.revision => *written,
            _ => self.now,
        };
        self.router_awaits = Some((config.revision.clone(), written));
        let told = self.of_kind("Pod").iter().any(|pod| {
            pod["metadata"]["annotations"]["bessemer.dev/configured"] == config.revision
        });
        let overdue = told || written + self.router_lag <= self.now;
        match &self.router {
            Some((known, _)) if *known == config || !overdue => {}
            _ => self.router = Some((config, self.now)),
        }
    }

    pub fn route_status(&self, config: &RouteConfig, seconds_in_force: Option<u64>) -> RouteStatus {
        let backends = config.backends.iter().map(|backend| {
            let (requests, errors, in_flight, p99) = self
                .counters
                .get(&backend.digest)
                .copied()
                .unwrap_or_default();
            BackendStatus {
                name: backend.name.clone(),
                digest: backend.digest.clone(),
                requests,
                errors,
                in_flight,
                ttft_p50_ms: None,
                ttft_p99_ms: p99,
                tokens_per_second: None,
            }
        });
        RouteStatus {
            revision: config.revision.clone(),
            seconds_in_force,
            backends: backends.collect(),
        }
    }
}

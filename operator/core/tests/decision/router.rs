//! The router of the toy cluster: what it was told, when it learns of it, what it counts.

use bessemer_protocol::route::{BackendStatus, RouteConfig, RouteStatus};

use crate::cluster::Cluster;

impl Cluster {
    pub fn route_config(&self, name: &str) -> RouteConfig {
        let map = &self.children[&("ConfigMap".to_owned(), name.to_owned())];
        serde_json::from_str(map["data"]["route.json"].as_str().unwrap()).unwrap()
    }

    /// The kubelet brings the router's pod a changed configuration after `router_lag`; a new pod starts with the present one.
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
        let overdue = written + self.router_lag <= self.now;
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

//! Owns the reading and the making of the router's configuration: who has which share, since when. It must not decide
//! who should.

use std::collections::BTreeMap;

use bessemer_api::ModelDeployment;
use bessemer_protocol::route::{Backend, RouteConfig};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::observe::has_run;
use super::render::{ROUTE_FILE, ROUTER};
use crate::condition::whole_seconds;
use crate::kind::{Kind, Observed};
use crate::label;

/// The traffic as it is, or as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    /// Backends and weights.
    pub backends: Vec<Backend>,
    /// The revision that has passed its rollout.
    pub stable: Option<String>,
    /// The stable revision before.
    pub previous: Option<String>,
    /// Rollout step in force.
    pub step: Option<usize>,
    /// When the present weights were set.
    pub since: Option<Timestamp>,
    /// Requests and errors of the candidate when its rollout began.
    pub baseline: (u64, u64),
    /// Whether there is, or is about to be, an HTTPRoute.
    pub gateway: bool,
}

/// The router's ConfigMap.
pub(super) fn config_map(observed: &Observed<ModelDeployment>) -> Option<&ConfigMap> {
    observed
        .children
        .config_maps
        .iter()
        .find(|map| has_run(*map, ROUTER))
}

impl Traffic {
    /// The traffic that the router's ConfigMap shows.
    pub fn read(observed: &Observed<ModelDeployment>) -> Self {
        let Some(map) = config_map(observed) else {
            return Self::default();
        };
        let text = map.data.as_ref().and_then(|data| data.get(ROUTE_FILE));
        let config: Option<RouteConfig> = text.and_then(|text| serde_json::from_str(text).ok());
        let note = |name: &str| map.annotations().get(name).cloned();
        let baseline = note(label::BASELINE).and_then(|text| {
            let (requests, errors) = text.split_once('/')?;
            Some((requests.parse().ok()?, errors.parse().ok()?))
        });
        Self {
            backends: config.map(|config| config.backends).unwrap_or_default(),
            stable: note(label::STABLE),
            previous: note(label::PREVIOUS),
            step: note(label::STEP).and_then(|text| text.parse().ok()),
            since: note(label::SINCE).and_then(|text| text.parse().ok()),
            baseline: baseline.unwrap_or_default(),
            gateway: note(label::GATEWAY).is_some(),
        }
    }

    /// The weight of a revision; `None` when the router does not know it.
    pub fn weight(&self, short: &str) -> Option<u32> {
        self.backends
            .iter()
            .find(|backend| backend.name == short)
            .map(|backend| backend.weight)
    }

    /// Whether a revision gets any traffic.
    pub fn has_share(&self, short: &str) -> bool {
        self.weight(short).is_some_and(|weight| weight > 0)
    }

    /// Gives `share` percent to `backend` and the rest to the stable revision; others keep their place with weight 0.
    pub fn give(&mut self, backend: Backend, share: u32, now: Timestamp) {
        let stable = self.stable.clone();
        for known in &mut self.backends {
            known.weight = if Some(&known.name) == stable.as_ref() {
                100 - share.min(100)
            } else {
                0
            };
        }
        self.backends.retain(|known| known.name != backend.name);
        self.backends.push(Backend {
            weight: share.min(100),
            ..backend
        });
        self.since = Some(whole_seconds(now));
    }

    /// Gives everything back to the stable revision.
    pub fn restore(&mut self, now: Timestamp) {
        let stable = self.stable.clone();
        for known in &mut self.backends {
            known.weight = if Some(&known.name) == stable.as_ref() {
                100
            } else {
                0
            };
        }
        self.step = None;
        self.since = Some(whole_seconds(now));
    }

    /// Whether anyone but the stable revision has a share.
    pub fn is_divided(&self) -> bool {
        self.backends
            .iter()
            .any(|backend| backend.weight > 0 && Some(&backend.name) != self.stable.as_ref())
    }

    /// Revisions that have no share but may still be answering.
    pub fn draining(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|backend| backend.weight == 0)
    }

    /// The router's configuration file.
    pub fn config(&self, object: &ModelDeployment) -> RouteConfig {
        let mut config = RouteConfig {
            deployment: object.key().name,
            revision: String::new(),
            backends: self.backends.clone(),
            require_api_key: object.spec.auth.is_some(),
        };
        config.revision =
            label::short_hash(&[&serde_json::to_string(&config).unwrap_or_default()], 12);
        config
    }

    /// The annotations beside it.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let mut notes = BTreeMap::new();
        let mut note = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                notes.insert(name.to_owned(), value);
            }
        };
        note(label::STABLE, self.stable.clone());
        note(label::PREVIOUS, self.previous.clone());
        note(label::STEP, self.step.map(|step| step.to_string()));
        note(label::SINCE, self.since.map(|since| since.to_string()));
        note(label::GATEWAY, self.gateway.then(|| "HTTPRoute".into()));
        let (requests, errors) = self.baseline;
        note(
            label::BASELINE,
            self.step.map(|_| format!("{requests}/{errors}")),
        );
        notes
    }
}

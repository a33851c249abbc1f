//! Owns the configuration in force: the file it comes from, the backends it names and the choice
//! among them. A new configuration keeps the state of backends it shares with the old one, so
//! nothing in flight notices. It must not send requests.

use crate::backend::{Backend, Readiness};
use crate::share::{Choice, Share};
use bessemer_protocol::route::{RouteConfig, RouteStatus};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::Instant;

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source}; mount the router's ConfigMap there", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a router configuration.
    #[error("{path} is not a router configuration: {source}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Something in it cannot be.
    #[error("the router configuration is refused: {0}")]
    Refused(String),
}

impl ConfigError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ConfigUnreadable",
            Self::Parse { .. } | Self::Refused(_) => "ConfigInvalid",
        }
    }
}

fn check(config: RouteConfig) -> Result<RouteConfig, ConfigError> {
    let total: u32 = config.backends.iter().map(|backend| backend.weight).sum();
    if total != 0 && total != 100 {
        return Err(ConfigError::Refused(format!(
            "weights sum to {total}; they must sum to 100, or all be 0"
        )));
    }
    for (index, backend) in config.backends.iter().enumerate() {
        if config
            .backends
            .iter()
            .skip(index + 1)
            .any(|other| other.name == backend.name)
        {
            return Err(ConfigError::Refused(format!(
                "two backends are named {}",
                backend.name
            )));
        }
        let url: Result<http::Uri, _> = backend.url.parse();
        if !url.is_ok_and(|url| url.scheme_str() == Some("http") && url.authority().is_some()) {
            return Err(ConfigError::Refused(format!(
                "url {:?} of {} is not http://host:port",
                backend.url, backend.name
            )));
        }
    }
    Ok(config)
}

#[derive(Debug)]
struct State {
    config: RouteConfig,
    since: Instant,
    backends: Vec<Arc<Backend>>,
    /// Backends of earlier configurations that still answer something.
    leaving: Vec<Arc<Backend>>,
    share: Share,
}

/// The configuration in force.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    text: Mutex<Vec<u8>>,
    state: Mutex<State>,
}

impl Table {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it is missing or not valid.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        let empty = RouteConfig {
            deployment: String::new(),
            revision: String::new(),
            backends: Vec::new(),
            require_api_key: false,
        };
        let state = State {
            config: empty,
            since: Instant::now(),
            backends: Vec::new(),
            leaving: Vec::new(),
            share: Share::new(Vec::new()),
        };
        let table = Self {
            path: path.to_owned(),
            text: Mutex::new(Vec::new()),
            state: Mutex::new(state),
        };
        table.reload()?;
        Ok(table)
    }

    /// Reads the file again and puts it in force when it has changed; returns whether it has.
    ///
    /// # Errors
    /// When the file is missing or not valid; the old configuration then stays in force.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let text = std::fs::read(&self.path).map_err(|source| ConfigError::Read {
            path: self.path.clone(),
            source,
        })?;
        let mut known = self.text.lock();
        if *known == text {
            return Ok(false);
        }
        // A file that was refused is not read again until it changes.
        known.clone_from(&text);
        let parsed = serde_json::from_slice(&text).map_err(|source| ConfigError::Parse {
            path: self.path.clone(),
            source,
        })?;
        self.apply(check(parsed)?);
        Ok(true)
    }

    fn apply(&self, config: RouteConfig) {
        let mut state = self.state.lock();
        let mut old: Vec<Arc<Backend>> = std::mem::take(&mut state.backends);
        old.append(&mut state.leaving);
        for configured in &config.backends {
            let backend = match old.iter().position(|backend| backend.is(configured)) {
                Some(index) => old.swap_remove(index),
                None => Arc::new(Backend::new(configured.clone())),
            };
            state.backends.push(backend);
        }
        old.retain(|backend| backend.in_flight() > 0);
        state.leaving = old;
        let weights: Vec<u32> = config
            .backends
            .iter()
            .map(|backend| backend.weight)
            .collect();
        tracing::info!(
            revision = config.revision,
            ?weights,
            "configuration in force"
        );
        state.share = Share::new(weights);
        state.config = config;
        state.since = Instant::now();
    }

    /// Chooses a backend for a new request. The error is why there is none, for the client.
    ///
    /// # Errors
    /// When no backend may take it.
    pub fn choose(&self) -> Result<Arc<Backend>, String> {
        let mut state = self.state.lock();
        let State {
            backends, share, ..
        } = &mut *state;
        let ready = |index: usize| {
            backends
                .get(index)
                .is_some_and(|b| !matches!(b.readiness(), Readiness::Unready(_)))
        };
        let choice = share.next(ready);
        let primary = share.primary().and_then(|index| backends.get(index));
        match choice {
            Choice::Backend(index) => backends
                .get(index)
                .cloned()
                .ok_or_else(|| "no revision is configured".to_owned()),
            Choice::NoWeight => Err("no revision of this model takes traffic".to_owned()),
            Choice::PrimaryNotReady => {
                Err(primary.map_or_else(String::new, |backend| reason(backend)))
            }
        }
    }

    /// The backend that takes requests which are not counted (lists of models).
    #[must_use]
    pub fn primary(&self) -> Option<Arc<Backend>> {
        let state = self.state.lock();
        state
            .share
            .primary()
            .and_then(|index| state.backends.get(index))
            .cloned()
    }

    /// Whether `backend` still has weight, so that a request may be tried on it again.
    #[must_use]
    pub fn serves(&self, backend: &Backend) -> bool {
        self.state
            .lock()
            .config
            .backends
            .iter()
            .any(|configured| configured.weight > 0 && backend.is(configured))
    }

    /// All configured backends.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.state.lock().backends.clone()
    }

    /// Whether requests need an API key.
    #[must_use]
    pub fn requires_key(&self) -> bool {
        self.state.lock().config.require_api_key
    }

    /// Answer of `/-/status`.
    #[must_use]
    pub fn status(&self, now: Instant) -> RouteStatus {
        let mut state = self.state.lock();
        state.leaving.retain(|backend| backend.in_flight() > 0);
        RouteStatus {
            revision: state.config.revision.clone(),
            seconds_in_force: Some(now.saturating_duration_since(state.since).as_secs()),
            backends: state
                .backends
                .iter()
                .chain(&state.leaving)
                .map(|backend| backend.status(now))
                .collect(),
        }
    }
}

fn reason(backend: &Backend) -> String {
    match backend.readiness() {
        Readiness::Unready(reason) => format!(
            "revision {} is not ready: {reason}",
            backend.configured.name
        ),
        _ => format!("revision {} is not ready", backend.configured.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(revision: &str, weights: [u32; 2]) -> String {
        let backend = |name: &str, weight| serde_json::json!({"name": name, "digest": name, "url": "http://127.0.0.1:1", "weight": weight});
        serde_json::json!({"deployment": "m", "revision": revision, "backends": [backend("a", weights[0]), backend("b", weights[1])]}).to_string()
    }

    #[test]
    fn a_new_file_changes_weights_and_keeps_counters() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("route.json");
        assert_eq!(
            Table::open(&path).unwrap_err().category(),
            "ConfigUnreadable"
        );
        std::fs::write(&path, config("1", [100, 0])).unwrap();
        let table = Table::open(&path).unwrap();
        let first = table.choose().unwrap();
        let guard = first.begin();
        assert_eq!(first.configured.name, "a");
        assert!(!table.reload().unwrap());
        std::fs::write(&path, config("2", [0, 100])).unwrap();
        assert!(table.reload().unwrap());
        assert_eq!(table.choose().unwrap().configured.name, "b");
        assert!(!table.serves(&first));
        let status = table.status(Instant::now());
        assert_eq!(
            (
                status.revision.as_str(),
                status.backends[0].requests,
                status.backends[0].in_flight
            ),
            ("2", 1, 1)
        );
        drop(guard);
    }

    #[test]
    fn a_backend_that_left_is_told_until_its_last_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("route.json");
        std::fs::write(&path, config("1", [100, 0])).unwrap();
        let table = Table::open(&path).unwrap();
        let guard = table.choose().unwrap().begin();
        std::fs::write(&path, config("2", [100, 0]).replace("\"a\"", "\"c\"")).unwrap();
        table.reload().unwrap();
        let names = || {
            table
                .status(Instant::now())
                .backends
                .into_iter()
                .map(|b| b.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(), ["c", "b", "a"]);
        drop(guard);
        assert_eq!(names(), ["c", "b"]);
    }

    #[test]
    fn a_wrong_file_is_refused_by_reason_and_the_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("route.json");
        std::fs::write(&path, config("1", [100, 0])).unwrap();
        let table = Table::open(&path).unwrap();
        let cases = [
            ("{".to_owned(), "not a router configuration"),
            (config("2", [50, 20]), "sum to 70"),
            (
                config("2", [100, 0]).replace("\"b\"", "\"a\""),
                "two backends are named a",
            ),
            (
                config("2", [100, 0]).replace("http:", "ftp:"),
                "is not http",
            ),
        ];
        for (text, word) in cases {
            std::fs::write(&path, text).unwrap();
            let error = table.reload().unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.category(), "ConfigInvalid");
        }
        assert_eq!(table.status(Instant::now()).revision, "1");
        table.primary().unwrap().probed(Err("loading".into()));
        assert_eq!(
            table.choose().unwrap_err(),
            "revision a is not ready: loading"
        );
    }
}

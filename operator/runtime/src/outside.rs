//! Owns what lies outside the API server: the object store and the HTTP endpoints of routers and servers.
//! It must not decide what an answer means; [`Outside`] is the seam at which a simulation takes its place.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bessemer_core::{Artefact, Checkpoint, Completion, Key};
use bessemer_protocol::route::RouteStatus;
use bessemer_store::{
    Layout, Location, ObjectStore, StoreError, list_checkpoints, read_manifest, read_run,
};
use serde_json::{Value, json};

/// Longest wait for one HTTP answer.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for one completion: a cold server reads its weights first.
const COMPLETION_DEADLINE: Duration = Duration::from_secs(30);

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Asking again later may help.
    #[error("{0}")]
    Unavailable(String),
    /// Asking again does not help.
    #[error("{0}")]
    Refused(String),
}

impl Trouble {
    /// Stable word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "Unavailable",
            Self::Refused(_) => "Refused",
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Corrupt { .. } | StoreError::Invalid { .. } | StoreError::BadUri { .. } => {
                Self::Refused(text)
            }
            _ => Self::Unavailable(text),
        }
    }
}

/// The world outside the API server.
#[async_trait]
pub trait Outside: Send + Sync + 'static {
    /// The committed artefact of a run of `object`.
    async fn run(&self, object: &Key, run_key: &str) -> Result<Option<Artefact>, Trouble>;
    /// The newest complete checkpoint of a run of `object`.
    async fn checkpoint(&self, object: &Key, run_key: &str) -> Result<Option<Checkpoint>, Trouble>;
    /// The artefact in the directory `uri`.
    async fn manifest(&self, uri: &str) -> Result<Option<Artefact>, Trouble>;
    /// A router's own numbers.
    async fn route(&self, url: &str) -> Result<RouteStatus, Trouble>;
    /// One short completion.
    async fn complete(&self, url: &str, model: &str, api_key: Option<&str>) -> Completion;
    /// Deletes everything below `path` (below the storage prefix) but for the artefacts with digests in `keep`.
    async fn delete_artefacts(&self, path: &str, keep: &[String]) -> Result<(), Trouble>;
}

/// The artefacts in an object store.
#[derive(Clone)]
pub struct Artefacts {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
}

fn at(key: &Key) -> Location<'_> {
    Location {
        namespace: &key.namespace,
        kind: key.kind.name(),
        name: &key.name,
    }
}

impl Artefacts {
    /// What lies below `layout` in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, layout: Layout) -> Self {
        Self { store, layout }
    }

    async fn artefact(&self, directory: &str, digest: Option<&str>) -> Result<Artefact, Trouble> {
        let manifest =
            read_manifest(self.store.as_ref(), &format!("{directory}/manifest.json")).await?;
        let found = manifest.digest()?;
        if let Some(digest) = digest
            && digest != found
        {
            let file = format!("{directory}/manifest.json");
            return Err(StoreError::Corrupt {
                file,
                reason: format!("its digest is {found}, the pointer says {digest}"),
            }
            .into());
        }
        Ok(Artefact {
            uri: self.layout.uri(directory),
            digest: found,
            size_bytes: manifest.size_bytes(),
            kind: manifest.kind,
            statistics: manifest.statistics,
        })
    }

    /// The committed artefact of a run.
    ///
    /// # Errors
    /// The store is away, or what it holds is damaged.
    pub async fn run(&self, object: &Key, run_key: &str) -> Result<Option<Artefact>, Trouble> {
        let Some(pointer) =
            read_run(self.store.as_ref(), &self.layout, at(object), run_key).await?
        else {
            return Ok(None);
        };
        let directory = self.layout.key_of(&pointer.uri)?;
        self.artefact(&directory, Some(&pointer.digest))
            .await
            .map(Some)
    }

    /// The newest complete checkpoint of a run.
    ///
    /// # Errors
    /// The store is away, or what it holds is damaged.
    pub async fn checkpoint(
        &self,
        object: &Key,
        run_key: &str,
    ) -> Result<Option<Checkpoint>, Trouble> {
        let all = list_checkpoints(self.store.as_ref(), &self.layout, at(object), run_key).await?;
        Ok(all
            .into_iter()
            .max_by_key(|found| found.step)
            .map(|found| Checkpoint {
                step: found.step,
                uri: found.uri,
                digest: found.digest,
                // The store's listing tells no time; the reconciler knows it from the report that announced it.
                time: jiff::Timestamp::UNIX_EPOCH,
            }))
    }

    /// The artefact in a directory.
    ///
    /// # Errors
    /// The store is away, or what it holds is damaged.
    pub async fn manifest(&self, uri: &str) -> Result<Option<Artefact>, Trouble> {
        let directory = self.layout.key_of(uri)?;
        match read_manifest(self.store.as_ref(), &format!("{directory}/manifest.json")).await {
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => self.artefact(&directory, None).await.map(Some),
        }
    }

    /// Deletes what lies below a path, but for kept digests.
    ///
    /// # Errors
    /// The store is away, or what it holds is damaged.
    pub async fn delete_artefacts(&self, path: &str, keep: &[String]) -> Result<(), Trouble> {
        let path = path.trim_end_matches('/');
        let directory = match self.layout.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        };
        let objects = self.store.list(&format!("{directory}/")).await?;
        // Pointers first: a crash must not leave one to nothing. Those that lead to a kept artefact stay.
        let (runs, rest): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .partition(|meta| meta.key.starts_with(&format!("{directory}/runs/")));
        for run in runs {
            let pointer: Option<bessemer_store::RunPointer> =
                serde_json::from_slice(&self.store.get(&run.key).await?).ok();
            if pointer.is_none_or(|pointer| !keep.contains(&pointer.digest)) {
                self.store.delete(&run.key).await?;
            }
        }
        for meta in rest {
            let kept = keep
                .iter()
                .any(|digest| meta.key.starts_with(&format!("{directory}/{digest}/")));
            if !kept {
                self.store.delete(&meta.key).await?;
            }
        }
        Ok(())
    }
}

/// The real world: an object store and HTTP.
pub struct Live {
    artefacts: Artefacts,
    http: reqwest::Client,
}

impl Live {
    /// Reads artefacts from `artefacts`.
    #[must_use]
    pub fn new(artefacts: Artefacts) -> Self {
        Self {
            artefacts,
            http: reqwest::Client::new(),
        }
    }
}

#[async_trait]
impl Outside for Live {
    async fn run(&self, object: &Key, run_key: &str) -> Result<Option<Artefact>, Trouble> {
        self.artefacts.run(object, run_key).await
    }

    async fn checkpoint(&self, object: &Key, run_key: &str) -> Result<Option<Checkpoint>, Trouble> {
        self.artefacts.checkpoint(object, run_key).await
    }

    async fn manifest(&self, uri: &str) -> Result<Option<Artefact>, Trouble> {
        self.artefacts.manifest(uri).await
    }

    async fn delete_artefacts(&self, path: &str, keep: &[String]) -> Result<(), Trouble> {
        self.artefacts.delete_artefacts(path, keep).await
    }

    async fn route(&self, url: &str) -> Result<RouteStatus, Trouble> {
        let away = |error: reqwest::Error| {
            Trouble::Unavailable(format!("the router at {url} does not answer: {error}"))
        };
        let url = format!("{}/-/status", url.trim_end_matches('/'));
        let answer = self
            .http
            .get(&url)
            .timeout(HTTP_DEADLINE)
            .send()
            .await
            .map_err(away)?;
        answer
            .error_for_status()
            .map_err(away)?
            .json()
            .await
            .map_err(away)
    }

    async fn complete(&self, url: &str, model: &str, api_key: Option<&str>) -> Completion {
        let failed = |status, message| Completion {
            status,
            digest: None,
            complete: false,
            message,
        };
        let endpoint = format!("{}/v1/completions", url.trim_end_matches('/'));
        let body = json!({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0});
        let mut request = self
            .http
            .post(&endpoint)
            .timeout(COMPLETION_DEADLINE)
            .json(&body);
        if let Some(key) = api_key {
            request = request.bearer_auth(key);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return failed(0, format!("no connection to {url}: {error}")),
        };
        let status = answer.status().as_u16();
        let header = answer
            .headers()
            .get("x-bessemer-digest")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let body: Value = match answer.json().await {
            Ok(body) => body,
            Err(error) => return failed(status, format!("the answer is no JSON: {error}")),
        };
        let complete = body.pointer("/choices/0").is_some();
        let digest = match header {
            Some(digest) => Some(digest),
            None => self.digest_of(url).await,
        };
        let message = if complete {
            String::new()
        } else {
            format!("HTTP {status}: {body}")
        };
        Completion {
            status,
            digest,
            complete,
            message,
        }
    }
}

impl Live {
    /// The digest that a server names in its own health answer.
    async fn digest_of(&self, url: &str) -> Option<String> {
        let health = format!("{}/health", url.trim_end_matches('/'));
        let answer = self
            .http
            .get(health)
            .timeout(HTTP_DEADLINE)
            .send()
            .await
            .ok()?;
        let body: Value = answer.json().await.ok()?;
        body.pointer("/digest")
            .and_then(Value::as_str)
            .map(str::to_owned)
    }
}

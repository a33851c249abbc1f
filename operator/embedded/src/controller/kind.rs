//! The kinds an API serves: owns their discovery and its refresh as CRDs come.
//! It must not read objects.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One kind that can be listed, watched and deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// All kinds known so far; clones share the knowledge.
#[derive(Clone)]
pub struct Kinds(watch::Receiver<Arc<Vec<Kind>>>);

/// How often new kinds are looked for: CRDs come seldom, and their objects after them.
const REFRESH: Duration = Duration::from_secs(5);

impl Kinds {
    /// Starts discovery, repeated until `shutdown`.
    pub fn discover(client: Client, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(Vec::new()));
        tokio::spawn(async move {
            let mut quickly = Duration::from_millis(100);
            loop {
                match discover(&client).await {
                    Ok(kinds) => {
                        sender.send_if_modified(|old| {
                            let changed = **old != kinds;
                            *old = Arc::new(kinds);
                            changed
                        });
                        quickly = REFRESH;
                    }
                    Err(error) => tracing::debug!(%error, "discovery failed; trying again"),
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(quickly) => {}
                }
            }
        });
        Self(receiver)
    }

    /// The kinds of the moment.
    pub fn all(&self) -> Arc<Vec<Kind>> {
        self.0.borrow().clone()
    }

    /// A kind by apiVersion and name.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<Kind> {
        self.all()
            .iter()
            .find(|k| k.resource.api_version == api_version && k.resource.kind == kind)
            .cloned()
    }

    /// Calls `found` once for each kind, now and as new ones come, until `shutdown`.
    pub async fn for_each(mut self, shutdown: CancellationToken, mut found: impl FnMut(Kind)) {
        let mut known: Vec<Kind> = Vec::new();
        loop {
            let now = self.0.borrow_and_update().clone();
            for kind in now
                .iter()
                .filter(|k| !known.contains(k))
                .cloned()
                .collect::<Vec<_>>()
            {
                known.push(kind.clone());
                found(kind);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.0.changed() => if changed.is_err() { return },
            }
        }
    }
}

async fn discover(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let works = [verbs::LIST, verbs::WATCH, verbs::DELETE]
                .iter()
                .all(|v| capabilities.supports_operation(v));
            // Events own nothing and are owned by nothing, and there are many.
            if works && resource.kind != "Event" {
                kinds.push(Kind {
                    resource,
                    namespaced: capabilities.scope == Scope::Namespaced,
                });
            }
        }
    }
    kinds.sort_by(|a, b| {
        (&a.resource.api_version, &a.resource.kind)
            .cmp(&(&b.resource.api_version, &b.resource.kind))
    });
    Ok(kinds)
}

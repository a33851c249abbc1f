//! Owns the watches: one task per kind and namespace, each with its own backoff, feeding one cache.
//! It must not know what a change means; it tells a listener.
//!
//! One shared backoff would let one failing kind stop all others (trino-operator#936), and a watch that is silent longer
//! than a load balancer's patience dies unnoticed (Azure/kars#456): hence tasks apart and a watch timeout of 200 s.

use std::sync::Arc;
use std::time::Duration;

use bessemer_core::Object;
use futures::StreamExt;
use futures::stream::BoxStream;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Policy;
use crate::bug::{Bug, planted};
use crate::cache::{Cache, Change, Place};
use crate::clock::Random;
use crate::metric::{self, Metrics};
use crate::packed::version;
use crate::raw::Raw;

/// Seconds after which the server ends a watch and the client starts the next.
pub const TIMEOUT_SECONDS: u32 = 200;

/// When each watch last showed a sign of life.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<Vec<(&'static str, Instant)>>>);

impl Pulse {
    fn register(&self, kind: &'static str) -> usize {
        let mut beats = self.0.lock();
        beats.push((kind, Instant::now()));
        beats.len() - 1
    }

    fn beat(&self, slot: usize) {
        if let Some(entry) = self.0.lock().get_mut(slot) {
            entry.1 = Instant::now();
        }
    }

    /// Age of the last sign of life of each watch.
    #[must_use]
    pub fn ages(&self) -> Vec<(&'static str, Duration)> {
        self.0
            .lock()
            .iter()
            .map(|(kind, at)| (*kind, at.elapsed()))
            .collect()
    }
}

/// What one watch needs.
pub struct Watch<K> {
    /// Where to list and watch.
    pub api: Api<Raw>,
    /// Namespace, or empty for all.
    pub scope: String,
    /// PascalCase kind, for logs and metrics.
    pub kind: &'static str,
    /// Label selector, empty for all.
    pub selector: &'static str,
    /// Reduces an object to what is read of it before it is kept.
    pub prune: fn(&mut K),
    /// Where copies are kept.
    pub cache: Arc<Cache<K>>,
    /// Told of every change.
    pub changed: Box<dyn Fn(Change<K>) + Send + Sync>,
    /// Told of every copy that came: why it cannot be read, or `None`.
    pub readable: Box<dyn Fn(Place, Option<String>) + Send + Sync>,
    /// Jitter of the backoff.
    pub random: Random,
    /// Counters.
    pub metrics: Metrics,
    /// Signs of life.
    pub pulse: Pulse,
}

/// What happens to the objects that `selector` chooses, for ever.
fn events(api: Api<Raw>, selector: &str) -> BoxStream<'static, Result<Event<Raw>, watcher::Error>> {
    let config = watcher::Config {
        // Ten kinds are listed at once, whole, as the server has them: larger pages are most of the operator's memory.
        page_size: Some(100),
        ..watcher::Config::default()
    }
    .timeout(TIMEOUT_SECONDS);
    let config = if selector.is_empty() {
        config
    } else {
        config.labels(selector)
    };
    watcher::watcher(api, config).boxed()
}

impl<K: Object> Watch<K> {
    /// Watches for ever.
    pub async fn run(self) {
        let slot = self.pulse.register(self.kind);
        let mut events = events(self.api.clone(), self.selector);
        let mut failures = 0;
        loop {
            // The timeout is a sign of life too: the watcher starts the next watch by then, or reports an error.
            let limit = Duration::from_secs(u64::from(TIMEOUT_SECONDS) + 10);
            let Ok(event) = tokio::time::timeout(limit, events.next()).await else {
                self.pulse.beat(slot);
                continue;
            };
            match event {
                Some(Ok(event)) => {
                    failures = 0;
                    self.pulse.beat(slot);
                    self.fold(event);
                }
                Some(Err(error)) => {
                    let delay = Policy::WATCH.delay(failures, &self.random);
                    failures += 1;
                    self.metrics
                        .watch_errors
                        .get_or_create(&metric::Kind { kind: self.kind })
                        .inc();
                    tracing::warn!(kind = self.kind, %error, retry_in_ms = delay.as_millis(), "watch failed");
                    if planted(Bug::DeadWatch) {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(delay).await;
                }
                None => return,
            }
        }
    }

    fn fold(&self, event: Event<Raw>) {
        match event {
            Event::Init => self.cache.begin_list(&self.scope),
            Event::InitApply(object) => {
                let place = Place::of(&object);
                match self.decode(&object) {
                    Some(object) => self.cache.list_item(&self.scope, object),
                    None => self.cache.list_unreadable(&self.scope, place),
                }
            }
            Event::InitDone => {
                self.cache.end_list(&self.scope, &self.changed);
            }
            Event::Apply(object) => {
                if let Some(change) = self.decode(&object).and_then(|o| self.cache.apply(o)) {
                    (self.changed)(change);
                }
            }
            Event::Delete(object) => {
                let (place, uid) = (Place::of(&object), object.uid());
                (self.readable)(place.clone(), None);
                if let Some(before) = self.cache.remove(&place, uid.as_deref(), version(&object)) {
                    (self.changed)((Some(before), None));
                }
            }
        }
        let held = i64::try_from(self.cache.len()).unwrap_or(i64::MAX);
        self.metrics
            .cached
            .get_or_create(&metric::Kind { kind: self.kind })
            .set(held);
    }

    /// One object that cannot be read must not stop the others: it is named.
    fn decode(&self, raw: &Raw) -> Option<K> {
        let place = Place::of(raw);
        match raw.typed::<K>() {
            Ok(mut object) => {
                (self.readable)(place, None);
                (self.prune)(&mut object);
                Some(object)
            }
            Err(error) => {
                tracing::error!(
                    kind = self.kind,
                    namespace = place.namespace(),
                    name = place.name(),
                    error,
                    "object cannot be read"
                );
                (self.readable)(place, Some(error));
                None
            }
        }
    }
}

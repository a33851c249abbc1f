//! Owns the names and values of the operator's metrics. It must not decide anything.
//!
//! Where controller-runtime has a metric its name, labels and meaning are kept: people and dashboards know them.
//! No label carries an object's name.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Label `controller`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Controller {
    /// Kind, lower case.
    pub controller: &'static str,
}

/// Labels `controller` and `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// Kind, lower case.
    pub controller: &'static str,
    /// `success`, `requeue_after`, `requeue` or `error`.
    pub result: &'static str,
}

/// Labels of one request to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// HTTP status, or `<error>` without an answer.
    pub code: String,
    /// HTTP method.
    pub method: String,
    /// Host of the API server.
    pub host: String,
}

/// Label `kind` of what is watched or acted upon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// Kind, PascalCase.
    pub kind: &'static str,
}

/// Labels of an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Act {
    /// What was done.
    pub action: &'static str,
    /// `ok` or the error's category.
    pub category: &'static str,
}

/// Label `name` of a lease or a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Name {
    /// Which.
    pub name: String,
}

/// Label `category` of an error or refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Category {
    /// Stable word.
    pub category: &'static str,
}

/// Every metric of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciles by result.
    pub reconciles: Family<Outcome, Counter>,
    /// Reconciles that failed and will be tried again.
    pub errors: Family<Controller, Counter>,
    /// Reconciles that ended in a state only a new spec can leave.
    pub terminal_errors: Family<Controller, Counter>,
    /// Seconds per reconcile.
    pub reconcile_seconds: Family<Controller, Histogram>,
    /// Reconciles allowed at once.
    pub max_concurrent: Family<Controller, Gauge>,
    /// Reconciles running.
    pub active_workers: Family<Controller, Gauge>,
    /// Objects waiting.
    pub queue_depth: Family<Name, Gauge>,
    /// Triggers taken into the queue.
    pub queue_adds: Family<Name, Counter>,
    /// Seconds an object waited.
    pub queue_seconds: Family<Name, Histogram>,
    /// Seconds an object was worked on.
    pub work_seconds: Family<Name, Histogram>,
    /// Age of the oldest work in progress in seconds.
    pub longest_running: Family<Name, Gauge>,
    /// Retries after failures.
    pub queue_retries: Family<Name, Counter>,
    /// Requests to the API server.
    pub requests: Family<Request, Counter>,
    /// 1 while this process leads.
    pub leader: Family<Name, Gauge>,
    /// Actions by what they did and how they ended.
    pub actions: Family<Act, Counter>,
    /// Reconciles whose plan changed nothing.
    pub no_ops: Family<Controller, Counter>,
    /// Status writes.
    pub status_writes: Family<Controller, Counter>,
    /// Objects held per kind.
    pub cached: Family<Kind, Gauge>,
    /// Seconds since the last event or start of a kind's watch.
    pub watch_age: Family<Kind, Gauge>,
    /// Watch failures.
    pub watch_errors: Family<Kind, Counter>,
    /// Progress reports taken.
    pub progress: Counter,
    /// Questions to object stores and routers by how they ended.
    pub queries: Family<Act, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// 1 ms to 60 s.
const SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0,
];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut this = Self {
            registry: Arc::default(),
            reconciles: Family::default(),
            errors: Family::default(),
            terminal_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(seconds),
            max_concurrent: Family::default(),
            active_workers: Family::default(),
            queue_depth: Family::default(),
            queue_adds: Family::default(),
            queue_seconds: Family::new_with_constructor(seconds),
            work_seconds: Family::new_with_constructor(seconds),
            longest_running: Family::default(),
            queue_retries: Family::default(),
            requests: Family::default(),
            leader: Family::default(),
            actions: Family::default(),
            no_ops: Family::default(),
            status_writes: Family::default(),
            cached: Family::default(),
            watch_age: Family::default(),
            watch_errors: Family::default(),
            progress: Counter::default(),
            queries: Family::default(),
        };
        this.registry = Arc::new(this.register());
        this
    }

    // The encoder appends `_total` to the name of a counter.
    fn register(&self) -> Registry {
        let mut r = Registry::default();
        r.register(
            "controller_runtime_reconcile",
            "Reconciles per controller and result",
            self.reconciles.clone(),
        );
        r.register(
            "controller_runtime_reconcile_errors",
            "Failed reconciles per controller",
            self.errors.clone(),
        );
        r.register(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciles that wait for a new spec per controller",
            self.terminal_errors.clone(),
        );
        r.register(
            "controller_runtime_reconcile_time_seconds",
            "Seconds per reconcile",
            self.reconcile_seconds.clone(),
        );
        r.register(
            "controller_runtime_max_concurrent_reconciles",
            "Reconciles allowed at once",
            self.max_concurrent.clone(),
        );
        r.register(
            "controller_runtime_active_workers",
            "Reconciles running",
            self.active_workers.clone(),
        );
        r.register(
            "workqueue_depth",
            "Objects waiting",
            self.queue_depth.clone(),
        );
        r.register("workqueue_adds", "Triggers taken", self.queue_adds.clone());
        r.register(
            "workqueue_queue_duration_seconds",
            "Seconds an object waited",
            self.queue_seconds.clone(),
        );
        r.register(
            "workqueue_work_duration_seconds",
            "Seconds of work on an object",
            self.work_seconds.clone(),
        );
        r.register(
            "workqueue_longest_running_processor_seconds",
            "Age of the oldest work in progress",
            self.longest_running.clone(),
        );
        r.register(
            "workqueue_retries",
            "Retries after failures",
            self.queue_retries.clone(),
        );
        r.register(
            "rest_client_requests",
            "Requests to the API server",
            self.requests.clone(),
        );
        r.register(
            "leader_election_master_status",
            "1 while this process leads",
            self.leader.clone(),
        );
        r.register(
            "bessemer_actions",
            "Actions by kind and category",
            self.actions.clone(),
        );
        r.register(
            "bessemer_reconcile_noop",
            "Reconciles that changed nothing",
            self.no_ops.clone(),
        );
        r.register(
            "bessemer_status_writes",
            "Status writes",
            self.status_writes.clone(),
        );
        r.register(
            "bessemer_cached_objects",
            "Objects held per kind",
            self.cached.clone(),
        );
        r.register(
            "bessemer_watch_age_seconds",
            "Age of the last sign of life of a watch",
            self.watch_age.clone(),
        );
        r.register(
            "bessemer_watch_errors",
            "Watch failures",
            self.watch_errors.clone(),
        );
        r.register(
            "bessemer_progress_reports",
            "Progress reports taken",
            self.progress.clone(),
        );
        r.register(
            "bessemer_queries",
            "Questions to stores and routers",
            self.queries.clone(),
        );
        r
    }

    /// Counts one action or query.
    pub fn acted(
        &self,
        family: &Family<Act, Counter>,
        action: &'static str,
        category: &'static str,
    ) {
        family.get_or_create(&Act { action, category }).inc();
    }

    /// Counts one finished reconcile.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles
            .get_or_create(&Outcome { controller, result })
            .inc();
        self.reconcile_seconds
            .get_or_create(&Controller { controller })
            .observe(took.as_secs_f64());
    }

    /// The text of `GET /metrics`.
    ///
    /// # Errors
    /// Only when a value cannot be formatted.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_controller_runtimes_names() {
        let metrics = Metrics::new();
        metrics.reconciled("dataset", "success", Duration::from_millis(3));
        metrics
            .requests
            .get_or_create(&Request {
                code: "200".into(),
                method: "GET".into(),
                host: "api".into(),
            })
            .inc();
        metrics
            .leader
            .get_or_create(&Name {
                name: "bessemer".into(),
            })
            .set(1);
        let text = metrics.render().unwrap();
        for line in [
            r#"controller_runtime_reconcile_total{controller="dataset",result="success"} 1"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="dataset"} 1"#,
            r#"rest_client_requests_total{code="200",method="GET",host="api"} 1"#,
            r#"leader_election_master_status{name="bessemer"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\nnot in\n{text}");
        }
    }
}

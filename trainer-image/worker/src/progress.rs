//! Owns progress reports on their way to the operator: the newest one at most every second, none ever waited for.
//! Losing all of them changes nothing; it must not carry a result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bessemer_protocol::{ProgressReport, RunConfig, Stage};
use reqwest::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::environment::Environment;
use crate::metric::Metrics;

/// Pause between two reports.
const PAUSE: Duration = Duration::from_secs(1);
/// Patience with the operator.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Patience at the end of the run.
const FLUSH: Duration = Duration::from_secs(2);

/// Takes reports from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    newest: watch::Sender<ProgressReport>,
    metrics: Arc<Metrics>,
}

/// The task that sends reports.
#[derive(Debug)]
pub struct Delivery(Option<JoinHandle<()>>);

impl Reporter {
    /// A reporter for a run; without a URL it feeds only the metrics.
    pub fn start(
        config: &RunConfig,
        environment: &Environment,
        metrics: Arc<Metrics>,
    ) -> (Self, Delivery) {
        let run = &config.run;
        let first = ProgressReport {
            namespace: run.namespace.clone(),
            kind: run.kind.clone(),
            name: run.name.clone(),
            uid: run.uid.clone(),
            run_key: run.run_key.clone(),
            attempt: run.attempt,
            stage: Stage::Fetching,
            percent: 0.0,
            step: 0,
            total_steps: 0,
            eta_seconds: None,
            tokens_per_second: None,
            model_flops_utilization: None,
            loss: None,
            validation_loss: None,
            checkpoint: None,
        };
        let (newest, receiver) = watch::channel(first);
        let delivery = environment.progress_url.as_ref().map(|url| {
            let url = format!("{}/v1/progress", url.trim_end_matches('/'));
            tokio::spawn(deliver(receiver, url, environment.token_file.clone()))
        });
        (Self { newest, metrics }, Delivery(delivery))
    }

    /// Changes the report; the percentage never falls.
    pub fn update(&self, change: impl FnOnce(&mut ProgressReport)) {
        self.newest.send_modify(|report| {
            let before = report.percent;
            change(report);
            report.percent = if report.percent.is_finite() {
                report.percent.clamp(before, 100.0)
            } else {
                before
            };
            for number in [
                &mut report.eta_seconds,
                &mut report.tokens_per_second,
                &mut report.model_flops_utilization,
                &mut report.loss,
                &mut report.validation_loss,
            ] {
                *number = number.filter(|number| number.is_finite());
            }
            self.metrics.observe(report);
        });
    }

    /// Enters a stage, the part `from..to` of 100 percent.
    pub fn stage(&self, stage: Stage, percent: f64) {
        self.update(|report| {
            report.stage = stage;
            report.percent = percent;
            report.eta_seconds = None;
            // What is published is what was worked through: its numbers stay.
            if stage != Stage::Publishing {
                (report.step, report.total_steps) = (0, 0);
            }
        });
    }
}

impl Delivery {
    /// Gives the last report a moment. All reporters must be dropped first.
    pub async fn finish(self) {
        if let Some(task) = self.0 {
            let _ = tokio::time::timeout(FLUSH, task).await;
        }
    }
}

async fn deliver(
    mut reports: watch::Receiver<ProgressReport>,
    url: String,
    token: Option<PathBuf>,
) {
    // Redirects are followed by hand: a standby names the leader, which must get the token too.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return tracing::warn!(%error, "progress is not reported"),
    };
    let mut silent = false;
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        match send(&client, &url, token.as_ref(), &report).await {
            Ok(()) => silent = false,
            Err(reason) if silent => tracing::debug!(reason, "progress not delivered"),
            Err(reason) => {
                tracing::warn!(reason, "progress not delivered; the work goes on");
                silent = true;
            }
        }
        // `has_changed` is an error once the work is done: then the last report goes out at once.
        if reports.has_changed().is_ok() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = closed(reports.clone()) => {}
            }
        }
    }
}

async fn closed(mut reports: watch::Receiver<ProgressReport>) {
    while reports.changed().await.is_ok() {
        reports.mark_unchanged();
    }
}

async fn send(
    client: &reqwest::Client,
    url: &str,
    token: Option<&PathBuf>,
    report: &ProgressReport,
) -> Result<(), String> {
    // Read every time: the kubelet renews it.
    let token = match token {
        Some(path) => Some(
            tokio::fs::read_to_string(path)
                .await
                .map_err(|error| format!("{}: {error}", path.display()))?,
        ),
        None => None,
    };
    let mut target = url.to_owned();
    for _ in 0..3 {
        let mut request = client.post(&target).json(report);
        if let Some(token) = &token {
            request = request.bearer_auth(token.trim());
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if matches!(
            status,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        ) {
            let place = answer
                .headers()
                .get(reqwest::header::LOCATION)
                .and_then(|value| value.to_str().ok());
            target = place.ok_or("a redirect without a place")?.to_owned();
            continue;
        }
        if status.is_success() {
            return Ok(());
        }
        return Err(format!("the operator answered {status}"));
    }
    Err("the operator redirects in a circle".to_owned())
}

#[cfg(test)]
mod tests;

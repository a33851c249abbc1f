//! Owns the common status of a run: what is carried over, progress that never falls, transitions as events. It must
//! not decide the verdict.

use bessemer_api::{CheckpointStatus, CommonStatus, Losses, NONE_YET, Progress};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Identity, RunKind};
use crate::condition::{self, READY, STALLED, Verdict, Wanted, whole_seconds};
use crate::kind::Observed;
use crate::plan::Event;
use crate::query::{Artefact, Received};
use crate::reason::Reason;

/// Seconds between two writes of progress alone.
pub const PROGRESS_SECONDS: i64 = 10;

/// What is to be told of an object.
#[derive(Clone, Debug)]
pub struct Told {
    /// What the conditions add up to.
    pub verdict: Verdict,
    /// Dominant reason.
    pub reason: Reason,
    /// One sentence, the next step included where there is one.
    pub message: String,
    /// Further conditions.
    pub more: Vec<Wanted>,
}

impl Told {
    /// A verdict whose message ends with the reason's next step.
    pub fn new(verdict: Verdict, reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if !reason.next.is_empty() && !message.contains(reason.next) {
            if !message.ends_with(['.', '!', '?']) {
                message.push('.');
            }
            message.push(' ');
            message.push_str(reason.next);
        }
        Self {
            verdict,
            reason,
            message,
            more: Vec::new(),
        }
    }

    /// The conditions, times kept.
    pub fn conditions(&self, old: &[Condition], generation: i64, now: Timestamp) -> Vec<Condition> {
        let mut wanted = condition::wanted(self.verdict, self.reason, &self.message);
        wanted.extend(self.more.iter().cloned());
        condition::set(old, wanted, generation, now)
    }
}

/// The status before anything is known of a run; the last artefact stays.
pub fn fresh(old: &CommonStatus, generation: i64) -> CommonStatus {
    CommonStatus {
        observed_generation: Some(generation),
        artifact: old.artifact.clone(),
        inputs: old.inputs.clone(),
        progress: Some(waiting()),
        ..CommonStatus::default()
    }
}

/// The status of the run `identity`: carried over if it is the same run.
pub fn of_run<K: RunKind>(
    observed: &Observed<K>,
    old: &CommonStatus,
    identity: &Identity,
    same_run: bool,
) -> CommonStatus {
    let meta = observed.object.meta();
    let generation = meta.generation.unwrap_or_default();
    let mut new = if same_run {
        old.clone()
    } else {
        fresh(old, generation)
    };
    new.observed_generation = Some(generation);
    new.run_key = Some(identity.run_key.clone());
    new.restart_nonce.clone_from(&identity.nonce);
    new.trace_id = Some(identity.trace_id(meta.uid.as_deref().unwrap_or_default()));
    new.conditions = Vec::new();
    if new.progress.is_none() {
        new.progress = Some(waiting());
    }
    new
}

/// Progress of a run that has not begun.
pub fn waiting() -> Progress {
    Progress {
        stage: "Waiting".into(),
        percent: 0,
        summary: Some("0%".into()),
        ..Progress::default()
    }
}

/// Progress of a run that has its artefact; the last numbers stay.
pub fn complete(old: Option<&Progress>) -> Progress {
    Progress {
        stage: "Complete".into(),
        percent: 100,
        summary: Some("100%".into()),
        step: old.and_then(|p| p.total_steps.or(p.step)),
        total_steps: old.and_then(|p| p.total_steps),
        eta_seconds: None,
        tokens_per_second: old.and_then(|p| p.tokens_per_second),
        model_flops_utilization: old.and_then(|p| p.model_flops_utilization),
        loss: old.and_then(|p| p.loss),
        updated_at: old.and_then(|p| p.updated_at.clone()),
    }
}

/// Folds a report in: percent never falls within a run, numbers that are not finite are left out.
pub fn report(old: Option<&Progress>, received: &Received) -> Progress {
    let report = &received.report;
    let before = old.map_or(0, |p| p.percent);
    let finite = |value: Option<f64>| value.filter(|v| v.is_finite()).map(significant);
    // A run that still works is not at 100 %: that is said only with the artefact.
    let now = if report.percent.is_finite() {
        report.percent.clamp(0.0, 99.0) as i32
    } else {
        0
    };
    let percent = before.max(now).min(99);
    let eta = report
        .eta_seconds
        .filter(|eta| eta.is_finite() && *eta >= 0.0)
        .map(|eta| eta.min(1e9) as i64);
    let count = |value: u64| i64::try_from(value).ok();
    Progress {
        stage: format!("{:?}", report.stage),
        percent,
        summary: Some(eta.map_or_else(
            || format!("{percent}%"),
            |eta| format!("{percent}% {}", duration(eta)),
        )),
        step: count(report.step),
        total_steps: count(report.total_steps).filter(|total| *total > 0),
        eta_seconds: eta,
        tokens_per_second: finite(report.tokens_per_second)
            .or_else(|| old.and_then(|p| p.tokens_per_second)),
        model_flops_utilization: finite(report.model_flops_utilization)
            .or_else(|| old.and_then(|p| p.model_flops_utilization)),
        loss: finite(report.loss).or_else(|| old.and_then(|p| p.loss)),
        updated_at: Some(Time(whole_seconds(received.at))),
    }
}

/// A report that changes nothing but numbers waits until the last write of progress is old enough. Returns the
/// progress to write and the seconds after which to look again.
pub fn coalesce(
    old: Option<&Progress>,
    new: Progress,
    now: Timestamp,
    steady: bool,
) -> (Progress, Option<u64>) {
    let Some(old) = old.filter(|_| steady) else {
        return (new, None);
    };
    let Some(last) = old.updated_at.as_ref() else {
        return (new, None);
    };
    let age = now.as_second() - last.0.as_second();
    if new == *old || (0..PROGRESS_SECONDS).contains(&age) {
        let again = (new != *old).then(|| u64::try_from(PROGRESS_SECONDS - age).unwrap_or(1));
        return (old.clone(), again);
    }
    (new, None)
}

/// Five significant digits: enough for people, and the same text on every machine.
fn significant(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// `3m10s`.
fn duration(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest:02}s"),
        _ => format!("{hours}h{minutes:02}m"),
    }
}

/// One event when the reason or the value of Ready changes.
pub fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    let Some(ready) = condition::find(new, READY) else {
        return Vec::new();
    };
    let known = condition::find(old, READY)
        .is_some_and(|before| before.reason == ready.reason && before.status == ready.status);
    if known {
        return Vec::new();
    }
    let warning = condition::is_true(new, STALLED);
    vec![Event {
        warning,
        reason: ready.reason.clone(),
        message: ready.message.clone(),
    }]
}

/// The newest checkpoint: the report's if it is later, else the one known.
pub fn checkpoint(
    old: Option<CheckpointStatus>,
    received: Option<&Received>,
) -> Option<CheckpointStatus> {
    let told =
        received.and_then(|received| Some((received.report.checkpoint.as_ref()?, received.at)));
    let Some((report, at)) = told else { return old };
    let step = i64::try_from(report.step).unwrap_or(i64::MAX);
    if old.as_ref().is_some_and(|old| old.step >= step) {
        return old;
    }
    let time = Some(Time(whole_seconds(at)));
    Some(CheckpointStatus {
        step,
        uri: report.uri.clone(),
        digest: report.digest.clone(),
        time,
    })
}

/// The losses that a model's manifest tells (`statistics.losses`).
pub fn losses(artefact: &Artefact) -> Option<Losses> {
    serde_json::from_value(artefact.statistics.get("losses")?.clone()).ok()
}

/// The newest loss in words: the run's own, else that of the last artefact.
pub fn headline(common: &CommonStatus, losses: Option<&Losses>) -> String {
    let running = common.progress.as_ref().and_then(|progress| progress.loss);
    let loss = running.or_else(|| losses.and_then(|losses| losses.training));
    loss.map_or_else(|| NONE_YET.into(), |loss| format!("{loss:.4}"))
}

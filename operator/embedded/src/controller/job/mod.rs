//! batch/v1 Jobs: owns the decision from a Job and its pods to writes, as a pure function.
//! It must not read the API or the clock; `controller::run` gives it both.
//!
//! Pods carry the finalizer `batch.kubernetes.io/job-tracking` until they are counted, so no
//! crash loses or doubles one: a failed pod's uid is written to `uncountedTerminatedPods`,
//! then its finalizer goes, then the uid moves into the count. Not built: per-index backoff
//! limits and success policies.

mod count;
mod pod;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::PropagationPolicy;
use serde_json::json;

use super::action::{Action, Note, encode, reference, resource};
use super::cache::Key;

pub use count::release;

/// What to write, and when to look again without being told.
#[derive(Debug, Default)]
pub struct Plan {
    /// Writes in order.
    pub actions: Vec<Action>,
    /// Look again after this.
    pub again: Option<Duration>,
}

/// Why a Job ends without success.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    reason: String,
    message: String,
}

const COMPONENT: &str = "job-controller";

/// Decides. `backoff` is the delay after the first failed pod; it doubles up to ten minutes.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp, backoff: Duration) -> Plan {
    let Some(spec) = &job.spec else {
        return Plan::default();
    };
    let old = job.status.clone().unwrap_or_default();
    if finished(&old) {
        return expire(job, spec, &old, pods, now);
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Plan {
            actions: pods.iter().filter_map(count::release).collect(),
            again: None,
        };
    }
    let suspended = spec.suspend == Some(true);
    let mut plan = Plan::default();
    let mut status = old.clone();
    let tally = count::Tally::of(spec, &old, pods, suspended);

    if !suspended && status.start_time.is_none() {
        status.start_time = Some(Time(now));
    }
    let failure = failure(job, spec, &status, &tally, now);
    let complete = failure.is_none() && tally.complete(spec);
    suspend_condition(job, &mut status, suspended, now, &mut plan);

    tally.record(&mut status);
    if let Some(failure) = &failure {
        condition(
            &mut status,
            "FailureTarget",
            true,
            &failure.reason,
            &failure.message,
            now,
        );
    } else if complete {
        let message = "Reached expected number of succeeded pods";
        condition(
            &mut status,
            "SuccessCriteriaMet",
            true,
            "CompletionsReached",
            message,
            now,
        );
    }
    let ending = failure.is_some() || complete;
    if ending || suspended {
        delete(&tally.active, job, &mut plan);
    } else {
        create(job, spec, &tally, now, backoff, &mut plan);
    }
    if ending && tally.settled(&old) {
        finish(job, &mut status, failure.as_ref(), now, &mut plan);
    }
    deadline(spec, &status, now, &mut plan);
    if status != old {
        // The status first: finalizers may go only after the count is safe.
        let mut object = job.clone();
        object.status = Some(status);
        plan.actions.insert(
            0,
            Action::ReplaceStatus(resource::<Job>(), Box::new(encode(&object))),
        );
    } else {
        plan.actions.extend(tally.released.iter().cloned());
    }
    plan
}

fn finished(status: &JobStatus) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

fn is_true(status: &JobStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == kind && c.status == "True")
}

fn failure(
    job: &Job,
    spec: &JobSpec,
    status: &JobStatus,
    tally: &count::Tally,
    now: Timestamp,
) -> Option<Failure> {
    let standing = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "FailureTarget" && c.status == "True");
    if let Some(standing) = standing {
        return Some(Failure {
            reason: standing.reason.clone().unwrap_or_default(),
            message: standing.message.clone().unwrap_or_default(),
        });
    }
    if is_true(status, "SuccessCriteriaMet") {
        return None;
    }
    if let Some(message) = &tally.policy_failure {
        return Some(Failure {
            reason: "PodFailurePolicy".into(),
            message: message.clone(),
        });
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if tally.failed > limit || (tally.restarts > 0 && tally.restarts >= limit) {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(Failure {
            reason: "BackoffLimitExceeded".into(),
            message,
        });
    }
    let start = status
        .start_time
        .as_ref()
        .map(|t| t.0)
        .filter(|_| spec.suspend != Some(true));
    let over = spec.active_deadline_seconds.zip(start);
    if over.is_some_and(|(seconds, start)| now >= later(start, seconds)) {
        let message = format!(
            "Job {} was active longer than specified deadline",
            job.name_any()
        );
        return Some(Failure {
            reason: "DeadlineExceeded".into(),
            message,
        });
    }
    None
}

fn later(start: Timestamp, seconds: i64) -> Timestamp {
    start
        .saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

fn sooner(plan: &mut Plan, delay: Duration) {
    plan.again = Some(plan.again.map_or(delay, |known| known.min(delay)));
}

fn deadline(spec: &JobSpec, status: &JobStatus, now: Timestamp, plan: &mut Plan) {
    if let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, &status.start_time)
        && !finished(status)
    {
        sooner(plan, until(later(start.0, seconds), now));
    }
}

/// Sets a condition; its transition time changes only with its status.
fn condition(
    status: &mut JobStatus,
    kind: &str,
    value: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let word = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    if conditions
        .iter()
        .any(|c| c.type_ == kind && c.status == word)
    {
        return;
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: word.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

fn suspend_condition(
    job: &Job,
    status: &mut JobStatus,
    suspended: bool,
    now: Timestamp,
    plan: &mut Plan,
) {
    let was = is_true(status, "Suspended");
    if suspended && !was {
        condition(
            status,
            "Suspended",
            true,
            "JobSuspended",
            "Job suspended",
            now,
        );
        plan.actions
            .push(note(job, false, "Suspended", "Job suspended"));
    } else if !suspended && was {
        condition(status, "Suspended", false, "JobResumed", "Job resumed", now);
        plan.actions
            .push(note(job, false, "Resumed", "Job resumed"));
        status.start_time = Some(Time(now));
    }
    if suspended {
        status.start_time = None;
    }
}

fn delete(active: &[Arc<Pod>], job: &Job, plan: &mut Plan) {
    for pod in active {
        plan.actions.push(Action::Delete {
            resource: resource::<Pod>(),
            key: Key::of(&**pod),
            uid: pod.uid().unwrap_or_default(),
            propagation: PropagationPolicy::Background,
        });
        let message = format!("Deleted pod: {}", pod.name_any());
        plan.actions
            .push(note(job, false, "SuccessfulDelete", &message));
    }
}

fn create(
    job: &Job,
    spec: &JobSpec,
    tally: &count::Tally,
    now: Timestamp,
    backoff: Duration,
    plan: &mut Plan,
) {
    if let Some(ready) = tally.backoff_until(backoff).filter(|ready| *ready > now) {
        sooner(plan, until(ready, now));
        return;
    }
    for index in tally.wanted(spec) {
        let pod = pod::build(job, spec, index, tally);
        let message = format!("Created pod: {}", pod.name_any());
        plan.actions
            .push(Action::Create(resource::<Pod>(), Box::new(encode(&pod))));
        plan.actions
            .push(note(job, false, "SuccessfulCreate", &message));
    }
}

fn finish(
    job: &Job,
    status: &mut JobStatus,
    failure: Option<&Failure>,
    now: Timestamp,
    plan: &mut Plan,
) {
    match failure {
        Some(failure) => {
            condition(
                status,
                "Failed",
                true,
                &failure.reason,
                &failure.message,
                now,
            );
            plan.actions
                .push(note(job, true, &failure.reason, &failure.message));
        }
        None => {
            let message = "Reached expected number of succeeded pods";
            condition(status, "Complete", true, "CompletionsReached", message, now);
            status.completion_time = Some(Time(now));
            plan.actions
                .push(note(job, false, "Completed", "Job completed"));
        }
    }
}

fn note(job: &Job, warning: bool, reason: &str, message: &str) -> Action {
    Action::Event(Box::new(Note {
        about: reference(job),
        warning,
        reason: reason.to_owned(),
        message: message.to_owned(),
        component: COMPONENT,
    }))
}

/// A finished Job lets its pods go, and goes itself after its time to live.
fn expire(
    job: &Job,
    spec: &JobSpec,
    status: &JobStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan {
        actions: pods.iter().filter_map(count::release).collect(),
        again: None,
    };
    let end = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| matches!(c.type_.as_str(), "Complete" | "Failed"));
    let end = end
        .filter_map(|c| c.last_transition_time.as_ref())
        .map(|t| t.0)
        .max();
    if let (Some(seconds), Some(end), None) = (
        spec.ttl_seconds_after_finished,
        end,
        &job.metadata.deletion_timestamp,
    ) {
        let at = later(end, i64::from(seconds));
        if at > now {
            sooner(&mut plan, until(at, now));
        } else {
            plan.actions.push(Action::Delete {
                resource: resource::<Job>(),
                key: Key::of(job),
                uid: job.uid().unwrap_or_default(),
                propagation: PropagationPolicy::Foreground,
            });
        }
    }
    plan
}

/// The merge patch that replaces a pod's finalizers.
fn finalizers(pod: &Pod, left: &[String]) -> Action {
    let patch = json!({"metadata": {
        "resourceVersion": pod.resource_version(), "uid": pod.uid(), "finalizers": left
    }});
    Action::Patch(resource::<Pod>(), Key::of(pod), Box::new(patch))
}

#[cfg(test)]
mod tests;

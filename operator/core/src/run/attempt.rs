//! Owns the reading of Jobs and pods: what became of an attempt, and why. It must not decide what follows.

use bessemer_protocol::{ExitCode, Termination};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::ResourceExt;

use crate::label;
use crate::reason::{self, Reason};

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Held by `spec.suspend` of the Job; `pods` are still ending.
    Held {
        /// Pods that are still there.
        pods: bool,
    },
    /// The Job's controller has created no pod yet.
    Podless,
    /// No pod is running yet, for this reason if one shows.
    Starting(Option<(Reason, String)>),
    /// A pod is running, or has ended and the Job does not say so yet.
    Running,
    /// The Job succeeded.
    Succeeded,
    /// The Job failed.
    Failed(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Reason, if the attempt shows one of its own.
    pub reason: Reason,
    /// The worker's own sentence, or what Kubernetes says.
    pub message: String,
    /// Whether another attempt would end in the same way.
    pub terminal: bool,
    /// Whether it counts against retryLimit.
    pub counts: bool,
    /// When.
    pub at: Timestamp,
}

/// One Job of a run.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Its number, from 0.
    pub number: i32,
    /// Generation it was rendered from.
    pub generation: i64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The attempts of the run `short`, oldest first.
pub fn attempts<'a>(jobs: &'a [Job], pods: &'a [Pod], short: &str) -> Vec<Attempt<'a>> {
    let mut all: Vec<Attempt<'a>> = jobs
        .iter()
        .filter(|job| job.labels().get(label::RUN).is_some_and(|run| run == short))
        .map(|job| Attempt {
            job,
            number: number(job, label::ATTEMPT),
            generation: number(job, label::GENERATION),
            outcome: outcome(job, pods),
        })
        .collect();
    all.sort_by_key(|attempt| attempt.number);
    all
}

/// A numeric annotation, 0 if it has none.
pub fn number<T: std::str::FromStr + Default>(object: &impl kube::Resource, annotation: &str) -> T {
    let annotations = object.meta().annotations.as_ref();
    annotations
        .and_then(|all| all.get(annotation))
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// When the Job was created.
pub fn created(job: &Job) -> Option<Timestamp> {
    job.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// When the Job's controller first came to it.
pub fn begun(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    status.start_time.as_ref().map(|time| time.0)
}

/// When the Job's controller started it, or it was created.
pub fn started(job: &Job) -> Option<Timestamp> {
    begun(job).or_else(|| created(job))
}

/// When the Job ended.
pub fn ended(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"));
    let of_condition = || condition.and_then(|c| c.last_transition_time.as_ref());
    status
        .completion_time
        .as_ref()
        .or_else(of_condition)
        .map(|time| time.0)
}

fn outcome(job: &Job, pods: &[Pod]) -> Outcome {
    let own: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, job)).collect();
    let status = job.status.as_ref();
    let condition = |kind: &str| {
        status
            .and_then(|s| s.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|c| c.type_ == kind && c.status == "True")
    };
    if condition("Complete").is_some() {
        return Outcome::Succeeded;
    }
    if let Some(failed) = condition("Failed") {
        let at = ended(job).or_else(|| created(job)).unwrap_or_default();
        let why = failed.reason.clone().unwrap_or_default();
        let message = failed.message.clone().unwrap_or_default();
        let several = job.spec.as_ref().and_then(|spec| spec.completions) > Some(1);
        return Outcome::Failed(failure(&own, several, &why, &message, at));
    }
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        let pods = status.and_then(|s| s.active).unwrap_or(0) > 0
            || own
                .iter()
                .any(|pod| matches!(phase(pod), "Pending" | "Running"));
        return Outcome::Held { pods };
    }
    // A pod that has ended has run too, until the Job's controller has counted it: what began does not start again.
    let counted = status.is_some_and(|s| s.succeeded.unwrap_or(0) + s.failed.unwrap_or(0) > 0);
    if counted || own.iter().any(|pod| phase(pod) != "Pending") {
        return Outcome::Running;
    }
    if own.is_empty() {
        return Outcome::Podless;
    }
    Outcome::Starting(own.iter().find_map(|pod| hindrance(pod)))
}

/// Whether `pod` belongs to `job`.
pub fn is_of(pod: &Pod, job: &Job) -> bool {
    pod.owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
}

/// The phase of `pod`; one of which nothing is known yet is pending.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// A pod of `job` that was told to end and should have ended by the time given: its node does not answer.
pub fn ending<'a>(job: &Job, pods: &'a [Pod]) -> Option<(&'a Pod, Timestamp)> {
    let own = pods.iter().filter(|pod| is_of(pod, job));
    let ending = own.filter(|pod| !matches!(phase(pod), "Succeeded" | "Failed"));
    ending
        // The time of deletion has the grace period in it.
        .filter_map(|pod| Some((pod, pod.metadata.deletion_timestamp.as_ref()?.0)))
        .min_by_key(|(_, end)| *end)
}

/// What keeps a pod from starting.
pub fn hindrance(pod: &Pod) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|c| c.status == "False") {
        return Some((
            reason::UNSCHEDULABLE,
            condition
                .message
                .clone()
                .unwrap_or_else(|| "no node takes the pod".into()),
        ));
    }
    for container in status.container_statuses.iter().flatten() {
        let Some(waiting) = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref())
        else {
            continue;
        };
        let why = waiting.reason.clone().unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_else(|| why.clone());
        match why.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                return Some((reason::IMAGE_UNAVAILABLE, message));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return Some((reason::CONTAINER_CONFIG, message));
            }
            _ => {}
        }
    }
    None
}

fn failure(pods: &[&Pod], several: bool, why: &str, message: &str, at: Timestamp) -> Failure {
    if why == "DeadlineExceeded" {
        let message = "spec.activeDeadlineSeconds is over".into();
        return Failure {
            reason: reason::DEADLINE_EXCEEDED,
            message,
            terminal: true,
            counts: true,
            at,
        };
    }
    let ended = pods.iter().filter_map(|pod| Some((*pod, terminated(pod)?)));
    let ended: Vec<(&Pod, &ContainerStateTerminated)> =
        ended.filter(|(_, end)| end.exit_code != 0).collect();
    let code = |end: &ContainerStateTerminated| ExitCode::from_code(end.exit_code);
    // A terminal code of any rank decides, else the rank that ended first; the others failed because of it.
    let decisive = ended
        .iter()
        .find(|(_, end)| code(end).is_some_and(ExitCode::is_terminal))
        .or_else(|| ended.iter().min_by_key(|(_, end)| end.finished_at.clone()));
    let disrupted = pods.iter().any(|pod| is_disrupted(pod));
    let Some((pod, end)) = decisive else {
        let message = if message.is_empty() {
            "the pod is gone".to_owned()
        } else {
            message.to_owned()
        };
        return Failure {
            reason: reason::RETRIES_EXHAUSTED,
            message,
            terminal: false,
            counts: !disrupted,
            at,
        };
    };
    let code = code(end);
    let reason = match code {
        Some(ExitCode::BadConfig) => reason::BAD_CONFIG,
        Some(ExitCode::BadData) => reason::BAD_DATA,
        Some(ExitCode::MissingInput) => reason::MISSING_INPUT,
        Some(ExitCode::Environment) => reason::ENVIRONMENT,
        _ => reason::RETRIES_EXHAUSTED,
    };
    let terminal = code.is_some_and(ExitCode::is_terminal);
    Failure {
        reason,
        message: match rank(pod).filter(|_| several) {
            Some(rank) => format!("rank {rank}: {}", sentence(end)),
            None => sentence(end),
        },
        terminal,
        counts: !disrupted,
        at,
    }
}

/// The number of a pod among those of an Indexed Job.
fn rank(pod: &Pod) -> Option<&String> {
    pod.labels().get("batch.kubernetes.io/job-completion-index")
}

/// How the worker container of `pod` ended.
pub fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let mut containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    containers.find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

/// The worker's own sentence, or what Kubernetes says of its end.
pub fn sentence(end: &ContainerStateTerminated) -> String {
    let text = end.message.clone().unwrap_or_default();
    if let Some(own) = Termination::parse(&text) {
        let stop = if own.message.ends_with(['.', '!', '?']) {
            ""
        } else {
            "."
        };
        return if own.hint.is_empty() {
            own.message
        } else {
            format!("{}{stop} {}", own.message, own.hint)
        };
    }
    let why = end.reason.clone().unwrap_or_default();
    if why == "OOMKilled" {
        return "the worker ran out of memory; raise spec.resources.memory".into();
    }
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::trim)
        .unwrap_or_default();
    match (end.signal, last) {
        (Some(signal), "") => format!("the worker was killed by signal {signal}"),
        (_, "") => format!("the worker ended with exit code {}", end.exit_code),
        (_, last) => format!("the worker ended with exit code {}: {last}", end.exit_code),
    }
}

fn is_disrupted(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "DisruptionTarget" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is told of a failed Job whose pods ended with (exit code, message, second).
    fn told(ends: &[(i32, &str, u32)]) -> Failure {
        let job = serde_json::from_value(json!({
            "metadata": {"uid": "job"}, "spec": {"completions": ends.len(), "template": {}},
            "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
        }));
        let pods = ends.iter().enumerate().map(|(rank, (code, message, second))| {
            serde_json::from_value(json!({
                "metadata": {
                    "labels": {"batch.kubernetes.io/job-completion-index": rank.to_string()},
                    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "job"}]
                },
                "status": {"containerStatuses": [{
                    "name": "worker", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"terminated": {
                        "exitCode": code, "message": message, "finishedAt": format!("2026-01-01T00:00:{second:02}Z")
                    }}
                }]}
            }))
            .unwrap()
        });
        match outcome(&job.unwrap(), &pods.collect::<Vec<_>>()) {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_several_ranks_the_one_that_ended_first_is_named_unless_another_shows_a_terminal_error() {
        let lost = (137, "", 5);
        let survivor = (
            75,
            r#"{"category":"RankLost","message":"rank 1 is lost"}"#,
            9,
        );
        let damaged = (
            66,
            r#"{"category":"X","message":"a checkpoint is damaged"}"#,
            9,
        );
        let killed = "the worker ended with exit code 137";
        assert_eq!(told(&[survivor, lost]).message, format!("rank 1: {killed}"));
        assert_eq!(told(&[lost, survivor]).message, format!("rank 0: {killed}"));
        let failure = told(&[lost, survivor, damaged]);
        assert_eq!(failure.message, "rank 2: a checkpoint is damaged");
        assert!(failure.terminal && !told(&[lost, survivor]).terminal);
        assert_eq!(told(&[lost]).message, killed);
    }
}

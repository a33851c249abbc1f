//! Counting a Job's pods: owns the tally of active, succeeded and failed pods and its safe
//! passage into the status. It must not decide whether the Job ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::policy::{Verdict, judge};
use crate::controller::action::Action;
use crate::controller::ready_since;

/// Finalizer that keeps a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with a pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What the pods amount to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Neither finished nor being deleted.
    pub active: Vec<Arc<Pod>>,
    /// Indexes with a running, terminating or succeeded pod: not to be filled again.
    taken: BTreeSet<i32>,
    /// Indexes that succeeded.
    pub completed: BTreeSet<i32>,
    /// Failed pods that count, the status' count included.
    pub failed: i32,
    /// Succeeded pods (NonIndexed), the status' count included.
    pub succeeded: i32,
    /// Restarts of containers in place (restartPolicy OnFailure).
    pub restarts: i32,
    /// Message of the rule that fails the Job.
    pub policy_failure: Option<String>,
    /// Finalizers to remove now that their pods are in the status.
    pub released: Vec<Action>,
    /// Index and name of all pods, for names that were not used yet; -1 for those without an index.
    pub names: BTreeSet<(i32, String)>,
    indexed: bool,
    ready: i32,
    terminating: i32,
    /// Not yet free of the finalizer, or uid still uncounted.
    unsettled: usize,
    failures: Vec<Timestamp>,
    uncounted_failed: Vec<String>,
    uncounted_succeeded: Vec<String>,
    counted_failed: i32,
    counted_succeeded: i32,
}

impl Tally {
    /// Counts `pods` on top of what `old` already counts.
    pub fn of(spec: &JobSpec, old: &JobStatus, pods: &[Arc<Pod>], suspended: bool) -> Self {
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let mut tally = Self {
            indexed,
            completed: parse_indexes(old.completed_indexes.as_deref().unwrap_or_default()),
            failed: old.failed.unwrap_or_default(),
            succeeded: old.succeeded.unwrap_or_default(),
            ..Self::default()
        };
        let uncounted = old.uncounted_terminated_pods.clone().unwrap_or_default();
        let known_failed: BTreeSet<String> =
            uncounted.failed.unwrap_or_default().into_iter().collect();
        let known_succeeded: BTreeSet<String> = uncounted
            .succeeded
            .unwrap_or_default()
            .into_iter()
            .collect();
        let recorded = tally.completed.clone();
        let mut tracked = BTreeSet::new();
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            let phase = pod
                .status
                .as_ref()
                .and_then(|s| s.phase.as_deref())
                .unwrap_or("Pending");
            let index = index(pod);
            tally.names.insert((index.unwrap_or(-1), pod.name_any()));
            let held = pod.finalizers().iter().any(|f| f == TRACKING);
            if held {
                tracked.insert(uid.clone());
            }
            let deleted = pod.metadata.deletion_timestamp.is_some();
            let waits = spec.pod_replacement_policy.as_deref() == Some("Failed") || suspended;
            match phase {
                "Succeeded" if indexed => {
                    tally.completed.extend(index);
                    if index.is_some_and(|i| recorded.contains(&i)) {
                        tally.released.extend(release(pod));
                    }
                }
                "Succeeded" => tally.settle(pod, &uid, held, &known_succeeded, true),
                // Ended by the suspension: that is nobody's failure.
                "Failed" if deleted && suspended => tally.released.extend(release(pod)),
                "Failed" => tally.fail(spec, pod, &uid, held, &known_failed),
                _ if deleted && !waits => {
                    tally.terminating += 1;
                    tally.fail(spec, pod, &uid, held, &known_failed);
                }
                _ if deleted => {
                    tally.terminating += 1;
                    tally.taken.extend(index);
                    // Unbound pods never run a kubelet's last act, so nobody else would let them go.
                    if pod.spec.as_ref().is_none_or(|s| s.node_name.is_none()) {
                        tally.released.extend(release(pod));
                    }
                }
                _ => {
                    tally.taken.extend(index);
                    tally.restarts += restarts(pod);
                    tally.ready += i32::from(ready_since(pod).is_some());
                    tally.active.push(pod.clone());
                }
            }
            tally.unsettled += usize::from(held && matches!(phase, "Succeeded" | "Failed"));
        }
        // A uid whose pod has lost the finalizer (or is gone) moves into the count.
        for uid in &known_failed {
            if tracked.contains(uid) {
                tally.uncounted_failed.push(uid.clone());
            } else {
                tally.counted_failed += 1;
                tally.failed += i32::from(!pods.iter().any(|p| p.uid().as_ref() == Some(uid)));
            }
        }
        for uid in &known_succeeded {
            if tracked.contains(uid) {
                tally.uncounted_succeeded.push(uid.clone());
            } else {
                tally.counted_succeeded += 1;
                tally.succeeded += i32::from(!pods.iter().any(|p| p.uid().as_ref() == Some(uid)));
            }
        }
        tally.unsettled += tally.uncounted_failed.len() + tally.uncounted_succeeded.len();
        tally
    }

    fn fail(
        &mut self,
        spec: &JobSpec,
        pod: &Arc<Pod>,
        uid: &str,
        held: bool,
        known: &BTreeSet<String>,
    ) {
        let phase_failed = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed");
        let verdict = if phase_failed {
            judge(spec, pod)
        } else {
            Verdict::Count
        };
        if verdict == Verdict::Count {
            self.failures.push(finish_time(pod));
        }
        if !held && !known.contains(uid) {
            return;
        }
        match verdict {
            Verdict::Ignore => {
                self.released.extend(release(pod));
                return;
            }
            Verdict::FailJob(message) => {
                self.policy_failure.get_or_insert(message);
            }
            Verdict::Count => {}
        }
        self.failed += 1;
        self.settle(pod, uid, held, known, false);
    }

    fn settle(
        &mut self,
        pod: &Arc<Pod>,
        uid: &str,
        held: bool,
        known: &BTreeSet<String>,
        success: bool,
    ) {
        if success && (held || known.contains(uid)) {
            self.succeeded += 1;
        }
        if !held {
            return;
        }
        if known.contains(uid) {
            self.released.extend(release(pod));
        } else if success {
            self.uncounted_succeeded.push(uid.to_owned());
        } else {
            self.uncounted_failed.push(uid.to_owned());
        }
    }

    /// Writes the tally into the status.
    pub fn record(&self, status: &mut JobStatus) {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        status.active = Some(count(self.active.len())).filter(|n| *n > 0);
        status.ready = Some(self.ready);
        status.terminating = Some(self.terminating);
        let failed = status.failed.unwrap_or_default() + self.counted_failed;
        status.failed = Some(failed).filter(|n| *n > 0);
        if self.indexed {
            status.completed_indexes =
                Some(format_indexes(&self.completed)).filter(|s| !s.is_empty());
            status.succeeded = Some(count(self.completed.len())).filter(|n| *n > 0);
        } else {
            let succeeded = status.succeeded.unwrap_or_default() + self.counted_succeeded;
            status.succeeded = Some(succeeded).filter(|n| *n > 0);
        }
        let list = |uids: &[String]| {
            (!uids.is_empty()).then(|| {
                uids.iter()
                    .cloned()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect()
            })
        };
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        uncounted.failed = list(&self.uncounted_failed);
        uncounted.succeeded = list(&self.uncounted_succeeded);
    }

    /// Whether the Job has what it was to produce.
    pub fn complete(&self, spec: &JobSpec) -> bool {
        match spec.completions {
            Some(wanted) if self.indexed => {
                i32::try_from(self.completed.len()).is_ok_and(|n| n >= wanted)
            }
            Some(wanted) => self.succeeded >= wanted,
            None => self.succeeded > 0 && self.active.is_empty(),
        }
    }

    /// Whether every pod has ended and is counted in `old`, so that the Job may end.
    pub fn settled(&self, old: &JobStatus) -> bool {
        let recorded = parse_indexes(old.completed_indexes.as_deref().unwrap_or_default());
        self.active.is_empty()
            && self.terminating == 0
            && self.unsettled == 0
            && self.counted_failed == 0
            && self.counted_succeeded == 0
            && (!self.indexed || recorded == self.completed)
    }

    /// When the next pod may be made after failures.
    pub fn backoff_until(&self, first: Duration) -> Option<Timestamp> {
        let last = self.failures.iter().max()?;
        let doublings = u32::try_from(self.failed.saturating_sub(1))
            .unwrap_or(0)
            .min(20);
        let delay = first
            .saturating_mul(1 << doublings)
            .min(Duration::from_secs(600));
        let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
        Some(last.saturating_add(delay).unwrap_or(Timestamp::MAX))
    }

    /// Indexes (or -1 for NonIndexed) that need a pod now.
    pub fn wanted(&self, spec: &JobSpec) -> Vec<i32> {
        let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let running = self.active.len();
        let room = parallelism.saturating_sub(running);
        if self.indexed {
            let all = 0..spec.completions.unwrap_or(0);
            let open = all.filter(|i| !self.taken.contains(i) && !self.completed.contains(i));
            return open.take(room).collect();
        }
        let left = spec
            .completions
            .map_or(if self.succeeded > 0 { 0 } else { parallelism }, |wanted| {
                usize::try_from(wanted - self.succeeded).unwrap_or(0)
            });
        vec![-1; room.min(left.saturating_sub(running))]
    }
}

/// Removes the tracking finalizer, if the pod has it.
pub fn release(pod: &Arc<Pod>) -> Option<Action> {
    let left: Vec<String> = pod
        .finalizers()
        .iter()
        .filter(|f| *f != TRACKING)
        .cloned()
        .collect();
    (left.len() != pod.finalizers().len()).then(|| super::finalizers(pod, &left))
}

fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

fn restarts(pod: &Pod) -> i32 {
    let in_place = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    if in_place {
        statuses.map(|c| c.restart_count).sum()
    } else {
        0
    }
}

fn finish_time(pod: &Pod) -> Timestamp {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|c| {
        c.state
            .as_ref()?
            .terminated
            .as_ref()?
            .finished_at
            .as_ref()
            .map(|t| t.0)
    });
    let created = pod
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    ends.max().unwrap_or(created)
}

/// `0-2,5` as numbers; what does not parse is left out.
pub fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// Numbers as `0-2,5`, the way kube-controller-manager writes them.
pub fn format_indexes(all: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in all {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

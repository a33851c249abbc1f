//! Owns the decision for a run that has a desired state: what became of its attempts gives the stage, the stage gives
//! actions and status. It must not decide about runs that have ended.

use bessemer_api::{Artifact, CommonStatus};
use bessemer_protocol::Task;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::attempt::{self, Attempt, Failure, Outcome};
use super::plan::{delete, delete_children, finish};
use super::status::{self, Told};
use super::{Identity, News, Run, RunKind, render};
use crate::action::{Action, ObjectRef};
use crate::condition::{self, FAILED, READY, Verdict, whole_seconds};
use crate::kind::{Kind, Observed};
use crate::label;
use crate::plan::Plan;
use crate::query::{Answer, Artefact, Checkpoint, Query, Received};
use crate::reason::{self, Reason};
use crate::settings::Settings;

/// Seconds that a Job may be without a pod before it is asked why.
const POD_SECONDS: u64 = 10;
/// Seconds after which a pod that should have ended is given up with its node: a kubelet that answers takes one or two.
const NODE_SECONDS: i64 = 60;
/// Seconds until a store that did not answer is asked again.
const STORE_SECONDS: u64 = 10;

/// A run with a desired state, and all that is observed of it.
pub(super) struct Stage<'a, K> {
    observed: &'a Observed<K>,
    settings: &'a Settings,
    old: &'a CommonStatus,
    run: &'a Run,
    identity: Identity,
    attempts: Vec<Attempt<'a>>,
    generation: i64,
    same_run: bool,
}

impl<'a, K: RunKind> Stage<'a, K> {
    pub(super) fn new(
        observed: &'a Observed<K>,
        settings: &'a Settings,
        old: &'a CommonStatus,
        run: &'a Run,
        identity: Identity,
    ) -> Self {
        let generation = observed.object.meta().generation.unwrap_or_default();
        let ended = condition::is_true(&old.conditions, FAILED);
        let same_run = old.run_key.as_ref() == Some(&identity.run_key)
            && old.restart_nonce == identity.nonce
            && !ended;
        let attempts = attempt::attempts(
            &observed.children.jobs,
            &observed.children.pods,
            &identity.short,
        );
        Self {
            observed,
            settings,
            old,
            run,
            identity,
            attempts,
            generation,
            same_run,
        }
    }

    pub(super) fn plan(&self) -> Result<Plan, Vec<Query>> {
        let mut plan = Plan {
            actions: delete_children(self.observed, |run| run != self.identity.short),
            ..Plan::default()
        };
        let last = self.attempts.last();
        let suspend = self.observed.object.policy().0.suspend;
        if suspend && !matches!(last.map(|a| &a.outcome), Some(Outcome::Succeeded)) {
            self.suspend(&mut plan, last);
            return Ok(plan);
        }
        if self.is_overdue() && !matches!(last.map(|a| &a.outcome), Some(Outcome::Succeeded)) {
            plan.actions.extend(self.active().map(|a| delete(a.job)));
            let seconds = self
                .observed
                .object
                .policy()
                .1
                .active_deadline_seconds
                .unwrap_or_default();
            let message =
                format!("the run took longer than spec.activeDeadlineSeconds ({seconds})");
            self.fail(&mut plan, reason::DEADLINE_EXCEEDED, message);
            return Ok(plan);
        }
        match last {
            None => match self.pointer(&mut plan)? {
                Found::Here(artefact) => self.complete(&mut plan, &artefact, reason::CACHED),
                Found::Nothing => {
                    // Kept where a Job was given up with its node.
                    let lost = self.old.lost_work_seconds.filter(|_| self.same_run);
                    self.start(&mut plan, lost.unwrap_or(0));
                }
                Found::Told => {}
            },
            Some(last) if last.job.metadata.deletion_timestamp.is_some() => {
                self.tell(&mut plan, reason::STARTING, "the last Job is ending".into());
            }
            Some(last) if self.gave_up(&mut plan, last)? => {}
            Some(last) => match &last.outcome {
                Outcome::Held { .. } => self.held(&mut plan, last),
                Outcome::Podless => self.podless(&mut plan, last)?,
                Outcome::Starting(Some((reason, message))) => {
                    self.tell(&mut plan, *reason, message.clone())
                }
                Outcome::Starting(None) => {
                    self.tell(&mut plan, reason::STARTING, starting(last.number))
                }
                Outcome::Running => self.running(&mut plan, last),
                Outcome::Succeeded => match self.pointer(&mut plan)? {
                    Found::Here(artefact) => self.complete(&mut plan, &artefact, reason::COMPLETE),
                    Found::Nothing => {
                        let message = "the Job succeeded but no artefact is in the object store";
                        self.fail(&mut plan, reason::RESULT_MISSING, message.into());
                    }
                    Found::Told => {}
                },
                Outcome::Failed(failure) => match self.pointer(&mut plan)? {
                    Found::Here(artefact) => self.complete(&mut plan, &artefact, reason::COMPLETE),
                    Found::Nothing => self.failed(&mut plan, last, failure)?,
                    Found::Told => {}
                },
            },
        }
        self.watch_deadline(&mut plan);
        Ok(plan)
    }

    fn active(&self) -> impl Iterator<Item = &Attempt<'a>> {
        self.attempts.iter().filter(|attempt| {
            attempt.job.metadata.deletion_timestamp.is_none()
                && !matches!(attempt.outcome, Outcome::Succeeded | Outcome::Failed(_))
        })
    }

    fn suspend(&self, plan: &mut Plan, last: Option<&Attempt<'a>>) {
        let queued = self.observed.object.policy().0.queue_name.is_some();
        let mut ending = false;
        for attempt in self.active() {
            match attempt.outcome {
                Outcome::Held { pods } => ending |= pods,
                // Under Kueue `suspend` is not ours; deleting the Job gives its quota back.
                _ if queued => {
                    ending = true;
                    plan.actions.push(delete(attempt.job));
                }
                _ => {
                    ending = true;
                    plan.actions.push(Action::Suspend {
                        job: ObjectRef::of(attempt.job),
                    });
                }
            }
        }
        ending |= last.is_some_and(|attempt| attempt.job.metadata.deletion_timestamp.is_some());
        let told = if ending {
            Told::new(
                Verdict::InProgress,
                reason::SUSPENDING,
                "the worker writes a checkpoint and ends",
            )
        } else {
            Told::new(
                Verdict::Suspended,
                reason::SUSPENDED,
                "spec.suspend is true",
            )
        };
        let mut common = self.common();
        common.start_time = None; // the deadline counts from the resume, as for a Job
        self.finish(plan, common, &told, self.progress(last), None);
    }

    fn held(&self, plan: &mut Plan, last: &Attempt<'a>) {
        if self.observed.object.policy().0.queue_name.is_some() {
            return self.tell(
                plan,
                reason::QUEUED,
                "the Job waits for admission by Kueue".into(),
            );
        }
        plan.actions.push(Action::Resume {
            job: ObjectRef::of(last.job),
        });
        self.tell(plan, reason::STARTING, "the Job is resumed".into());
    }

    fn running(&self, plan: &mut Plan, last: &Attempt<'a>) {
        let mut common = self.common();
        let told = Told::new(
            Verdict::InProgress,
            reason::RUNNING,
            format!("attempt {} is running", last.number + 1),
        );
        let received = self.progress(Some(last));
        if let Some(received) = received {
            let old = self.old.progress.as_ref().filter(|_| self.same_run);
            let steady = condition::find(&self.old.conditions, READY)
                .is_some_and(|c| c.reason == reason::RUNNING.word);
            let (progress, again) = status::coalesce(
                old,
                status::report(old, received),
                self.observed.now,
                steady && self.same_run,
            );
            // What is not told yet must not reach the kind's own fields either.
            let received = again.is_none().then_some(received);
            common.progress = Some(progress);
            if let Some(seconds) = again {
                plan.look_again(seconds);
            }
            return self.finish(plan, common, &told, received, None);
        }
        self.finish(plan, common, &told, None, None);
    }

    /// Kubernetes ends nothing on a node that does not answer, and replaces no pod of a Job whose end is not certain: that may
    /// last for ever. The worker may still be at work there, beside the next one: whoever commits first is the run's result.
    fn gave_up(&self, plan: &mut Plan, last: &Attempt<'a>) -> Result<bool, Vec<Query>> {
        if matches!(
            last.outcome,
            Outcome::Succeeded | Outcome::Failed(_) | Outcome::Held { .. }
        ) {
            return Ok(false);
        }
        let Some((pod, end)) = attempt::ending(last.job, &self.observed.children.pods) else {
            return Ok(false);
        };
        let late = self.observed.now.as_second() - end.as_second();
        if late < NODE_SECONDS {
            plan.look_again(u64::try_from(NODE_SECONDS - late).unwrap_or(1));
            return Ok(false);
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "pod {name} should have ended {late} s ago: its node does not answer; attempt {} is given up",
            last.number + 1
        );
        let checkpoint = self.checkpoint()?;
        let mut common = self.common();
        common.lost_work_seconds = Some(self.lost(last, end, checkpoint.as_ref()));
        plan.actions.push(delete(last.job));
        let told = Told::new(Verdict::InProgress, reason::NODE_LOST, message);
        self.finish(plan, common, &told, self.progress(Some(last)), None);
        Ok(true)
    }

    /// Reads what became of a failed attempt and either ends the run or opens the next attempt.
    fn failed(
        &self,
        plan: &mut Plan,
        last: &Attempt<'a>,
        failure: &Failure,
    ) -> Result<(), Vec<Query>> {
        let checkpoint = self.checkpoint()?;
        let lost = self.lost(last, failure.at, checkpoint.as_ref());
        if last.generation < self.generation {
            self.start(plan, lost); // the spec changed since: a new run of the same content
            return Ok(());
        }
        if failure.terminal {
            self.fail(plan, failure.reason, failure.message.clone());
            return Ok(());
        }
        let counted = self.attempts.iter().filter(|attempt| {
            attempt.generation == self.generation
                && matches!(&attempt.outcome, Outcome::Failed(f) if f.counts)
        });
        let counted = i32::try_from(counted.count()).unwrap_or(i32::MAX);
        let limit = self.observed.object.policy().1.retry_limit;
        if counted > limit {
            let message = format!(
                "{counted} attempts failed, the last one so: {}",
                failure.message
            );
            self.fail(plan, reason::RETRIES_EXHAUSTED, message);
            return Ok(());
        }
        let pause = 1i64 << u32::try_from(counted.saturating_sub(1)).unwrap_or(0).min(8);
        let left = failure
            .at
            .as_second()
            .saturating_add(pause)
            .saturating_sub(self.observed.now.as_second());
        if left <= 0 {
            self.start(plan, lost);
        } else {
            plan.look_again(u64::try_from(left).unwrap_or(1));
            let message = format!("attempt {} failed: {}", last.number + 1, failure.message);
            self.tell(plan, reason::RETRYING, message);
        }
        Ok(())
    }

    /// Seconds of work that no checkpoint holds, over all attempts so far.
    fn lost(&self, last: &Attempt<'a>, end: Timestamp, checkpoint: Option<&Checkpoint>) -> i64 {
        let begun = attempt::started(last.job).unwrap_or(end);
        let kept = checkpoint.map_or(begun, |checkpoint| checkpoint.time.max(begun));
        let seconds = end.as_second().saturating_sub(kept.as_second()).max(0);
        attempt::number::<i64>(last.job, label::LOST).saturating_add(seconds)
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, Vec<Query>> {
        if !matches!(self.run.task, Task::Train(_) | Task::Tune(_)) {
            return Ok(None);
        }
        let object = self.observed.object.key();
        let query = Query::Checkpoint {
            object,
            run_key: self.identity.run_key.clone(),
        };
        match self.observed.facts.get(&query) {
            None => Err(vec![query]),
            Some(Answer::Checkpoint(found)) => Ok(found.clone()),
            Some(_) => Ok(None), // only the account of lost work depends on it
        }
    }

    /// Looks for the artefact of the run.
    fn pointer(&self, plan: &mut Plan) -> Result<Found, Vec<Query>> {
        let object = self.observed.object.key();
        let query = Query::Run {
            object,
            run_key: self.identity.run_key.clone(),
        };
        match self.observed.facts.get(&query) {
            None => Err(vec![query]),
            Some(Answer::Run(Some(artefact))) => Ok(Found::Here(Box::new(artefact.clone()))),
            Some(Answer::Run(None)) => Ok(Found::Nothing),
            Some(Answer::Refused(why)) => {
                self.fail(plan, reason::ARTIFACT_CORRUPT, why.clone());
                Ok(Found::Told)
            }
            Some(Answer::Unavailable(why)) => {
                plan.look_again(STORE_SECONDS);
                self.tell(plan, reason::STORAGE_UNAVAILABLE, why.clone());
                Ok(Found::Told)
            }
            Some(_) => {
                plan.look_again(STORE_SECONDS);
                self.tell(
                    plan,
                    reason::STORAGE_UNAVAILABLE,
                    "the store's answer does not fit the question".into(),
                );
                Ok(Found::Told)
            }
        }
    }

    fn start(&self, plan: &mut Plan, lost: i64) {
        let after = self.attempts.last().map_or(0, |attempt| attempt.number + 1);
        let told = self.old.attempts.filter(|_| self.same_run).unwrap_or(0);
        let number = after.max(told);
        let rendered = render(
            &self.observed.object,
            self.run,
            &self.identity,
            number,
            lost,
            self.settings,
        );
        let mut common = self.common();
        common.attempts = Some(number + 1);
        common.lost_work_seconds = Some(lost);
        common.template_version = Some(crate::pod::TEMPLATE_VERSION);
        common.template_hash = Some(rendered.template_hash.clone());
        plan.actions.extend(
            rendered
                .into_objects()
                .into_iter()
                .map(|object| Action::Create { object }),
        );
        let told = Told::new(Verdict::InProgress, reason::STARTING, starting(number));
        self.finish(plan, common, &told, None, None);
    }

    fn complete(&self, plan: &mut Plan, artefact: &Artefact, reason: Reason) {
        let mut common = self.common();
        let end = self
            .attempts
            .last()
            .and_then(|attempt| attempt::ended(attempt.job))
            .unwrap_or(self.observed.now);
        common.completion_time = Some(Time(whole_seconds(end)));
        common.inputs = self.run.input_digests();
        common.artifact = Some(Artifact {
            uri: artefact.uri.clone(),
            digest: artefact.digest.clone(),
            size_bytes: i64::try_from(artefact.size_bytes).unwrap_or(i64::MAX),
        });
        let last = self.progress(self.attempts.last());
        let before = last
            .map(|received| status::report(common.progress.as_ref(), received))
            .or(common.progress);
        common.progress = Some(status::complete(before.as_ref()));
        let short: String = artefact.digest.chars().take(12).collect();
        let message = if reason == reason::CACHED {
            format!("an artefact of the same content was found: {short}")
        } else {
            format!("the artefact is {short}")
        };
        self.finish(
            plan,
            common,
            &Told::new(Verdict::Complete, reason, message),
            last,
            Some(artefact),
        );
    }

    fn fail(&self, plan: &mut Plan, reason: Reason, message: String) {
        let mut common = self.common();
        common.completion_time = Some(Time(whole_seconds(self.observed.now)));
        self.finish(
            plan,
            common,
            &Told::new(Verdict::Failed, reason, message),
            None,
            None,
        );
    }

    /// Pods come within a second unless something refuses them: a quota, a policy.
    fn podless(&self, plan: &mut Plan, last: &Attempt<'a>) -> Result<(), Vec<Query>> {
        let mut told = (reason::STARTING, starting(last.number));
        // A controller that has not come to the Job yet, one of many, has been refused nothing, and the Job will tell.
        if let Some(since) = attempt::begun(last.job) {
            let waited = self.observed.now.as_second() - since.as_second();
            let waited = u64::try_from(waited).unwrap_or(0);
            if waited >= POD_SECONDS {
                let query = Query::PodRefusal {
                    namespace: self.observed.object.key().namespace,
                    job: last.job.uid().unwrap_or_default(),
                };
                match self.observed.facts.get(&query) {
                    None => return Err(vec![query]),
                    Some(Answer::Refusal(Some(words))) => {
                        told = (reason::POD_REFUSED, words.clone());
                    }
                    Some(_) => {}
                }
            }
            // The longer it lasts, the rarer it is asked for.
            plan.look_again((waited / 2).clamp(POD_SECONDS, 600));
        }
        self.tell(plan, told.0, told.1);
        Ok(())
    }

    fn tell(&self, plan: &mut Plan, reason: Reason, message: String) {
        self.finish(
            plan,
            self.common(),
            &Told::new(Verdict::InProgress, reason, message),
            None,
            None,
        );
    }

    fn finish(
        &self,
        plan: &mut Plan,
        mut common: CommonStatus,
        told: &Told,
        progress: Option<&Received>,
        artefact: Option<&Artefact>,
    ) {
        let news = News {
            artefact,
            progress,
            same_run: self.same_run,
        };
        finish(self.observed, plan, self.old, &mut common, told, news);
    }

    /// The status of this run before the verdict: what the Jobs show wins over what was told.
    fn common(&self) -> CommonStatus {
        let mut common = status::of_run(self.observed, self.old, &self.identity, self.same_run);
        common.completion_time = None;
        if let Some(last) = self.attempts.last() {
            common.attempts = Some(common.attempts.unwrap_or(0).max(last.number + 1));
            common.lost_work_seconds = Some(attempt::number(last.job, label::LOST));
            common.template_version = Some(attempt::number(last.job, label::TEMPLATE));
            common.template_hash = last.job.annotations().get(label::TEMPLATE_HASH).cloned();
        }
        if common.start_time.is_none() {
            common.start_time = Some(Time(whole_seconds(
                self.begun().unwrap_or(self.observed.now),
            )));
        }
        common
    }

    fn begun(&self) -> Option<Timestamp> {
        self.attempts
            .iter()
            .filter_map(|attempt| attempt::started(attempt.job))
            .min()
    }

    /// The report of the attempt, if the last one received is of it.
    fn progress(&self, attempt: Option<&Attempt<'a>>) -> Option<&'a Received> {
        let attempt = attempt?;
        let uid = self.observed.object.meta().uid.as_deref()?;
        self.observed.facts.progress.as_ref().filter(|received| {
            let report = &received.report;
            report.uid == uid
                && report.run_key == self.identity.run_key
                && i64::from(report.attempt) == i64::from(attempt.number)
        })
    }

    fn deadline(&self) -> Option<i64> {
        let seconds = self.observed.object.policy().1.active_deadline_seconds?;
        let told = self
            .old
            .start_time
            .as_ref()
            .filter(|_| self.same_run)
            .map(|time| time.0);
        let start = told.or_else(|| self.begun()).unwrap_or(self.observed.now);
        Some(start.as_second().saturating_add(seconds))
    }

    fn is_overdue(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| deadline <= self.observed.now.as_second())
    }

    fn watch_deadline(&self, plan: &mut Plan) {
        if let Some(deadline) = self.deadline() {
            plan.look_again(u64::try_from(deadline - self.observed.now.as_second()).unwrap_or(1));
        }
    }
}

/// The same words until something runs, so that they are written once.
fn starting(number: i32) -> String {
    format!("attempt {} is starting", number + 1)
}

/// What the look for an artefact gave.
enum Found {
    Here(Box<Artefact>),
    Nothing,
    /// The plan already tells why nothing more can be done now.
    Told,
}

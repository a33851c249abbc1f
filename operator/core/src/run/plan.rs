//! Owns the decision for run-to-completion kinds before there is a stage: deletion, runs that have ended, specs without a
//! desired state. It must not read status as truth but for terminal states, which absorb per run.

use bessemer_api::CommonStatus;
use bessemer_protocol::RunConfig;
use kube::{Resource, ResourceExt};

use super::attempt::{self, Outcome};
use super::stage::Stage;
use super::status::{self, Told};
use super::{CONFIG_FILE, Identity, News, Run, RunKind, cleanup};
use crate::action::{Action, ObjectRef, Propagation};
use crate::condition::{self, COMPLETE, FAILED, INPUTS_CHANGED, READY, Verdict, Wanted};
use crate::kind::{Kind, Observed};
use crate::label;
use crate::plan::Plan;
use crate::query::Query;
use crate::reason::{self, Halt, Invalid};
use crate::settings::Settings;

/// The decision.
pub fn plan<K: RunKind>(observed: &Observed<K>, settings: &Settings) -> Plan {
    let object = &observed.object;
    let mut plan = if object.meta().deletion_timestamp.is_some() {
        cleanup::plan(observed, settings)
    } else {
        match living(observed, settings) {
            Ok(mut plan) => {
                if let Some(action) = cleanup::finalizer(object) {
                    plan.actions.insert(0, action);
                }
                plan
            }
            Err(queries) => Plan::ask(queries),
        }
    };
    if object
        .annotations()
        .get(label::PAUSED)
        .is_some_and(|value| value == "true")
    {
        plan.actions.clear();
    }
    plan
}

fn living<K: RunKind>(observed: &Observed<K>, settings: &Settings) -> Result<Plan, Vec<Query>> {
    let object = &observed.object;
    let generation = object.meta().generation.unwrap_or_default();
    let nonce = object.policy().1.restart_nonce.clone();
    let old = object.common().cloned().unwrap_or_default();
    let resolved = match K::resolve(observed, settings) {
        Ok(run) => Ok(run),
        Err(Halt::Ask(queries)) => return Err(queries),
        Err(Halt::Invalid(invalid)) => Err(invalid),
    };
    if let Some(plan) = absorbed(
        observed,
        &old,
        generation,
        nonce.as_ref(),
        resolved.as_ref().ok(),
    ) {
        return Ok(plan);
    }
    let pinned = pinned(observed, generation, nonce.as_deref());
    let run = match (pinned, resolved) {
        // The same inputs: what was rendered stays, even if a default has changed with the operator's version.
        (Some(pinned), Ok(run))
            if K::KEEPS_RUN || pinned.input_digests() == run.input_digests() =>
        {
            pinned
        }
        (Some(pinned), Err(_)) => pinned,
        (_, Ok(run)) => run,
        (None, Err(invalid)) => return Ok(halted(observed, &old, generation, invalid)),
    };
    match run.run_key() {
        Ok(run_key) => Stage::new(
            observed,
            settings,
            &old,
            &run,
            Identity::new(run_key, nonce),
        )
        .plan(),
        Err(invalid) => Ok(halted(observed, &old, generation, invalid)),
    }
}

/// A run that has ended stays ended: its status is kept, its remains go when their time is over.
fn absorbed<K: RunKind>(
    observed: &Observed<K>,
    old: &CommonStatus,
    generation: i64,
    nonce: Option<&String>,
    resolved: Option<&Run>,
) -> Option<Plan> {
    let complete = condition::is_true(&old.conditions, COMPLETE);
    let failed = condition::is_true(&old.conditions, FAILED);
    let answers_spec =
        old.observed_generation == Some(generation) && old.restart_nonce.as_ref() == nonce;
    if !(complete || failed) || !answers_spec || old.run_key.is_none() {
        return None;
    }
    let same_inputs = resolved.is_none_or(|run| run.input_digests() == old.inputs);
    let same_run = if failed {
        resolved.is_none_or(|run| run.run_key().ok() == old.run_key)
    } else {
        same_inputs
    };
    if !K::KEEPS_RUN && !same_run {
        return None;
    }
    let ready = condition::find(&old.conditions, READY);
    let reason = ready
        .and_then(|c| reason::find(&c.reason))
        .unwrap_or(reason::COMPLETE);
    let message = ready.map(|c| c.message.clone()).unwrap_or_default();
    let verdict = if complete {
        Verdict::Complete
    } else {
        Verdict::Failed
    };
    let mut told = Told {
        verdict,
        reason,
        message,
        more: Vec::new(),
    };
    if K::KEEPS_RUN && complete && !same_inputs {
        let reason = reason::INPUTS_CHANGED;
        told.more.push(Wanted {
            kind: INPUTS_CHANGED,
            status: "True",
            reason: reason.word,
            message: format!(
                "the inputs have newer versions than the run used. {}",
                reason.next
            ),
        });
    }
    let mut plan = Plan::default();
    plan.actions.extend(delete_jobs(observed, |outcome| {
        !matches!(outcome, Outcome::Succeeded | Outcome::Failed(_))
    }));
    if let Some(ttl) = observed.object.policy().1.ttl_seconds_after_finished {
        let end = old
            .completion_time
            .as_ref()
            .map_or(observed.now, |time| time.0);
        let left = end
            .as_second()
            .saturating_add(ttl)
            .saturating_sub(observed.now.as_second());
        if left <= 0 {
            plan.actions = delete_children(observed, |_| true);
        } else if !observed.children.jobs.is_empty() {
            plan.look_again(u64::try_from(left).unwrap_or(1));
        }
    }
    let mut common = old.clone();
    let news = News {
        artefact: None,
        progress: None,
        same_run: true,
    };
    finish(observed, &mut plan, old, &mut common, &told, news);
    Some(plan)
}

/// There is no desired state: what runs is left alone, the reason is told.
fn halted<K: RunKind>(
    observed: &Observed<K>,
    old: &CommonStatus,
    generation: i64,
    invalid: Invalid,
) -> Plan {
    let mut plan = Plan::default();
    let suspend = observed.object.policy().0.suspend;
    let told = if suspend && !invalid.terminal {
        Told::new(
            Verdict::Suspended,
            reason::SUSPENDED,
            "spec.suspend is true",
        )
    } else {
        let verdict = if invalid.terminal {
            Verdict::Stalled
        } else {
            Verdict::InProgress
        };
        Told::new(verdict, invalid.reason, invalid.message)
    };
    if invalid.reason == reason::STORAGE_UNAVAILABLE || invalid.reason == reason::DEPENDENCY_MISSING
    {
        plan.look_again(60);
    }
    let mut common = status::fresh(old, generation);
    finish(
        observed,
        &mut plan,
        old,
        &mut common,
        &told,
        News {
            artefact: None,
            progress: None,
            same_run: false,
        },
    );
    plan
}

/// The run that is under way for this very spec: its inputs stay, whatever became of them upstream since.
fn pinned<K: RunKind>(observed: &Observed<K>, generation: i64, nonce: Option<&str>) -> Option<Run> {
    let newest = observed
        .children
        .config_maps
        .iter()
        .filter(|map| map.metadata.deletion_timestamp.is_none())
        .filter(|map| attempt::number::<i64>(*map, label::GENERATION) == generation)
        .filter(|map| {
            map.annotations().get(label::NONCE).map(String::as_str)
                == Some(nonce.unwrap_or_default())
        })
        .max_by_key(|map| {
            let created = map.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (
                created,
                attempt::number::<i32>(*map, label::ATTEMPT),
                map.name_any(),
            )
        })?;
    let config: RunConfig = serde_json::from_str(newest.data.as_ref()?.get(CONFIG_FILE)?).ok()?;
    Some(Run::of_config(config))
}

/// Completes a plan: conditions, events, status.
pub(super) fn finish<K: RunKind>(
    observed: &Observed<K>,
    plan: &mut Plan,
    old: &CommonStatus,
    common: &mut CommonStatus,
    told: &Told,
    news: News<'_>,
) {
    let generation = observed.object.meta().generation.unwrap_or_default();
    common.conditions = told.conditions(&old.conditions, generation, observed.now);
    plan.events
        .extend(status::transitions(&old.conditions, &common.conditions));
    plan.status = Some(RunKind::status(&observed.object, common.clone(), news));
}

fn delete_jobs<K: RunKind>(
    observed: &Observed<K>,
    which: impl Fn(&Outcome) -> bool,
) -> Vec<Action> {
    let jobs = observed
        .children
        .jobs
        .iter()
        .filter(|job| job.metadata.deletion_timestamp.is_none());
    jobs.filter(|job| {
        let short = job.labels().get(label::RUN).cloned().unwrap_or_default();
        let found = attempt::attempts(std::slice::from_ref(*job), &observed.children.pods, &short);
        found.first().is_some_and(|attempt| which(&attempt.outcome))
    })
    .map(delete)
    .collect()
}

pub(super) fn delete<R: Resource<DynamicType = ()>>(object: &R) -> Action {
    Action::Delete {
        object: ObjectRef::of(object).any_version(),
        propagation: Propagation::Background,
    }
}

/// Deletes the children whose run label is `which`.
pub(super) fn delete_children<K: RunKind>(
    observed: &Observed<K>,
    which: impl Fn(&str) -> bool,
) -> Vec<Action> {
    fn of<'a, R: Resource<DynamicType = ()>>(
        all: &'a [R],
        which: &'a impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Action> + 'a {
        all.iter()
            .filter(|object| object.meta().deletion_timestamp.is_none())
            .filter(move |object| {
                object
                    .labels()
                    .get(label::RUN)
                    .is_some_and(|run| which(run))
            })
            .map(delete)
    }
    let children = &observed.children;
    let jobs = of(&children.jobs, &which);
    jobs.chain(of(&children.services, &which))
        .chain(of(&children.config_maps, &which))
        .collect()
}

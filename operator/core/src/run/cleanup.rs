//! Owns the end of objects: finalizer, deletion of artefacts, its deadline. It must not delete what a living object
//! refers to.

use bessemer_api::ArtifactPolicy;
use kube::ResourceExt;

use super::RunKind;
use super::attempt::phase;
use crate::action::{Action, ObjectRef, Propagation, StoreOperation};
use crate::kind::{Kind, Observed};
use crate::label;
use crate::plan::{Event, Plan};
use crate::query::{Answer, Query};
use crate::reason;
use crate::settings::Settings;

/// Brings the finalizer in line with artifactPolicy; `None` when nothing has to change.
pub fn finalizer<K: RunKind>(object: &K) -> Option<Action> {
    let wanted = object.policy().0.artifact_policy == ArtifactPolicy::Delete;
    let present = object
        .finalizers()
        .iter()
        .any(|name| name == label::FINALIZER);
    let finalizer = label::FINALIZER.to_owned();
    match (wanted, present) {
        (true, false) => Some(Action::AddFinalizer {
            object: ObjectRef::of(object),
            finalizer,
        }),
        (false, true) => Some(Action::RemoveFinalizer {
            object: ObjectRef::of(object),
            finalizer,
        }),
        _ => None,
    }
}

/// The plan for an object with a deletion timestamp.
pub fn plan<K: RunKind>(observed: &Observed<K>, settings: &Settings) -> Plan {
    let object = &observed.object;
    let mut plan = Plan::default();
    if !object
        .finalizers()
        .iter()
        .any(|name| name == label::FINALIZER)
    {
        return plan; // the garbage collector does the rest
    }
    let remove = Action::RemoveFinalizer {
        object: ObjectRef::of(object),
        finalizer: label::FINALIZER.into(),
    };
    let skip = object
        .annotations()
        .get(label::SKIP_CLEANUP)
        .is_some_and(|value| value == "true");
    if skip || object.policy().0.artifact_policy == ArtifactPolicy::Retain {
        plan.actions.push(remove);
        return plan;
    }
    let key = object.key();
    let since = object
        .meta()
        .deletion_timestamp
        .as_ref()
        .map_or(observed.now, |time| time.0);
    let waited = observed.now.as_second().saturating_sub(since.as_second());
    let deadline = i64::try_from(settings.finalizer_deadline_seconds).unwrap_or(i64::MAX);
    if waited >= deadline {
        let message = format!(
            "gave up deleting after {waited} s; what is left lies below s3://{}/{}{}",
            settings.storage.bucket,
            if settings.storage.prefix.is_empty() {
                String::new()
            } else {
                format!("{}/", settings.storage.prefix)
            },
            key.path()
        );
        plan.events.push(Event {
            warning: true,
            reason: reason::CLEANUP_ABANDONED.word.into(),
            message,
        });
        plan.actions.push(remove);
        return plan;
    }
    let left = u64::try_from(deadline - waited).unwrap_or(1);
    // A worker that still runs would write again: it goes first, and its pods after it.
    let jobs = &observed.children.jobs;
    if !jobs.is_empty() || observed.children.pods.iter().any(is_active) {
        let living = jobs
            .iter()
            .filter(|job| job.metadata.deletion_timestamp.is_none());
        plan.actions.extend(living.map(|job| Action::Delete {
            object: ObjectRef::of(job).any_version(),
            propagation: Propagation::Foreground,
        }));
        plan.look_again(left);
        return plan;
    }
    let query = Query::DigestsInUse {
        object: key.clone(),
    };
    match observed.facts.get(&query) {
        None => return Plan::ask(vec![query]),
        Some(Answer::DigestsInUse(digests)) => {
            let operation = StoreOperation::DeleteArtifacts {
                owner: ObjectRef::of(object),
                path: key.path(),
                keep: digests.iter().cloned().collect(),
            };
            plan.actions.push(Action::External { operation });
            plan.actions.push(remove);
        }
        Some(_) => plan.look_again(left.min(30)),
    }
    plan
}

fn is_active(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    matches!(phase(pod), "Pending" | "Running" | "Unknown")
}

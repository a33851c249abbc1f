//! apps/v1 Deployments: owns the rollout over ReplicaSets, as a pure function.
//! It must not make pods; rollback by `spec.rollbackTo` is gone from apps/v1 and not built.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PropagationPolicy;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::action::{Action, Note, child_name, encode, reference, resource, short_hash};
use super::cache::Key;
use super::job::Plan;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Decides the sizes of the ReplicaSets, their cleanup, and the status.
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &deployment.spec else {
        return plan;
    };
    let hash = template_hash(spec);
    let new = sets.iter().find(|s| s.labels().get(HASH) == Some(&hash));
    let old: Vec<&Arc<ReplicaSet>> = sets
        .iter()
        .filter(|s| s.labels().get(HASH) != Some(&hash))
        .collect();
    if deployment.metadata.deletion_timestamp.is_none() {
        if spec.paused != Some(true) {
            roll(deployment, spec, &hash, new, &old, &mut plan);
        }
        tidy(spec, &old, &mut plan);
    }
    let status = status(deployment, spec, sets, new, now, &mut plan);
    if deployment.status.as_ref() != Some(&status) {
        let mut object = deployment.clone();
        object.status = Some(status);
        plan.actions.push(Action::ReplaceStatus(
            resource::<Deployment>(),
            Box::new(encode(&object)),
        ));
    }
    plan
}

fn template_hash(spec: &DeploymentSpec) -> String {
    let template = serde_json::to_string(&spec.template).unwrap_or_default();
    short_hash(&[&template])
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations()
        .get(REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// Resolves a count or percentage of `whole`.
fn share(value: Option<&IntOrString>, whole: i32, round_up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(25);
            let product = percent.saturating_mul(whole);
            if round_up {
                (product + 99) / 100
            } else {
                product / 100
            }
        }
        None => share(Some(&IntOrString::String("25%".into())), whole, round_up),
    }
}

/// maxSurge and maxUnavailable in pods; never both zero.
fn bounds(spec: &DeploymentSpec, wanted: i32) -> (i32, i32) {
    let rolling = spec
        .strategy
        .as_ref()
        .and_then(|s| s.rolling_update.as_ref());
    let surge = share(rolling.and_then(|r| r.max_surge.as_ref()), wanted, true);
    let unavailable = share(
        rolling.and_then(|r| r.max_unavailable.as_ref()),
        wanted,
        false,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

fn roll(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    hash: &str,
    new: Option<&Arc<ReplicaSet>>,
    old: &[&Arc<ReplicaSet>],
    plan: &mut Plan,
) {
    let wanted = spec.replicas.unwrap_or(1);
    let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
    let old_size: i32 = old.iter().map(|s| size(s)).sum();
    let old_pods: i32 = old
        .iter()
        .map(|s| s.status.as_ref().map_or(0, |s| s.replicas))
        .sum();
    let (surge, unavailable) = bounds(spec, wanted);
    let Some(new) = new else {
        let first = if recreate {
            if old_size + old_pods == 0 { wanted } else { 0 }
        } else {
            (wanted + surge - old_size).clamp(0, wanted)
        };
        let number = old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1;
        make(deployment, spec, hash, first, number, plan);
        for set in old.iter().filter(|s| recreate && size(s) > 0) {
            scale(deployment, set, 0, plan);
        }
        return;
    };
    let number = revision(new).max(1);
    if deployment.annotations().get(REVISION) != Some(&number.to_string()) {
        let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
        plan.actions.push(Action::Patch(
            resource::<Deployment>(),
            Key::of(deployment),
            Box::new(patch),
        ));
    }
    let highest = old.iter().map(|s| revision(s)).max().unwrap_or(0);
    if revision(new) <= highest {
        // The template of an earlier revision is wanted again: it becomes the newest.
        let patch = json!({"metadata": {"annotations": {REVISION: (highest + 1).to_string()}}});
        plan.actions.push(Action::Patch(
            resource::<ReplicaSet>(),
            Key::of(&**new),
            Box::new(patch),
        ));
    }
    if recreate {
        old.iter()
            .filter(|s| size(s) > 0)
            .for_each(|s| scale(deployment, s, 0, plan));
        if old_size + old_pods == 0 && size(new) != wanted {
            scale(deployment, new, wanted, plan);
        }
        return;
    }
    let grown = if size(new) > wanted {
        wanted
    } else {
        size(new).max((wanted + surge - old_size).clamp(0, wanted))
    };
    if grown != size(new) {
        scale(deployment, new, grown, plan);
    }
    shrink(deployment, wanted - unavailable, new, old, plan);
}

/// Scales old ReplicaSets down: pods that are not available first, then as many as the floor allows.
fn shrink(
    deployment: &Deployment,
    floor: i32,
    new: &Arc<ReplicaSet>,
    old: &[&Arc<ReplicaSet>],
    plan: &mut Plan,
) {
    let mut spare = available(new) + old.iter().map(|s| available(s)).sum::<i32>() - floor;
    let mut order: Vec<&&Arc<ReplicaSet>> = old.iter().filter(|s| size(s) > 0).collect();
    order.sort_by_key(|s| {
        (
            s.metadata.creation_timestamp.clone().map(|t| t.0),
            s.name_any(),
        )
    });
    for set in order {
        let unhealthy = (size(set) - available(set)).max(0);
        let healthy = (size(set) - unhealthy).min(spare.max(0));
        spare -= healthy;
        if unhealthy + healthy > 0 {
            scale(deployment, set, size(set) - unhealthy - healthy, plan);
        }
    }
}

fn scale(deployment: &Deployment, set: &ReplicaSet, to: i32, plan: &mut Plan) {
    let from = size(set);
    if from == to {
        return;
    }
    let patch = json!({
        "metadata": {"resourceVersion": set.resource_version()}, "spec": {"replicas": to}
    });
    plan.actions.push(Action::Patch(
        resource::<ReplicaSet>(),
        Key::of(set),
        Box::new(patch),
    ));
    let way = if to > from { "up" } else { "down" };
    let message = format!(
        "Scaled {way} replica set {} from {from} to {to}",
        set.name_any()
    );
    plan.actions.push(note(deployment, &message));
}

fn note(deployment: &Deployment, message: &str) -> Action {
    Action::Event(Box::new(Note {
        about: reference(deployment),
        warning: false,
        reason: "ScalingReplicaSet".into(),
        message: message.to_owned(),
        component: "deployment-controller",
    }))
}

fn make(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    hash: &str,
    replicas: i32,
    number: i64,
    plan: &mut Plan,
) {
    let mut template = spec.template.clone();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.to_owned(), hash.to_owned());
    let name = child_name(&deployment.name_any(), hash);
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some([(REVISION.to_owned(), number.to_string())].into()),
            owner_references: deployment
                .controller_owner_ref(&())
                .map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    plan.actions.push(Action::Create(
        resource::<ReplicaSet>(),
        Box::new(encode(&set)),
    ));
    plan.actions.push(note(
        deployment,
        &format!("Scaled up replica set {name} from 0 to {replicas}"),
    ));
}

/// Removes old, empty ReplicaSets beyond the history limit.
fn tidy(spec: &DeploymentSpec, old: &[&Arc<ReplicaSet>], plan: &mut Plan) {
    let keep = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let empty = |s: &&&Arc<ReplicaSet>| {
        size(s) == 0
            && s.status.as_ref().is_none_or(|s| s.replicas == 0)
            && s.metadata.deletion_timestamp.is_none()
    };
    let mut gone: Vec<&&Arc<ReplicaSet>> = old.iter().filter(empty).collect();
    gone.sort_by_key(|s| std::cmp::Reverse(revision(s)));
    for set in gone.into_iter().skip(keep) {
        plan.actions.push(Action::Delete {
            resource: resource::<ReplicaSet>(),
            key: Key::of(&***set),
            uid: set.uid().unwrap_or_default(),
            propagation: PropagationPolicy::Background,
        });
    }
}

fn status(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    now: Timestamp,
    plan: &mut Plan,
) -> DeploymentStatus {
    let wanted = spec.replicas.unwrap_or(1);
    let count = |of: &dyn Fn(&ReplicaSet) -> i32| sets.iter().map(|s| of(s)).sum::<i32>();
    let pods = |s: &ReplicaSet| s.status.as_ref().map_or(0, |s| s.replicas);
    let total = count(&pods);
    let ready = count(&|s| {
        s.status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0)
    });
    let serving = count(&available);
    let updated = new.map_or(0, |s| pods(s));
    let some = |n: i32| Some(n).filter(|n| *n > 0);
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(serving),
        unavailable_replicas: some(wanted.max(total) - serving),
        ..old.clone()
    };
    let (_, unavailable) = bounds(spec, wanted);
    if serving >= wanted - unavailable {
        let message = "Deployment has minimum availability.";
        condition(
            &mut status,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            message,
            now,
            false,
        );
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(
            &mut status,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            message,
            now,
            false,
        );
    }
    progress(deployment, spec, &old, &mut status, new, now, plan);
    status
}

fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&Arc<ReplicaSet>>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let wanted = spec.replicas.unwrap_or(1);
    let n = |value: Option<i32>| value.unwrap_or(0);
    let name = new.map_or_else(|| deployment.name_any(), |s| s.name_any());
    let complete = new.is_some()
        && n(status.updated_replicas) == wanted
        && n(status.replicas) == wanted
        && n(status.available_replicas) == wanted;
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        condition(
            status,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            &message,
            now,
            false,
        );
        return;
    }
    let advanced = n(status.updated_replicas) > n(old.updated_replicas)
        || n(status.ready_replicas) > n(old.ready_replicas)
        || n(status.available_replicas) > n(old.available_replicas)
        || status.observed_generation != old.observed_generation
        || n(status.replicas) - n(status.updated_replicas)
            < n(old.replicas) - n(old.updated_replicas);
    let standing = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Progressing")
        .cloned();
    if advanced || standing.is_none() {
        let (reason, message) = if new.is_some() {
            (
                "ReplicaSetUpdated",
                format!("ReplicaSet \"{name}\" is progressing."),
            )
        } else {
            (
                "NewReplicaSetCreated",
                format!("Created new replica set for \"{name}\""),
            )
        };
        condition(status, "Progressing", "True", reason, &message, now, true);
    }
    let Some(seconds) = spec.progress_deadline_seconds.filter(|s| *s < i32::MAX) else {
        return;
    };
    let since = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Progressing");
    let since = since
        .and_then(|c| c.last_update_time.as_ref())
        .map_or(now, |t| t.0);
    let at = since
        .saturating_add(SignedDuration::from_secs(seconds.into()))
        .unwrap_or(Timestamp::MAX);
    if now >= at {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        condition(
            status,
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            &message,
            now,
            false,
        );
    } else if standing.is_none_or(|c| c.status != "False") {
        let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        plan.again = Some(plan.again.map_or(left, |known| known.min(left)));
    }
}

/// Sets a condition; `touch` renews its update time even if nothing else changed.
fn condition(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
    touch: bool,
) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|c| c.type_ == kind).cloned();
    if let Some(old) = &old
        && old.status == value
        && old.reason.as_deref() == Some(reason)
        && old.message.as_deref() == Some(message)
        && !touch
    {
        return;
    }
    let since = old
        .filter(|o| o.status == value)
        .and_then(|o| o.last_transition_time)
        .unwrap_or(Time(now));
    conditions.retain(|c| c.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since),
        last_update_time: Some(Time(now)),
    });
}

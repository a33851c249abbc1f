//! apps/v1 ReplicaSets: owns the decision from a ReplicaSet and its pods to writes.
//! It must not adopt pods it did not make, nor read the API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PropagationPolicy;
use kube::{Resource, ResourceExt};

use super::action::{Action, Note, child_name, encode, reference, resource, short_hash};
use super::cache::Key;
use super::job::Plan;

/// Decides which pods to make or remove, and the status.
pub fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let live: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_live(p)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        if live.len() < wanted {
            create(set, pods, wanted - live.len(), &mut plan);
        } else if live.len() > wanted {
            remove(set, &live, live.len() - wanted, now, &mut plan);
        }
    }
    let status = status(set, &live, now, &mut plan);
    if set.status.as_ref() != Some(&status) {
        let mut object = set.clone();
        object.status = Some(status);
        plan.actions.push(Action::ReplaceStatus(
            resource::<ReplicaSet>(),
            Box::new(encode(&object)),
        ));
    }
    plan
}

fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// When the pod's Ready condition became true.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
    )
}

fn create(set: &ReplicaSet, pods: &[Arc<Pod>], count: usize, plan: &mut Plan) {
    let uid = set.uid().unwrap_or_default();
    let template = set
        .spec
        .as_ref()
        .and_then(|s| s.template.clone())
        .unwrap_or_default();
    let mut used: BTreeSet<String> = pods.iter().map(|p| p.name_any()).collect();
    let (mut made, mut slot) = (0, 0_u32);
    // Names follow from the slot: deciding twice on a stale cache makes each pod once.
    while made < count {
        let mut suffix = short_hash(&[&uid, &slot.to_string()]);
        suffix.truncate(5);
        slot += 1;
        let name = child_name(&set.name_any(), &suffix);
        if !used.insert(name.clone()) {
            continue;
        }
        let meta = template.metadata.clone().unwrap_or_default();
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: set.namespace(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: set.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        plan.actions
            .push(Action::Create(resource::<Pod>(), Box::new(encode(&pod))));
        plan.actions.push(note(
            set,
            "SuccessfulCreate",
            &format!("Created pod: {name}"),
        ));
        made += 1;
    }
}

fn remove(set: &ReplicaSet, live: &[&Arc<Pod>], count: usize, now: Timestamp, plan: &mut Plan) {
    let mut order: Vec<&&Arc<Pod>> = live.iter().collect();
    // Unscheduled first, then not ready, then the youngest: what serves goes last.
    order.sort_by_key(|pod| {
        let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        let age = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(now, |t| t.0);
        (
            bound,
            ready_since(pod).is_some(),
            std::cmp::Reverse(age),
            pod.name_any(),
        )
    });
    for pod in order.into_iter().take(count) {
        plan.actions.push(Action::Delete {
            resource: resource::<Pod>(),
            key: Key::of(&***pod),
            uid: pod.uid().unwrap_or_default(),
            propagation: PropagationPolicy::Background,
        });
        plan.actions.push(note(
            set,
            "SuccessfulDelete",
            &format!("Deleted pod: {}", pod.name_any()),
        ));
    }
}

fn status(
    set: &ReplicaSet,
    live: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let minimum =
        SignedDuration::from_secs(spec.and_then(|s| s.min_ready_seconds).unwrap_or(0).into());
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let ready: Vec<Timestamp> = live.iter().filter_map(|p| ready_since(p)).collect();
    let mut available = 0;
    for since in &ready {
        let left = minimum - now.duration_since(*since);
        if left <= SignedDuration::ZERO {
            available += 1;
        } else {
            let left = Duration::try_from(left).unwrap_or_default();
            plan.again = Some(plan.again.map_or(left, |known| known.min(left)));
        }
    }
    let wanted = spec
        .and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let labelled = live
        .iter()
        .filter(|p| wanted.iter().all(|(k, v)| p.labels().get(k) == Some(v)));
    ReplicaSetStatus {
        replicas: count(live.len()),
        fully_labeled_replicas: Some(count(labelled.count())).filter(|n| *n > 0),
        ready_replicas: Some(count(ready.len())).filter(|n| *n > 0),
        available_replicas: Some(available).filter(|n| *n > 0),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    }
}

fn note(set: &ReplicaSet, reason: &str, message: &str) -> Action {
    Action::Event(Box::new(Note {
        about: reference(set),
        warning: false,
        reason: reason.to_owned(),
        message: message.to_owned(),
        component: "replicaset-controller",
    }))
}

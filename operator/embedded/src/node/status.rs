//! Pod statuses: owns the pure step from what the agent knows to what the API shows.
//! It must not read or write anything.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Not running yet, or not running again yet; reason and sentence.
    Waiting(String, String),
    /// Running since.
    Running(Timestamp),
    /// Ended, and not started again.
    Terminated(Box<ContainerStateTerminated>),
}

/// What the agent knows of a container.
#[derive(Clone, Debug)]
pub struct Known {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// What it is doing.
    pub phase: Phase,
    /// How its run before this one ended.
    pub last: Option<ContainerStateTerminated>,
    /// How often it was started again.
    pub restarts: i32,
    /// Whether its startup probe has succeeded.
    pub started: bool,
    /// Whether its readiness probe is content.
    pub ready: bool,
}

/// What the agent knows of a pod beyond its containers.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Address.
    pub ip: String,
    /// When the agent took the pod.
    pub since: Timestamp,
    /// The pod was ended by the agent's own end.
    pub disrupted: bool,
    /// Why the pod as a whole failed: reason and message.
    pub failure: Option<(String, String)>,
    /// The pod is being deleted and all its containers have ended.
    pub ended: bool,
}

/// The phase of a pod from its containers.
pub fn phase(policy: &str, containers: &[Known], facts: &Facts) -> &'static str {
    if facts.failure.is_some() {
        return "Failed";
    }
    let any = |test: fn(&Known) -> bool| containers.iter().any(test);
    let all_succeeded = containers
        .iter()
        .all(|c| matches!(&c.phase, Phase::Terminated(t) if t.exit_code == 0));
    let all_ended = containers
        .iter()
        .all(|c| matches!(&c.phase, Phase::Terminated(_)));
    if facts.ended {
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    if any(|c| matches!(c.phase, Phase::Running(_))) {
        return "Running";
    }
    if any(|c| matches!(c.phase, Phase::Waiting(..)) && c.last.is_none()) {
        return "Pending";
    }
    match policy {
        "Never" if all_ended => {
            if all_succeeded {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        "OnFailure" if all_succeeded => "Succeeded",
        _ => "Running",
    }
}

/// The whole status; conditions keep their times while their status stays.
pub fn build(pod: &Pod, containers: &[Known], facts: &Facts, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let policy = pod
        .spec
        .as_ref()
        .and_then(|s| s.restart_policy.as_deref())
        .unwrap_or("Always");
    let phase = phase(policy, containers, facts);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let ready = !finished && !containers.is_empty() && containers.iter().all(is_ready);
    let up = !facts.ip.is_empty() && !finished;
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let why = if finished {
        Some("PodCompleted")
    } else {
        Some("ContainersNotReady")
    };
    set(&mut conditions, "PodReadyToStartContainers", up, None, now);
    set(
        &mut conditions,
        "Initialized",
        true,
        (phase == "Succeeded").then_some("PodCompleted"),
        now,
    );
    set(&mut conditions, "Ready", ready, why.filter(|_| !ready), now);
    set(
        &mut conditions,
        "ContainersReady",
        ready,
        why.filter(|_| !ready),
        now,
    );
    if facts.disrupted && finished {
        set(
            &mut conditions,
            "DisruptionTarget",
            true,
            Some("TerminationByKubelet"),
            now,
        );
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(containers.iter().map(|c| container(c, pod)).collect()),
        pod_ip: Some(facts.ip.clone()).filter(|ip| !ip.is_empty()),
        pod_ips: (!facts.ip.is_empty()).then(|| {
            vec![PodIP {
                ip: facts.ip.clone(),
            }]
        }),
        host_ip: Some("127.0.0.1".into()),
        start_time: Some(old.start_time.unwrap_or(Time(facts.since))),
        reason: facts.failure.as_ref().map(|(reason, _)| reason.clone()),
        message: facts.failure.as_ref().map(|(_, message)| message.clone()),
        qos_class: old.qos_class,
        ..PodStatus::default()
    }
}

/// The status of a pod whose processes ended with the agent that ran them; none if it says so already, or has ended.
pub fn lost(pod: &Pod, now: Timestamp) -> Option<PodStatus> {
    let old = pod.status.clone()?;
    if matches!(old.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut new = old.clone();
    let conditions = new.conditions.get_or_insert_default();
    for kind in ["Ready", "ContainersReady"] {
        let told = conditions
            .iter()
            .any(|c| c.type_ == kind && c.status == "True");
        if told {
            set(conditions, kind, false, Some("ContainersNotReady"), now);
        }
    }
    for container in new.container_statuses.iter_mut().flatten() {
        container.ready = false;
    }
    (new != old).then_some(new)
}

fn is_ready(container: &Known) -> bool {
    matches!(container.phase, Phase::Running(_)) && container.started && container.ready
}

fn container(known: &Known, pod: &Pod) -> ContainerStatus {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id = format!("process://{uid}/{}/{}", known.name, known.restarts);
    let mut state = ContainerState::default();
    match &known.phase {
        Phase::Waiting(reason, message) => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: Some(message.clone()).filter(|m| !m.is_empty()),
            });
        }
        Phase::Running(since) => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
        }
        Phase::Terminated(end) => state.terminated = Some((**end).clone()),
    }
    let never = matches!(known.phase, Phase::Waiting(..)) && known.last.is_none();
    ContainerStatus {
        name: known.name.clone(),
        image: known.image.clone(),
        image_id: known.image.clone(),
        container_id: (!never).then_some(id),
        ready: is_ready(known),
        started: Some(matches!(known.phase, Phase::Running(_)) && known.started),
        restart_count: known.restarts,
        state: Some(state),
        last_state: known.last.as_ref().map(|end| ContainerState {
            terminated: Some(end.clone()),
            ..Default::default()
        }),
        ..ContainerStatus::default()
    }
}

fn set(all: &mut Vec<PodCondition>, kind: &str, value: bool, reason: Option<&str>, now: Timestamp) {
    let status = if value { "True" } else { "False" };
    let old = all.iter().find(|c| c.type_ == kind);
    let since = old
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone());
    let new = PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    all.retain(|c| c.type_ != kind);
    all.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_under_another_agent_is_not_ready_and_what_has_ended_stays() {
        let pod = |phase: &str, ready: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"status": {"phase": phase,
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": ready == "True",
                    "restartCount": 3}]}}))
            .unwrap()
        };
        let now = Timestamp::UNIX_EPOCH;
        let mut running = pod("Running", "True");
        let told = lost(&running, now).unwrap();
        let conditions = told.conditions.clone().unwrap();
        let shown: Vec<_> = conditions.iter().map(|c| (&*c.type_, &*c.status)).collect();
        assert_eq!(shown, [("PodScheduled", "True"), ("Ready", "False")]);
        let container = &told.container_statuses.as_ref().unwrap()[0];
        assert_eq!((container.ready, container.restart_count), (false, 3));
        running.status = Some(told);
        assert_eq!(lost(&running, now), None, "said once");
        assert_eq!(lost(&pod("Succeeded", "False"), now), None);
        assert_eq!(lost(&Pod::default(), now), None);
    }
}

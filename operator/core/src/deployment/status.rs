//! Owns the status of a Deployment. It must not decide.

use bessemer_api::{
    Candidate, CommonStatus, InputDigest, ModelDeploymentStatus, Progress, Speed, TrafficShare,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observe::Revision;
use super::render::{ROUTER, selector};
use super::resolve::Desired;
use super::rollout::Rollout;
use crate::condition::{AVAILABLE, Wanted};
use crate::label;
use crate::pod::TEMPLATE_VERSION;
use crate::reason::{self, Reason};

pub(super) fn status(rollout: &Rollout<'_>, desired: Option<&Desired>) -> ModelDeploymentStatus {
    let observed = rollout.observed;
    let object = &observed.object;
    let old = object.status.clone().unwrap_or_default();
    let traffic = &rollout.traffic;
    let generation = object.metadata.generation.unwrap_or_default();
    let stable = traffic.stable.as_deref();
    let ready = stable.map_or(0, |stable| Revision::of(observed, stable).ready());

    let mut told = rollout.told.clone();
    if ready > 0 {
        told.more.push(Wanted {
            kind: AVAILABLE,
            status: "True",
            reason: reason::SERVING.word,
            message: format!("revision {} answers", stable.unwrap_or_default()),
        });
    }
    let served = desired.filter(|desired| stable == Some(&desired.revision));
    let inputs = served.map(|desired| {
        let model = &desired.model;
        vec![InputDigest {
            kind: model.kind.clone(),
            name: model.name.clone(),
            digest: model.digest.clone(),
        }]
    });
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let run = desired.map(|desired| desired.revision.as_str()).or(stable);
    let common = CommonStatus {
        observed_generation: Some(generation),
        conditions: told.conditions(&old.common.conditions, generation, observed.now),
        progress: Some(progress(rollout.told.reason, stable.is_some())),
        inputs: inputs.unwrap_or_else(|| {
            if stable.is_some() {
                old.common.inputs.clone()
            } else {
                Vec::new()
            }
        }),
        template_version: stable.map(|_| TEMPLATE_VERSION),
        trace_id: run.map(|run| label::short_hash(&["trace", &uid, run], 32)),
        ..CommonStatus::default()
    };
    let shares: Vec<TrafficShare> = traffic
        .backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| TrafficShare {
            revision: backend.name.clone(),
            digest: backend.digest.clone(),
            percent: i32::try_from(backend.weight).unwrap_or(100),
        })
        .collect();
    let summary: Vec<String> = shares
        .iter()
        .map(|share| {
            format!(
                "{}% {}",
                share.percent,
                share.digest.chars().take(8).collect::<String>()
            )
        })
        .collect();
    ModelDeploymentStatus {
        common,
        revision: traffic.stable.clone(),
        previous_revision: traffic.previous.clone(),
        candidate: desired
            .filter(|desired| stable != Some(&desired.revision))
            .map(|desired| Candidate {
                revision: desired.revision.clone(),
                digest: desired.model.digest.clone(),
                step: traffic.step.and_then(|step| i32::try_from(step).ok()),
                since: traffic
                    .step
                    .and(traffic.since)
                    .or(rollout.checked_since)
                    .map(Time),
                refused: rollout.refused.clone(),
            }),
        traffic: shares,
        traffic_summary: Some(if summary.is_empty() {
            "none".into()
        } else {
            summary.join(", ")
        }),
        url: stable.and_then(|_| Revision::of(observed, ROUTER).url()),
        replicas: Some(ready),
        selector: Some(selector(object)),
        speed: speed(rollout).or(old.speed.filter(|_| stable.is_some())),
        gates: desired.map_or(old.gates, |desired| desired.gates.clone()),
    }
}

/// How far a Deployment is, by the stage it is in.
fn progress(reason: Reason, serving: bool) -> Progress {
    let (stage, percent) = match reason {
        reason::SERVING | reason::SCALING | reason::DRAINING | reason::ROUTE_NOT_ACCEPTED => {
            ("Serving", 100)
        }
        reason::ROLLING_OUT => ("RollingOut", 80),
        reason::ROUTER_STARTING => ("RollingOut", 70),
        reason::CANDIDATE_CHECKING => ("Checking", 50),
        reason::CANDIDATE_STARTING
        | reason::UNSCHEDULABLE
        | reason::POD_REFUSED
        | reason::IMAGE_UNAVAILABLE
        | reason::CONTAINER_CONFIG => ("Starting", 25),
        reason::GATE_PENDING => ("Gates", 10),
        _ if serving => ("Serving", 100),
        _ => ("Waiting", 0),
    };
    Progress {
        stage: stage.into(),
        percent,
        summary: Some(format!("{percent}%")),
        ..Progress::default()
    }
}

/// The measured speed, in three significant digits so that status does not change with every request.
fn speed(rollout: &Rollout<'_>) -> Option<Speed> {
    let stable = rollout.traffic.stable.as_ref()?;
    let found = rollout
        .route
        .as_ref()?
        .backends
        .iter()
        .find(|backend| backend.name == *stable)?;
    let round = |value: Option<f64>| {
        value
            .filter(|value| value.is_finite())
            .map(|value| format!("{value:.2e}").parse().unwrap_or(value))
    };
    let speed = Speed {
        tokens_per_second: round(found.tokens_per_second),
        p50_time_to_first_token_ms: round(found.ttft_p50_ms),
        p99_time_to_first_token_ms: round(found.ttft_p99_ms),
    };
    (speed != Speed::default()).then_some(speed)
}

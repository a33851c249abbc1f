//! Owns the decision for Deployments: which of the rollout's moves is due, and how it is told. It must keep what serves
//! serving whatever becomes of a candidate.

use bessemer_api::ModelDeployment;
use kube::ResourceExt;

use super::resolve;
use super::rollout::Rollout;
use super::status;
use crate::condition::Verdict;
use crate::kind::Observed;
use crate::label;
use crate::plan::Plan;
use crate::reason::Halt;
use crate::run::{Told, transitions};
use crate::settings::Settings;

pub(super) fn plan(observed: &Observed<ModelDeployment>, settings: &Settings) -> Plan {
    let object = &observed.object;
    if object.metadata.deletion_timestamp.is_some() {
        return Plan::default(); // servers and router go by garbage collection
    }
    let mut rollout = Rollout::new(observed, settings);
    let desired = match resolve::resolve(observed, settings) {
        Ok(desired) => Some(desired),
        Err(Halt::Ask(queries)) => return Plan::ask(queries),
        Err(Halt::Invalid(invalid)) => {
            let verdict = if invalid.terminal {
                Verdict::Stalled
            } else {
                Verdict::InProgress
            };
            rollout.told = Told::new(verdict, invalid.reason, invalid.message);
            None
        }
    };
    let moved = match &desired {
        _ if object.spec.policy.suspend => rollout.suspend(),
        Some(desired) => rollout.advance(desired),
        None => rollout.hold(),
    };
    if let Err(queries) = moved.and_then(|()| rollout.expose()) {
        return Plan::ask(queries);
    }
    rollout.settle();
    let old = object.status.clone().unwrap_or_default();
    let new = status::status(&rollout, desired.as_ref());
    let mut plan = Plan {
        events: transitions(&old.common.conditions, &new.common.conditions),
        status: serde_json::to_value(&new).ok(),
        actions: rollout.actions,
        requeue: rollout.requeue,
        queries: Vec::new(),
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

//! Owns the resolution of a Deployment into the revision that should serve, and the verdict of its gates. It must refuse
//! what router and server would not do.

use bessemer_api::{GateVerdict, Kind as KindName, ModelDeployment};
use bessemer_protocol::task::ServeTask;
use bessemer_protocol::{Input, InputRole, Task};

use super::gate;
use crate::dependency::{self, model_input};
use crate::kind::{Kind, Observed};
use crate::label;
use crate::reason::{Halt, Invalid};
use crate::settings::Settings;
use crate::training::number;
use crate::unimplemented;

/// Seconds that a server may take to finish its answers after SIGTERM.
pub(super) const DRAIN_SECONDS: u32 = 300;

/// What should serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The model.
    pub model: Input,
    /// Parameters of its servers.
    pub task: Task,
    /// GPUs of each server.
    pub gpus: i32,
    /// Eight digits of digest and parameters: name of the revision.
    pub revision: String,
    /// Verdict of each gate about the model.
    pub gates: Vec<GateVerdict>,
    /// What the gates add up to.
    pub passed: Result<(), Invalid>,
}

pub(super) fn resolve(observed: &Observed<ModelDeployment>, _: &Settings) -> Result<Desired, Halt> {
    let object = &observed.object;
    let spec = &object.spec;
    unimplemented::check(KindName::Deployment, spec)?;
    let model_only: Vec<_> = object
        .references()
        .into_iter()
        .filter(|reference| reference.field == "spec.modelRef")
        .collect();
    dependency::check_of(observed, &model_only)?;
    let model = model_input(observed, &spec.model_ref, InputRole::Model, "spec.modelRef")?;
    let concurrency = number(spec.max_concurrency);
    let task = Task::Serve(ServeTask {
        model_name: object.key().name,
        max_concurrency: concurrency,
        max_queue: concurrency.saturating_mul(8).max(64),
        require_api_key: spec.auth.is_some(),
        drain_seconds: DRAIN_SECONDS,
    });
    let gpus = spec.policy.resources.gpus.unwrap_or(0);
    let parameters = serde_json::to_string(&task).unwrap_or_default();
    // A GPU computes with other roundings and may not be had: such servers are checked beside those that serve.
    let device = (gpus > 0).then_some("GPU");
    let parts = [model.digest.as_str(), &parameters].into_iter();
    let revision = label::short_hash(&parts.chain(device).collect::<Vec<_>>(), 8);
    let (gates, passed) = gate::judge(observed, &model.digest);
    Ok(Desired {
        model,
        task,
        gpus,
        revision,
        gates,
        passed,
    })
}

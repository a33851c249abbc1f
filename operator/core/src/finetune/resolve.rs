//! Owns the resolution of a FineTune into the task `tune`. It must refuse what the worker would not do.

use bessemer_api::{AdapterTarget, FineTune, Kind as KindName, LowRankAdapter};
use bessemer_protocol::task::{Adapter, TuneTask};
use bessemer_protocol::{InputRole, Task};

use crate::dependency::{self, dataset_input, dataset_reference, model_input, model_reference};
use crate::kind::{Kind, Observed};
use crate::peer::Key;
use crate::reason::{self, Halt, Invalid};
use crate::run::Run;
use crate::settings::Settings;
use crate::training::{self, long, number};
use crate::unimplemented;

pub(super) fn resolve(observed: &Observed<FineTune>, settings: &Settings) -> Result<Run, Halt> {
    let spec = &observed.object.spec;
    unimplemented::check(KindName::FineTune, spec)?;
    if spec.training.tokens.is_some() {
        let message = "spec.training.tokens has no meaning for tuning; give steps or epochs";
        return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
    }
    let Some(supervised) = &spec.supervised else {
        let message = "spec.supervised is missing";
        return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
    };
    let ranks = number(spec.parallelism.data);
    dependency::check(observed)?;
    let namespace = observed.object.key().namespace;
    let base = model_input(observed, &spec.base_ref, InputRole::Model, "spec.baseRef")?;
    let reference = dataset_reference(&spec.dataset_ref.name, &namespace, "spec.datasetRef");
    let records = dataset_input(observed, &reference, InputRole::Dataset, &["Instruction"])?;
    let context = context_length(observed);
    let sequence_length = match (supervised.sequence_length.map(number), context) {
        (Some(length), Some(context)) if length > context => {
            let message = format!(
                "spec.supervised.sequenceLength ({length}) exceeds the base's context of {context} tokens"
            );
            return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
        }
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => {
            let message = "the base does not tell its context; give spec.supervised.sequenceLength";
            return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
        }
    };
    let steps = spec.training.steps.map(|steps| steps.0);
    let task = TuneTask {
        adapter: spec.adapter.as_ref().map(adapter),
        sequence_length,
        epochs: number(spec.training.epochs.unwrap_or(1)),
        steps,
        batch: training::batch(&spec.training, sequence_length, ranks)?,
        optimizer: training::optimizer(&spec.training),
        schedule: training::schedule(&spec.training, steps)?,
        phases: training::phases(&spec.training, steps),
        dropout: spec.training.dropout,
        precision: training::precision(&spec.training),
        seed: long(spec.training.seed),
        deterministic: spec.training.deterministic,
        threads: training::threads(&spec.policy, settings),
        ranks,
        checkpoint: training::checkpoint(&spec.checkpoint),
    };
    let inputs = vec![base, records];
    Ok(Run {
        task: Task::Tune(task),
        inputs,
        gpus: training::gpus(&spec.policy, spec.workers.gpus, ranks)?,
    })
}

/// The context of the model at the root of the chain of bases.
fn context_length(observed: &Observed<FineTune>) -> Option<u32> {
    let namespace = observed.object.key().namespace;
    let mut next: Key =
        model_reference(&observed.object.spec.base_ref, &namespace, "spec.baseRef")?.to;
    for _ in 0..observed.peers.len() {
        let peer = observed.peers.get(&next)?;
        if peer.context_length.is_some() {
            return peer.context_length;
        }
        next = peer
            .references
            .iter()
            .find(|reference| reference.field == "spec.baseRef")?
            .to
            .clone();
    }
    None
}

fn adapter(adapter: &LowRankAdapter) -> Adapter {
    const ALL: [(AdapterTarget, &str); 7] = [
        (AdapterTarget::Query, "q"),
        (AdapterTarget::Key, "k"),
        (AdapterTarget::Value, "v"),
        (AdapterTarget::Output, "o"),
        (AdapterTarget::Gate, "gate"),
        (AdapterTarget::Up, "up"),
        (AdapterTarget::Down, "down"),
    ];
    let wanted =
        |target: &AdapterTarget| adapter.targets.is_empty() || adapter.targets.contains(target);
    Adapter {
        rank: number(adapter.rank),
        alpha: adapter.alpha,
        targets: ALL
            .iter()
            .filter(|(target, _)| wanted(target))
            .map(|(_, name)| (*name).to_owned())
            .collect(),
    }
}

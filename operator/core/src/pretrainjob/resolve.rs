//! Owns the resolution of a PretrainJob into the task `train`. It must refuse what the worker would not do.

use bessemer_api::{Kind as KindName, ModelFamily, Preset, PretrainJob, PretrainJobSpec, Training};
use bessemer_protocol::task::{Family, Mixture, ModelShape, Positions, TrainTask};
use bessemer_protocol::{InputRole, Task};

use crate::dependency::{self, dataset_input, dataset_reference, model_input};
use crate::kind::{Kind, Observed};
use crate::reason::{self, Halt, Invalid};
use crate::run::Run;
use crate::settings::Settings;
use crate::training::{self, long, number};
use crate::unimplemented;

pub(super) fn resolve(observed: &Observed<PretrainJob>, settings: &Settings) -> Result<Run, Halt> {
    let spec = &observed.object.spec;
    unimplemented::check(KindName::PretrainJob, spec)?;
    let model = shape(spec)?;
    let ranks = number(spec.parallelism.data);
    let batch = training::batch(&spec.training, model.context_length, ranks)?;
    dependency::check(observed)?;
    let namespace = observed.object.key().namespace;
    let mut inputs = Vec::new();
    let mut mixture = Vec::new();
    let mut tokens = Some(0u64);
    for share in &spec.datasets {
        let reference = dataset_reference(
            &share.name,
            &namespace,
            format!("spec.datasets[{}]", share.name),
        );
        inputs.push(dataset_input(
            observed,
            &reference,
            InputRole::Dataset,
            &["Pretraining"],
        )?);
        mixture.push(Mixture {
            name: share.name.clone(),
            weight: share.weight,
        });
        let known = observed
            .peers
            .get(&reference.to)
            .and_then(|peer| peer.tokens);
        tokens = tokens
            .zip(known)
            .map(|(sum, tokens)| sum.saturating_add(tokens));
    }
    if let Some(initial) = &spec.initial_model_ref {
        inputs.push(model_input(
            observed,
            initial,
            InputRole::Model,
            "spec.initialModelRef",
        )?);
    }
    let per_step = u64::from(batch.sequences) * u64::from(batch.sequence_length);
    let steps = steps(&spec.training, per_step, tokens)?;
    let task = TrainTask {
        mixture,
        model,
        steps,
        batch,
        optimizer: training::optimizer(&spec.training),
        schedule: training::schedule(&spec.training, Some(steps))?,
        precision: training::precision(&spec.training),
        seed: long(spec.training.seed),
        deterministic: spec.training.deterministic,
        threads: training::threads(&spec.policy, settings),
        ranks,
        checkpoint: training::checkpoint(&spec.checkpoint),
    };
    Ok(Run {
        task: Task::Train(task),
        inputs,
        gpus: training::gpus(&spec.policy, spec.workers.gpus, ranks)?,
    })
}

/// Optimizer steps: given, or from tokens, or from passes over the data (one when nothing is given).
fn steps(training: &Training, per_step: u64, dataset_tokens: Option<u64>) -> Result<u64, Invalid> {
    let steps = match (training.steps, training.tokens) {
        (Some(steps), _) => steps.0,
        (None, Some(tokens)) => tokens.0.div_ceil(per_step.max(1)),
        (None, None) => {
            let Some(tokens) = dataset_tokens else {
                let message =
                    "the datasets do not tell their tokens; give spec.training.steps or tokens";
                return Err(Invalid::terminal(reason::INVALID_SPEC, message));
            };
            let epochs = u64::from(number(training.epochs.unwrap_or(1)));
            tokens.saturating_mul(epochs).div_ceil(per_step.max(1))
        }
    };
    if steps == 0 {
        return Err(Invalid::terminal(
            reason::INVALID_SPEC,
            "spec.training comes to no step at all",
        ));
    }
    Ok(steps)
}

/// The architecture: preset, then the numbers that override it.
///
/// # Errors
/// When the numbers do not fit each other.
pub(super) fn shape(spec: &PretrainJobSpec) -> Result<ModelShape, Invalid> {
    let model = &spec.model;
    let (family, positions) = match model.family {
        ModelFamily::GPT2 => (Family::GPT2, Positions::Learned),
        // The other families are refused before.
        ModelFamily::Llama | ModelFamily::Mixtral | ModelFamily::MPT | ModelFamily::BERT => {
            (Family::Llama, Positions::RoPE)
        }
    };
    let preset = model.preset.map(|preset| sizes(preset, family));
    let pick = |given: Option<i32>, preset: Option<u32>, field: &str| {
        given.map(number).or(preset).ok_or_else(|| {
            Invalid::terminal(
                reason::INVALID_SPEC,
                format!("spec.model has neither {field} nor a preset"),
            )
        })
    };
    let hidden_size = pick(model.hidden_size, preset.map(|p| p.hidden), "hiddenSize")?;
    let heads = pick(model.heads, preset.map(|p| p.heads), "heads")?;
    let overridden = model.hidden_size.is_some() || model.heads.is_some();
    let preset_kv = preset.map(|p| p.key_value_heads).filter(|_| !overridden);
    let key_value_heads = model
        .key_value_heads
        .map(number)
        .or(preset_kv)
        .unwrap_or(heads);
    let preset_feed_forward = preset
        .map(|p| p.feed_forward)
        .filter(|_| model.hidden_size.is_none());
    let feed_forward_size = model
        .feed_forward_size
        .map(number)
        .or(preset_feed_forward)
        .unwrap_or_else(|| feed_forward(hidden_size, family));
    let shape = ModelShape {
        family,
        layers: pick(model.layers, preset.map(|p| p.layers), "layers")?,
        heads,
        key_value_heads,
        hidden_size,
        feed_forward_size,
        context_length: model
            .context_length
            .map(number)
            .or(preset.map(|p| p.context))
            .unwrap_or(1024),
        positions,
        attention_window: model.attention_window.map(number),
        tied_embeddings: true,
        dropout: spec.training.dropout,
    };
    let fits = heads > 0
        && hidden_size % heads == 0
        && key_value_heads > 0
        && heads % key_value_heads == 0;
    let even = family != Family::Llama || heads == 0 || (hidden_size / heads) % 2 == 0;
    if !fits || !even {
        let message = format!(
            "spec.model: hiddenSize {hidden_size} must be a multiple of heads {heads} (with RoPE an even one), and heads \
             a multiple of keyValueHeads {key_value_heads}"
        );
        return Err(Invalid::terminal(reason::INVALID_SPEC, message));
    }
    if family == Family::GPT2 && key_value_heads != heads {
        let message = "spec.model.keyValueHeads: GPT2 has as many as heads";
        return Err(Invalid::terminal(reason::INVALID_SPEC, message));
    }
    Ok(shape)
}

#[derive(Clone, Copy)]
struct Sizes {
    layers: u32,
    heads: u32,
    key_value_heads: u32,
    hidden: u32,
    feed_forward: u32,
    context: u32,
}

/// The sizes behind the names. 124M to 774M are GPT-2's (Radford et al. 2019), 1B is Llama 3.2's.
fn sizes(preset: Preset, family: Family) -> Sizes {
    let of = |layers, heads, hidden, context| Sizes {
        layers,
        heads,
        key_value_heads: heads,
        hidden,
        feed_forward: feed_forward(hidden, family),
        context,
    };
    match preset {
        Preset::M1 => of(4, 4, 128, 256),
        Preset::M10 => of(6, 6, 384, 256),
        Preset::M30 => of(8, 8, 512, 512),
        Preset::M124 => of(12, 12, 768, 1024),
        Preset::M350 => of(24, 16, 1024, 1024),
        Preset::M774 => of(36, 20, 1280, 1024),
        // The larger ones are refused before.
        Preset::B1 | Preset::B7 | Preset::B70 | Preset::B175 => match family {
            Family::GPT2 => of(24, 16, 2048, 2048),
            Family::Llama => Sizes {
                key_value_heads: 8,
                feed_forward: 8192,
                ..of(16, 32, 2048, 2048)
            },
        },
    }
}

/// GPT-2: four times the width. Llama: 8/3 of it, rounded up to a multiple of 64.
fn feed_forward(hidden: u32, family: Family) -> u32 {
    match family {
        Family::GPT2 => hidden.saturating_mul(4),
        Family::Llama => hidden.saturating_mul(8).div_ceil(3).div_ceil(64) * 64,
    }
}

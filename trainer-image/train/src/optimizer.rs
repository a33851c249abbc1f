//! Owns AdamW over a model's trainable weights, with clipping; it must not know schedules or data.

use std::collections::BTreeMap;

use bessemer_model::Parameter;
use bessemer_protocol::task::Optimizer as Options;
use bessemer_torch::AdamW;
use tch::Tensor;

use crate::Error;

/// Weights that share a decay, with their moments.
#[derive(Debug, Default)]
struct Group {
    names: Vec<String>,
    weights: Vec<Tensor>,
    means: Vec<Tensor>,
    squares: Vec<Tensor>,
}

/// AdamW: matrices and embeddings decay, vectors do not.
#[derive(Debug)]
pub(crate) struct Optimizer {
    options: Options,
    decayed: Group,
    plain: Group,
    all: Vec<Tensor>,
}

impl Optimizer {
    pub fn new(options: Options, parameters: &[Parameter]) -> Self {
        let (mut decayed, mut plain) = (Group::default(), Group::default());
        for parameter in parameters {
            let group = if parameter.decay {
                &mut decayed
            } else {
                &mut plain
            };
            group.names.push(parameter.name.clone());
            group.weights.push(parameter.tensor.shallow_clone());
            group.means.push(parameter.tensor.zeros_like());
            group.squares.push(parameter.tensor.zeros_like());
        }
        let all = decayed
            .weights
            .iter()
            .chain(&plain.weights)
            .map(Tensor::shallow_clone)
            .collect();
        Self {
            options,
            decayed,
            plain,
            all,
        }
    }

    /// Drops the gradients of the step before.
    pub fn clear(&self) -> Result<(), Error> {
        Ok(bessemer_torch::clear_gradients(&self.all)?)
    }

    /// The gradients of this step. A weight that takes no part has none, on any rank.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.all
            .iter()
            .map(Tensor::grad)
            .filter(Tensor::defined)
            .collect()
    }

    /// Clips the gradients to the global norm and returns it as it was before.
    pub fn clip(&self) -> Result<f64, Error> {
        let gradients = self.gradients();
        let norm = bessemer_torch::global_norm(&gradients)?;
        let limit = self.options.gradient_clip_norm;
        if limit > 0.0 && norm > limit {
            bessemer_torch::scale(&gradients, limit / (norm + 1e-6))?;
        }
        Ok(norm)
    }

    /// Update number `step` (from 1) at learning rate `rate`.
    pub fn update(&self, step: u64, rate: f64) -> Result<(), Error> {
        for (group, decay) in [
            (&self.decayed, self.options.weight_decay),
            (&self.plain, 0.0),
        ] {
            let gradients: Vec<Tensor> = group
                .weights
                .iter()
                .map(|weight| {
                    let gradient = weight.grad();
                    // A weight that took no part in this step has a zero gradient, not none.
                    if gradient.defined() {
                        gradient
                    } else {
                        weight.zeros_like()
                    }
                })
                .collect();
            let options = AdamW {
                rate,
                beta1: self.options.beta1,
                beta2: self.options.beta2,
                epsilon: self.options.epsilon,
                decay,
            };
            let step = i64::try_from(step).unwrap_or(i64::MAX);
            bessemer_torch::fused_adamw(
                &group.weights,
                &gradients,
                &group.means,
                &group.squares,
                step,
                options,
            )?;
        }
        Ok(())
    }

    /// Moments by name, sharing storage.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::new();
        for group in [&self.decayed, &self.plain] {
            for ((name, mean), square) in group.names.iter().zip(&group.means).zip(&group.squares) {
                all.insert(format!("{name}.mean"), mean.shallow_clone());
                all.insert(format!("{name}.square"), square.shallow_clone());
            }
        }
        all
    }
}

//! Owns the layers that act on each token alone: linear, norm, feed-forward; it must not mix tokens.

use tch::{Kind, Tensor};

use crate::adapter::Adapter;
use crate::parameter::Parameter;

/// `tensor` in the arithmetic of the forward pass; no copy when it is already so.
pub(crate) fn cast(tensor: &Tensor, kind: Kind) -> Tensor {
    if tensor.kind() == kind {
        tensor.shallow_clone()
    } else {
        tensor.to_kind(kind)
    }
}

/// How a weight lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[in, out]`: GPT-2's Conv1D.
    InputOutput,
    /// `[out, in]`: everyone else's Linear.
    OutputInput,
}

/// `y = x W (+ b)`, kept in the file's layout.
#[derive(Debug)]
pub(crate) struct Linear {
    pub name: String,
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub layout: Layout,
    pub adapters: Vec<Adapter>,
}

impl Linear {
    /// Input and output widths.
    pub fn shape(&self) -> (i64, i64) {
        let size = self.weight.size();
        let (first, second) = (
            size.first().copied().unwrap_or(0),
            size.get(1).copied().unwrap_or(0),
        );
        match self.layout {
            Layout::InputOutput => (first, second),
            Layout::OutputInput => (second, first),
        }
    }

    /// `x` is `[tokens, in]`; the result has its kind.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let weight = cast(&self.weight, kind);
        let bias = self.bias.as_ref().map(|bias| cast(bias, kind));
        let y = match (self.layout, bias) {
            (Layout::InputOutput, Some(bias)) => bias.addmm(x, &weight),
            (Layout::InputOutput, None) => x.mm(&weight),
            (Layout::OutputInput, bias) => x.linear(&weight, bias.as_ref()),
        };
        self.adapters
            .iter()
            .fold(y, |y, adapter| adapter.apply(x, &y))
    }

    /// Adds the adapters to the weight and drops them.
    pub fn merge(&mut self) {
        tch::no_grad(|| {
            for adapter in self.adapters.drain(..) {
                let update = adapter.matrix();
                let (dimension, update) = match self.layout {
                    Layout::InputOutput => (1, update.tr()),
                    Layout::OutputInput => (0, update),
                };
                let mut part = self.weight.narrow(dimension, adapter.start, adapter.width);
                let _ = part.g_add_(&update.to_kind(part.kind()));
            }
        });
    }

    pub fn collect(&self, into: &mut Vec<Parameter>) {
        into.push(Parameter::new(
            format!("{}.weight", self.name),
            &self.weight,
        ));
        if let Some(bias) = &self.bias {
            into.push(Parameter::new(format!("{}.bias", self.name), bias));
        }
    }

    pub fn collect_adapters(&self, into: &mut Vec<Parameter>) {
        for adapter in &self.adapters {
            into.push(Parameter::new(
                format!("{}.lora_A", adapter.name),
                &adapter.a,
            ));
            into.push(Parameter::new(
                format!("{}.lora_B", adapter.name),
                &adapter.b,
            ));
        }
    }
}

/// Normalisation of each token, computed in FP32 and returned in the kind of the matrices that follow.
#[derive(Debug)]
pub(crate) struct Norm {
    pub name: String,
    pub weight: Tensor,
    pub form: NormForm,
    pub epsilon: f64,
}

#[derive(Debug)]
pub(crate) enum NormForm {
    /// Mean and variance, with an optional bias (Ba et al. 2016).
    Layer(Option<Tensor>),
    /// Root mean square (Zhang and Sennrich 2019); the product with the weight is taken after the cast, as in
    /// Hugging Face's Llama.
    RootMeanSquare,
}

impl Norm {
    pub fn forward(&self, x: &Tensor, kind: Kind) -> Tensor {
        let wide = cast(x, Kind::Float);
        match &self.form {
            NormForm::Layer(bias) => {
                let bias = bias.as_ref().map(|bias| cast(bias, Kind::Float));
                let weight = cast(&self.weight, Kind::Float);
                let y = wide.layer_norm(
                    self.weight.size(),
                    Some(&weight),
                    bias.as_ref(),
                    self.epsilon,
                    false,
                );
                cast(&y, kind)
            }
            NormForm::RootMeanSquare => {
                let variance = wide
                    .square()
                    .mean_dim([-1i64].as_slice(), true, Kind::Float);
                let y = &wide * (variance + self.epsilon).rsqrt();
                cast(&y, kind) * cast(&self.weight, kind)
            }
        }
    }

    pub fn collect(&self, into: &mut Vec<Parameter>) {
        into.push(Parameter::new(
            format!("{}.weight", self.name),
            &self.weight,
        ));
        if let NormForm::Layer(Some(bias)) = &self.form {
            into.push(Parameter::new(format!("{}.bias", self.name), bias));
        }
    }
}

/// The feed-forward part of a block.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// `down(gelu(up(x)))`, tanh form of GELU.
    Gelu { up: Linear, down: Linear },
    /// `down(silu(gate(x)) * up(x))` (Shazeer 2020).
    SwiGlu {
        gate: Linear,
        up: Linear,
        down: Linear,
    },
}

impl FeedForward {
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu { up, down } => down.forward(&up.forward(x).gelu("tanh")),
            Self::SwiGlu { gate, up, down } => {
                down.forward(&(gate.forward(x).silu() * up.forward(x)))
            }
        }
    }

    /// The linear layers, with their adapter target names.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        match self {
            Self::Gelu { up, down } => vec![("up", up), ("down", down)],
            Self::SwiGlu { gate, up, down } => vec![("gate", gate), ("up", up), ("down", down)],
        }
    }

    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        match self {
            Self::Gelu { up, down } => vec![("up", up), ("down", down)],
            Self::SwiGlu { gate, up, down } => vec![("gate", gate), ("up", up), ("down", down)],
        }
    }
}

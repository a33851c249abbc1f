//! Owns low-rank adapters (LoRA, Hu et al. 2021) of linear layers; it must not know which layers a family has.

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::initialise::normal;

/// Projections that an adapter can name.
pub const TARGETS: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];

/// What to adapt.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Rank of the update.
    pub rank: i64,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// Projections from [`TARGETS`].
    pub targets: Vec<String>,
}

impl AdapterSpec {
    /// Refuses ranks below 1, alphas that are no positive number, and unknown targets.
    ///
    /// # Errors
    /// [`Error::Adapter`] in words.
    pub fn validate(&self) -> Result<(), Error> {
        if self.rank < 1 {
            return Err(Error::Adapter(format!(
                "rank is {}; it must be at least 1",
                self.rank
            )));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::Adapter(format!(
                "alpha is {}; it must be above 0",
                self.alpha
            )));
        }
        if self.targets.is_empty() {
            return Err(Error::Adapter(format!(
                "no targets; name some of {}",
                TARGETS.join(", ")
            )));
        }
        match self
            .targets
            .iter()
            .find(|target| !TARGETS.contains(&target.as_str()))
        {
            Some(unknown) => Err(Error::Adapter(format!(
                "unknown target {unknown}; name some of {}",
                TARGETS.join(", ")
            ))),
            None => Ok(()),
        }
    }
}

/// One low-rank update of the output columns `start .. start + width` of a linear layer:
/// `y += (x A^T) B^T * scale` with A `[rank, in]` and B `[width, rank]`.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub name: String,
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f64,
    pub start: i64,
    pub width: i64,
}

impl Adapter {
    /// A from N(0, 1/in) (as PEFT's Gaussian choice, variance-preserving), B zero: the model starts unchanged.
    pub fn new(
        name: String,
        spec: &AdapterSpec,
        inputs: i64,
        (start, width): (i64, i64),
        seed: u64,
        device: Device,
    ) -> Result<Self, Error> {
        let deviation = 1.0 / (inputs as f64).sqrt();
        let a = normal(
            seed,
            &format!("{name}.lora_A"),
            &[spec.rank, inputs],
            deviation,
            device,
        )?;
        Ok(Self {
            name,
            a: a.set_requires_grad(true),
            b: Tensor::zeros([width, spec.rank], (Kind::Float, device)).set_requires_grad(true),
            scale: spec.alpha / spec.rank as f64,
            start,
            width,
        })
    }

    /// Adds the update of `x` `[tokens, in]` to `y` `[tokens, out]`.
    pub fn apply(&self, x: &Tensor, y: &Tensor) -> Tensor {
        let kind = x.kind();
        let low = x.linear(&self.a.to_kind(kind), None::<&Tensor>);
        let update = low.linear(&self.b.to_kind(kind), None::<&Tensor>) * self.scale;
        let outputs = y.size().last().copied().unwrap_or(self.width);
        if self.width == outputs {
            y + update
        } else {
            y + update.constant_pad_nd([self.start, outputs - self.start - self.width])
        }
    }

    /// The update as a matrix `[width, in]`, FP32.
    pub fn matrix(&self) -> Tensor {
        self.b.matmul(&self.a) * self.scale
    }
}

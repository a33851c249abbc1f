//! Owns the plain definitions that kernels are tested against; it must stay as simple as a formula.

use tch::{Kind, Reduction, Tensor};

use crate::IGNORE;

/// `scale * sum(cross_entropy(hidden weight^T, targets))` with all logits in memory; targets equal to
/// [`IGNORE`] count nothing. `hidden` `[rows, width]`, `weight` `[vocabulary, width]`, `targets` `[rows]`.
pub fn head_loss(hidden: &Tensor, weight: &Tensor, targets: &Tensor, scale: f64) -> Tensor {
    let logits = hidden
        .matmul(&weight.to_kind(hidden.kind()).tr())
        .to_kind(Kind::Float);
    logits.cross_entropy_loss(targets, None::<&Tensor>, Reduction::Sum, IGNORE, 0.0) * scale
}

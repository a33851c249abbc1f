//! Owns the description of one trainable tensor; it must not change its values.

use tch::Tensor;

/// A named weight that shares storage with the model.
#[derive(Debug)]
pub struct Parameter {
    /// Name, as in the Hugging Face file; adapters add `.lora_A` or `.lora_B`.
    pub name: String,
    /// The weight itself.
    pub tensor: Tensor,
    /// Whether weight decay applies: matrices and embeddings, not biases and norms.
    pub decay: bool,
}

impl Parameter {
    pub(crate) fn new(name: String, tensor: &Tensor) -> Self {
        Self {
            name,
            decay: tensor.dim() >= 2,
            tensor: tensor.shallow_clone(),
        }
    }
}

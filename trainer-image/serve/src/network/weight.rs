//! Owns the way of weights from bessemer-model's tensors into matrices of this engine. It must not
//! know what a tensor is for; files, their shapes and their damage are bessemer-model's.

use super::matrix::{Elements, Matrix};
use bessemer_model::Model;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Why a model cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files are refused.
    #[error(transparent)]
    Model(#[from] bessemer_model::Error),
    /// libtorch refused to copy a tensor.
    #[error("libtorch: {0}")]
    Libtorch(#[from] tch::TchError),
    /// A weight is not where its family keeps it.
    #[error("weight {name} is missing from the model; export it again")]
    Missing {
        /// Name as in the Hugging Face file.
        name: String,
    },
}

impl LoadError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Model(error) => error.category(),
            Self::Libtorch(_) => "LibtorchError",
            Self::Missing { .. } => "ModelDamaged",
        }
    }
}

/// A model's weights by name, taken one after another.
#[derive(Debug)]
pub struct Source(BTreeMap<String, Tensor>);

impl Source {
    /// The weights of `model`.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self(
            model
                .weights()
                .into_iter()
                .map(|parameter| (parameter.name, parameter.tensor))
                .collect(),
        )
    }

    fn take(&mut self, name: &str) -> Result<Tensor, LoadError> {
        self.0.remove(name).ok_or_else(|| LoadError::Missing {
            name: name.to_owned(),
        })
    }

    /// A vector, and the empty one where the model has none of this name.
    ///
    /// # Errors
    /// When libtorch cannot copy it.
    pub fn optional_vector(&mut self, name: &str) -> Result<Vec<f32>, LoadError> {
        self.0
            .remove(name)
            .map_or(Ok(Vec::new()), |tensor| Ok(elements(&tensor)?.to_single()))
    }

    /// A vector.
    ///
    /// # Errors
    /// When it is missing.
    pub fn vector(&mut self, name: &str) -> Result<Vec<f32>, LoadError> {
        Ok(elements(&self.take(name)?)?.to_single())
    }

    /// A matrix stored as [outputs, inputs] (torch's Linear and Embedding).
    ///
    /// # Errors
    /// When it is missing.
    pub fn matrix(&mut self, name: &str) -> Result<Matrix, LoadError> {
        matrix(&self.take(name)?)
    }

    /// A matrix stored as [inputs, outputs] (GPT-2's Conv1D), turned round.
    ///
    /// # Errors
    /// When it is missing.
    pub fn turned_matrix(&mut self, name: &str) -> Result<Matrix, LoadError> {
        matrix(&self.take(name)?.tr())
    }
}

fn matrix(tensor: &Tensor) -> Result<Matrix, LoadError> {
    let rows = tensor.size().first().copied().unwrap_or(0);
    Ok(Matrix::new(
        usize::try_from(rows).unwrap_or(0),
        elements(tensor)?,
    ))
}

/// BF16 stays BF16; everything else becomes FP32, which FP16 does exactly.
fn elements(tensor: &Tensor) -> Result<Elements, LoadError> {
    let tensor = tensor.detach().contiguous();
    let count = tensor.numel();
    if tensor.kind() == Kind::BFloat16 {
        let mut bytes = vec![0; count * 2];
        tensor.f_copy_data_u8(&mut bytes, count)?;
        return Ok(Elements::Brain(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|pair| u16::from_le_bytes(*pair))
                .collect(),
        ));
    }
    let mut values = vec![0.0; count];
    tensor
        .to_kind(Kind::Float)
        .f_copy_data(&mut values, count)?;
    Ok(Elements::from_single(values))
}

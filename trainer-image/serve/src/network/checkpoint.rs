//! Owns reading tensors from the safetensors files of a Hugging Face directory into memory. It
//! must not know what a tensor is for.

use super::matrix::{Elements, Matrix};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No safetensors file, or one is unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File or directory.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not safetensors.
    #[error("{path} is not a safetensors file: {source}; download or export the model again")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor {name} is missing; config.json and the weights do not belong together")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than config.json implies.
    #[error("tensor {name} has shape {found:?}, config.json implies {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape implied.
        expected: Vec<usize>,
    },
    /// An element type that is not computed.
    #[error("tensor {name} has elements of type {dtype:?}; F32, BF16 and F16 are served")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

impl CheckpointError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ModelUnreadable",
            Self::Type { .. } => "ModelUnsupported",
            Self::Format { .. } | Self::Missing { .. } | Self::Shape { .. } => "ModelInvalid",
        }
    }
}

/// Tensors by name.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, (Vec<usize>, Elements)>,
}

impl Checkpoint {
    /// Reads every `*.safetensors` file of `directory`, in order of name.
    ///
    /// # Errors
    /// When there is none, or one cannot be read or holds types that are not served.
    pub fn read(directory: &Path) -> Result<Self, CheckpointError> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            move |source| CheckpointError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable(directory))? {
            let path = entry.map_err(unreadable(directory))?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.is_empty() {
            return Err(unreadable(&directory.join("model.safetensors"))(std::io::ErrorKind::NotFound.into()));
        }
        let mut checkpoint = Self::default();
        for path in paths {
            let bytes = std::fs::read(&path).map_err(unreadable(&path))?;
            let file = SafeTensors::deserialize(&bytes)
                .map_err(|source| CheckpointError::Format { path: path.display().to_string(), source })?;
            for (name, view) in file.tensors() {
                let elements = elements(&name, view.dtype(), view.data())?;
                checkpoint.tensors.insert(name, (view.shape().to_vec(), elements));
            }
        }
        Ok(checkpoint)
    }

    /// Whether `name` is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn take(&mut self, name: &str, expected: &[usize]) -> Result<Elements, CheckpointError> {
        let (found, elements) =
            self.tensors.remove(name).ok_or_else(|| CheckpointError::Missing { name: name.to_owned() })?;
        if found != expected {
            return Err(CheckpointError::Shape { name: name.to_owned(), found, expected: expected.to_vec() });
        }
        Ok(elements)
    }

    /// A vector of `length` values.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.take(name, &[length])?.to_single())
    }

    /// A matrix stored as [outputs, inputs] (torch's Linear and Embedding).
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, CheckpointError> {
        Ok(Matrix::new(outputs, self.take(name, &[outputs, inputs])?))
    }

    /// A matrix stored as [inputs, outputs] (GPT-2's Conv1D), turned round.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn turned_matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, CheckpointError> {
        let stored = self.take(name, &[inputs, outputs])?.to_single();
        let turned = (0..outputs).flat_map(|output| stored.iter().skip(output).step_by(outputs).copied()).collect();
        Ok(Matrix::new(outputs, Elements::from_single(turned)))
    }
}

fn elements(name: &str, dtype: Dtype, data: &[u8]) -> Result<Elements, CheckpointError> {
    let (pairs, quads) = (data.as_chunks::<2>().0, data.as_chunks::<4>().0);
    match dtype {
        Dtype::F32 => Ok(Elements::from_single(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())),
        Dtype::BF16 => Ok(Elements::Brain(pairs.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect())),
        Dtype::F16 => Ok(Elements::from_single(pairs.iter().map(|bytes| widen_half(u16::from_le_bytes(*bytes))).collect())),
        dtype => Err(CheckpointError::Type { name: name.to_owned(), dtype }),
    }
}

/// IEEE 754 binary16 to FP32, exactly.
fn widen_half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1F), u32::from(bits & 0x3FF));
    match exponent {
        0 => sign * fraction as f32 * 2.0_f32.powi(-24),
        31 if fraction == 0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * f32::from_bits((exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{TensorView, serialize_to_file};

    #[test]
    fn halves_widen_exactly() {
        let cases = [(0x3C00, 1.0), (0xC000, -2.0), (0x3555, 0.333_251_95), (0x0001, 5.960_464_5e-8), (0x7BFF, 65504.0)];
        for (bits, value) in cases {
            assert_eq!(widen_half(bits), value);
        }
        assert!(widen_half(0x7E00).is_nan() && widen_half(0xFC00) == f32::NEG_INFINITY);
    }

    #[test]
    fn missing_and_misshapen_tensors_are_named() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Checkpoint::read(directory.path()).unwrap_err().category(), "ModelUnreadable");
        let data: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![2, 3], &data).unwrap();
        let path = directory.path().join("model.safetensors");
        serialize_to_file([("weight", view)], None, &path).unwrap();
        let read = || Checkpoint::read(directory.path()).unwrap();
        assert_eq!(read().turned_matrix("weight", 3, 2).unwrap().row(1), [2.0, 5.0]);
        let error = read().matrix("weight", 3, 2).unwrap_err();
        assert!(error.to_string().contains("weight has shape [2, 3]"), "{error}");
        assert!(read().vector("bias", 2).unwrap_err().to_string().contains("bias is missing"));
        std::fs::write(&path, b"junk").unwrap();
        assert_eq!(Checkpoint::read(directory.path()).unwrap_err().category(), "ModelInvalid");
    }
}

//! Owns the call of the cross entropy fused with the head; it must not choose what is trained.

use std::ffi::{CStr, c_char, c_void};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::Cuda;

/// A target that counts nothing.
pub const IGNORE: i64 = -100;

unsafe extern "C" {
    fn bessemer_kernels_free(text: *mut c_char);
    fn bessemer_kernels_head_loss_calls() -> i64;
    fn bessemer_kernels_head_loss(
        result: *mut *mut C_tensor,
        hidden: *mut C_tensor,
        weight: *mut C_tensor,
        targets: *mut C_tensor,
        ignored: i64,
        scale: f64,
        fused: bool,
        cuda: *mut c_void,
    ) -> *mut c_char;
}

/// What libtorch or the kernel refused, in words.
#[derive(Debug, thiserror::Error)]
#[error("head loss: {0}")]
pub struct Error(String);

impl Error {
    /// Stable word for reports.
    pub fn category(&self) -> &'static str {
        "KernelError"
    }
}

/// Which implementation runs; all compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Rows in chunks, softmax and gradient by libtorch's operators, any device.
    Chunked,
    /// Rows in chunks, softmax and gradient in one pass of our own code, on the CPU and on a GPU; as `Chunked` on a GPU
    /// for which [`Cuda::loaded`] finds no kernels.
    Fused,
}

/// `scale * sum(cross_entropy(hidden weight^T, targets))`, differentiable by `hidden` and `weight`, without the
/// logits ever being stored whole. `hidden` `[rows, width]` in any floating kind, which is that of the matrix
/// products; `weight` `[vocabulary, width]`, its gradient in its own kind; `targets` `[rows]` int64, [`IGNORE`]
/// counts nothing. The result is an FP32 scalar. Give the scale here rather than multiplying the result: the
/// gradients are then computed once.
///
/// # Errors
/// Shapes that do not fit, or a target outside the vocabulary.
pub fn head_loss(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    scale: f64,
    version: Version,
) -> Result<Tensor, Error> {
    let mut result: *mut C_tensor = std::ptr::null_mut();
    let cuda = match hidden.device() {
        Device::Cuda(_) => Cuda::loaded().ok(),
        _ => None,
    };
    // SAFETY: the three handles stay alive for the call and `result` is a valid place to write; `cuda` is null or the
    // function that the kernel takes it for.
    let text = unsafe {
        bessemer_kernels_head_loss(
            &raw mut result,
            hidden.as_ptr().cast_mut(),
            weight.as_ptr().cast_mut(),
            targets.as_ptr().cast_mut(),
            IGNORE,
            scale,
            version == Version::Fused,
            cuda.map_or(std::ptr::null_mut(), |cuda| cuda.cross_entropy.as_ptr()),
        )
    };
    if text.is_null() {
        // SAFETY: on success the kernel gave us a new tensor that nobody else owns.
        return Ok(unsafe { Tensor::from_ptr(result) });
    }
    // SAFETY: a non-null result is a NUL-terminated string allocated by the kernel and owned by us.
    let message = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: released once, by the allocator that made it.
    unsafe { bessemer_kernels_free(text) };
    Err(Error(message))
}

/// How often [`head_loss`] has run in this process; the proof that a training step uses it.
pub fn head_loss_calls() -> i64 {
    // SAFETY: reads an atomic counter.
    unsafe { bessemer_kernels_head_loss_calls() }
}

#[cfg(test)]
mod tests;

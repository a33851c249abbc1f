//! Owns the safe face of what libtorch has and tch does not bind (fused AdamW, foreach norms,
//! dropping gradients, the determinism switch, processes that compute together); it must not hold model or training
//! logic.

#![allow(unsafe_code)] // reason: this crate is the foreign-function boundary; every block says what it relies on

pub mod distributed;

use std::ffi::{CStr, c_char, c_int};

pub use tch::Device;
use tch::{Cuda, Kind, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn bessemer_torch_free(text: *mut c_char);
    fn bessemer_torch_fused_adamw(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        means: *const *mut C_tensor,
        squares: *const *mut C_tensor,
        count: usize,
        step: i64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        decay: f64,
    ) -> *mut c_char;
    fn bessemer_torch_global_norm(
        tensors: *const *mut C_tensor,
        count: usize,
        norm: *mut f64,
    ) -> *mut c_char;
    fn bessemer_torch_scale(
        tensors: *const *mut C_tensor,
        count: usize,
        factor: f64,
    ) -> *mut c_char;
    fn bessemer_torch_clear_gradients(tensors: *const *mut C_tensor, count: usize) -> *mut c_char;
    fn bessemer_torch_deterministic(on: bool) -> *mut c_char;
    fn bessemer_torch_load_cuda() -> bool;
    fn bessemer_torch_gpu_name(name: *mut c_char, length: c_int) -> bool;
    fn bessemer_torch_gpu_memory(free: *mut usize) -> bool;
}

/// What went wrong inside libtorch, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct Error(String);

impl Error {
    /// Stable word for reports.
    pub fn category(&self) -> &'static str {
        "LibtorchError"
    }
}

/// A GPU is asked for where libtorch finds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} GPU(s) are asked for, but libtorch finds none; use the image with CUDA, give the pod a runtime class with the \
     driver, or ask for no GPU"
)]
pub struct NoGpu(u32);

impl NoGpu {
    /// Stable word for reports.
    pub fn category(&self) -> &'static str {
        "NoGpu"
    }
}

/// Where the tensors of a process with `gpus` GPUs lie: on the first, or on the CPU when it has none.
///
/// # Errors
/// When libtorch finds no GPU though the process should have one: it must not train on CPUs for days unnoticed.
pub fn device(gpus: u32) -> Result<Device, NoGpu> {
    match gpus {
        0 => Ok(Device::Cpu),
        // SAFETY: loads a library of libtorch's own, whose initialisers register what it can do.
        _ if unsafe { bessemer_torch_load_cuda() } && Cuda::is_available() => Ok(Device::Cuda(0)),
        _ => Err(NoGpu(gpus)),
    }
}

/// Bytes that are free on the GPU of `device`; nothing for CPUs, and where CUDA does not tell.
pub fn free_memory(device: Device) -> Option<usize> {
    let mut free = 0;
    let on_gpu = matches!(device, Device::Cuda(_));
    // SAFETY: `free` is a place for the number, written before it returns.
    (on_gpu && unsafe { bessemer_torch_gpu_memory(&raw mut free) }).then_some(free)
}

/// Operations per second at most, dense, in BF16 and FP32 without TF32, by the vendor's data sheets; what is further
/// down matches fewer names.
const PEAKS: [(&str, f64, f64); 9] = [
    ("B200", 2250e12, 75e12),
    ("H200", 989.4e12, 66.9e12),
    ("H100 PCIe", 756e12, 51.2e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100", 989.4e12, 66.9e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L40", 181e12, 90.5e12),
    ("L4", 121e12, 30.3e12),
];

/// Floating-point operations per second at most that `device` does in matrices of `kind`; nothing for CPUs and GPUs that
/// the table lacks.
pub fn peak_flops(device: Device, kind: Kind) -> Option<f64> {
    let Device::Cuda(_) = device else {
        return None;
    };
    let mut name = [0; 256];
    // SAFETY: `name` is a place of that many bytes, in which the driver ends its text with NUL.
    if !unsafe { bessemer_torch_gpu_name(name.as_mut_ptr(), name.len() as c_int) } {
        return None;
    }
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    peak_of(&name.to_string_lossy(), kind)
}

fn peak_of(name: &str, kind: Kind) -> Option<f64> {
    let has = |word: &str| name.contains(word);
    let (_, bf16, fp32) = PEAKS.into_iter().find(|(word, ..)| has(word))?;
    match kind {
        Kind::BFloat16 => Some(bf16),
        Kind::Float => Some(fp32),
        _ => None,
    }
}

/// Takes over a message that a shim function returned.
fn check(text: *mut c_char) -> Result<(), Error> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null result is a NUL-terminated string allocated by the shim and owned by us.
    let message = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: released once, by the allocator that made it.
    unsafe { bessemer_torch_free(text) };
    Err(Error(message))
}

fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors
        .iter()
        .map(|tensor| tensor.as_ptr().cast_mut())
        .collect()
}

/// Hyperparameters of one AdamW update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this update.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub decay: f64,
}

/// Updates `parameters`, `means` and `squares` in place by AdamW (Loshchilov and Hutter 2019), all tensors in
/// one call. `step` counts updates from 1. The four slices have equal lengths and shapes.
///
/// # Errors
/// What libtorch refuses: unequal lengths, shapes or kinds.
pub fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    means: &[Tensor],
    squares: &[Tensor],
    step: i64,
    options: AdamW,
) -> Result<(), Error> {
    let count = parameters.len();
    if gradients.len() != count || means.len() != count || squares.len() != count {
        return Err(Error(format!(
            "fused AdamW got {count} parameters, {} gradients, {} means and {} squares",
            gradients.len(),
            means.len(),
            squares.len()
        )));
    }
    if count == 0 {
        return Ok(());
    }
    // SAFETY: all handles stay alive for the call (borrowed slices) and the counts are equal.
    check(unsafe {
        bessemer_torch_fused_adamw(
            handles(parameters).as_ptr(),
            handles(gradients).as_ptr(),
            handles(means).as_ptr(),
            handles(squares).as_ptr(),
            count,
            step,
            options.rate,
            options.beta1,
            options.beta2,
            options.epsilon,
            options.decay,
        )
    })
}

/// The 2-norm over all elements of all tensors; 0 for none.
///
/// # Errors
/// What libtorch refuses.
pub fn global_norm(tensors: &[Tensor]) -> Result<f64, Error> {
    let mut norm = 0.0;
    if !tensors.is_empty() {
        // SAFETY: the handles stay alive for the call, `norm` is a valid place to write.
        check(unsafe {
            bessemer_torch_global_norm(handles(tensors).as_ptr(), tensors.len(), &raw mut norm)
        })?;
    }
    Ok(norm)
}

/// Multiplies every tensor by `factor` in place.
///
/// # Errors
/// What libtorch refuses.
pub fn scale(tensors: &[Tensor], factor: f64) -> Result<(), Error> {
    if tensors.is_empty() {
        return Ok(());
    }
    // SAFETY: the handles stay alive for the call.
    check(unsafe { bessemer_torch_scale(handles(tensors).as_ptr(), tensors.len(), factor) })
}

/// Drops the gradients of all tensors, so that the next backward pass stores its own instead of adding.
///
/// # Errors
/// What libtorch refuses.
pub fn clear_gradients(tensors: &[Tensor]) -> Result<(), Error> {
    if tensors.is_empty() {
        return Ok(());
    }
    // SAFETY: the handles stay alive for the call.
    check(unsafe { bessemer_torch_clear_gradients(handles(tensors).as_ptr(), tensors.len()) })
}

/// Refuses (true) or allows operations without a deterministic implementation, in the whole process.
///
/// # Errors
/// What libtorch refuses.
pub fn deterministic(on: bool) -> Result<(), Error> {
    // SAFETY: no pointers are passed.
    check(unsafe { bessemer_torch_deterministic(on) })
}

/// Name of the variable by which OpenMP's threads are told how to wait.
pub const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts this program again with threads that sleep while they wait, unless [`WAIT_POLICY`] is set already.
/// Call it first in `main` of every program that computes: libtorch's threads otherwise spin, and on cores that
/// are shared with anything else a training step then takes four times as long (docs/benchmarks.md). OpenMP
/// reads the variable while it is loaded, so it cannot be set later. Returns only when nothing had to be done or
/// the program could not be started again, which costs speed and nothing else.
pub fn sleep_while_waiting() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(WAIT_POLICY).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let _ = command.args(arguments).env(WAIT_POLICY, "passive").exec();
}

#[cfg(test)]
mod tests;

//! Owns the library of CUDA kernels, which is loaded at run time when it has been built; it must not be needed
//! for anything on a CPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::IGNORE;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

const RTLD_NOW: c_int = 2;

type Devices = unsafe extern "C" fn(*mut *const c_char) -> c_int;
type CrossEntropyHost = unsafe extern "C" fn(
    logits: *mut c_void,
    targets: *const i64,
    losses: *mut f32,
    rows: i64,
    vocabulary: i64,
    ignored: i64,
    scale: f32,
    bf16: bool,
) -> *const c_char;

/// Why CUDA kernels cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library has not been built.
    #[error("{0} does not exist; build it with `make kernels`")]
    NotBuilt(PathBuf),
    /// The library is not what it should be.
    #[error("{path} cannot be loaded: {problem}; build it again with `make kernels`")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What the loader says.
        problem: String,
    },
    /// The library is there, a GPU is not.
    #[error("no CUDA device: {0}")]
    NoDevice(String),
    /// A kernel failed.
    #[error("CUDA kernel: {0}")]
    Failed(String),
}

/// The loaded library. It stays loaded for the life of the process.
#[derive(Debug)]
pub struct Cuda {
    devices: Devices,
    cross_entropy_host: CrossEntropyHost,
}

fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: the library and the loader return null or static NUL-terminated strings.
    (!pointer.is_null()).then(|| {
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned()
    })
}

impl Cuda {
    /// Where kernels/build.sh puts the library: `$BESSEMER_CACHE/kernels`, by default below `~/.cache/bessemer`.
    pub fn library() -> PathBuf {
        let cache = std::env::var_os("BESSEMER_CACHE")
            .map(PathBuf::from)
            .unwrap_or_else(|| {
                let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
                let home = std::env::var_os("HOME")
                    .map(PathBuf::from)
                    .unwrap_or_default();
                cache
                    .unwrap_or_else(|| home.join(".cache"))
                    .join("bessemer")
            });
        cache.join("kernels/libbessemer_kernels_cuda.so")
    }

    /// Loads the library at `path`.
    ///
    /// # Errors
    /// [`Unavailable::NotBuilt`] or [`Unavailable::Broken`].
    pub fn open(path: &Path) -> Result<Self, Unavailable> {
        if !path.exists() {
            return Err(Unavailable::NotBuilt(path.to_owned()));
        }
        let broken = |problem| Unavailable::Broken {
            path: path.to_owned(),
            problem,
        };
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| broken(error.to_string()))?;
        // SAFETY: the library is our own; loading it runs no code but CUDA's static initialisers.
        let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
        if library.is_null() {
            // SAFETY: called right after the failure, on the same thread.
            return Err(broken(text(unsafe { dlerror() }).unwrap_or_default()));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library is loaded and never closed.
            let found = unsafe { dlsym(library, name.as_ptr()) };
            if found.is_null() {
                Err(broken(format!("{} is missing", name.to_string_lossy())))
            } else {
                Ok(found)
            }
        };
        let (devices, host) = (
            symbol(c"bessemer_cuda_devices")?,
            symbol(c"bessemer_cuda_cross_entropy_host")?,
        );
        symbol(c"bessemer_cuda_cross_entropy")?;
        // SAFETY: both symbols have these signatures in cuda/cross_entropy.cu.
        let (devices, cross_entropy_host) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Devices>(devices),
                std::mem::transmute::<*mut c_void, CrossEntropyHost>(host),
            )
        };
        Ok(Self {
            devices,
            cross_entropy_host,
        })
    }

    /// Number of usable GPUs.
    ///
    /// # Errors
    /// [`Unavailable::NoDevice`] with the driver's words when there is none.
    pub fn devices(&self) -> Result<i32, Unavailable> {
        let mut problem: *const c_char = std::ptr::null();
        // SAFETY: `problem` is a valid place to write.
        let count = unsafe { (self.devices)(&raw mut problem) };
        match text(problem) {
            Some(problem) => Err(Unavailable::NoDevice(problem)),
            None if count == 0 => Err(Unavailable::NoDevice("the driver lists none".to_owned())),
            None => Ok(count),
        }
    }

    /// Runs the cross-entropy kernel over tensors in host memory: `logits` `[rows, vocabulary]` FP32 or BF16,
    /// `targets` `[rows]`. Returns the gradient by the logits, times `scale`, and the losses `[rows]`.
    ///
    /// # Errors
    /// [`Unavailable::Failed`] with CUDA's words, or for other kinds and shapes.
    pub fn cross_entropy(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        scale: f32,
    ) -> Result<(Tensor, Tensor), Unavailable> {
        let failed = |problem: String| Unavailable::Failed(problem);
        let (rows, vocabulary) = logits.size2().map_err(|error| failed(error.to_string()))?;
        let fits = matches!(logits.kind(), Kind::Float | Kind::BFloat16)
            && targets.kind() == Kind::Int64
            && targets.size() == [rows]
            && logits.device() == Device::Cpu
            && targets.device() == Device::Cpu;
        if !fits {
            return Err(failed(format!(
                "logits {logits:?} and targets {targets:?} do not fit"
            )));
        }
        let gradient = logits.contiguous().copy();
        let targets = targets.contiguous();
        let losses = Tensor::zeros([rows], (Kind::Float, Device::Cpu));
        // SAFETY: the three tensors are contiguous, in host memory and of the sizes given.
        let problem = unsafe {
            (self.cross_entropy_host)(
                gradient.data_ptr(),
                targets.data_ptr().cast(),
                losses.data_ptr().cast(),
                rows,
                vocabulary,
                IGNORE,
                scale,
                gradient.kind() == Kind::BFloat16,
            )
        };
        match text(problem) {
            Some(problem) => Err(failed(problem)),
            None => Ok((gradient, losses)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Reduction;

    use super::*;

    #[test]
    fn a_missing_or_broken_library_is_named() {
        let missing = Path::new("/nonexistent/kernels.so");
        assert!(matches!(Cuda::open(missing), Err(Unavailable::NotBuilt(path)) if path == missing));
        let broken = Cuda::open(
            Path::new(file!())
                .canonicalize()
                .as_deref()
                .unwrap_or(Path::new("/bin/sh")),
        );
        assert!(
            matches!(broken, Err(Unavailable::Broken { .. })),
            "{broken:?}"
        );
    }

    /// Needs the built library and a GPU; without either it prints why it is skipped.
    #[test]
    fn the_cuda_kernel_equals_the_reference() {
        let cuda = match Cuda::open(&Cuda::library()) {
            Ok(cuda) => cuda,
            Err(Unavailable::NotBuilt(path)) => {
                println!("skipped: {} is not built (make kernels)", path.display());
                return;
            }
            Err(error) => panic!("{error}"),
        };
        if let Err(reason) = cuda.devices() {
            println!("skipped: {reason}");
            return;
        }
        for (rows, vocabulary) in [(1, 5), (9, 1000), (33, 50_257)] {
            for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
                let logits =
                    Tensor::randn([rows, vocabulary], (Kind::Float, Device::Cpu)).to_kind(kind);
                let targets = Tensor::randint(vocabulary, [rows], (Kind::Int64, Device::Cpu));
                let _ = targets.narrow(0, 0, rows / 3).fill_(IGNORE);
                let (gradient, losses) = cuda.cross_entropy(&logits, &targets, 0.5).unwrap();
                let plain = logits.to_kind(Kind::Float).set_requires_grad(true);
                let expected = plain.cross_entropy_loss(
                    &targets,
                    None::<&Tensor>,
                    Reduction::None,
                    IGNORE,
                    0.0,
                );
                (expected.sum(Kind::Float) * 0.5).backward();
                let largest = |t: Tensor| t.abs().max().double_value(&[]);
                assert!(largest(losses - expected.detach()) < 1e-4);
                assert!(largest(gradient.to_kind(Kind::Float) - plain.grad()) < tolerance);
            }
        }
    }
}

//! Owns the library of CUDA kernels, which is loaded at run time when it has been built; it must not be needed
//! for anything on a CPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

const RTLD_NOW: c_int = 2;

const NAME: &str = "libbessemer_kernels_cuda.so";

/// Why CUDA kernels cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library has not been built.
    #[error(
        "neither {0} nor the loader's path has the CUDA kernels; build them with `make kernels`"
    )]
    NotBuilt(PathBuf),
    /// The library is not what it should be.
    #[error("{path} cannot be loaded: {problem}; build it again with `make kernels`")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What the loader says.
        problem: String,
    },
}

/// The loaded library. It stays loaded for the life of the process.
#[derive(Debug)]
pub struct Cuda {
    /// `bessemer_cuda_cross_entropy` of cuda/cross_entropy.cu, for the C++ side to call.
    pub(crate) cross_entropy: NonNull<c_void>,
}

// SAFETY: the address of a function, which any thread may call.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

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
    fn library() -> PathBuf {
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
        cache.join("kernels").join(NAME)
    }

    /// The library, loaded by the first call: from [`Cuda::library`], else by its name from where the loader looks,
    /// as in the trainer's image.
    ///
    /// # Errors
    /// [`Unavailable`], the same for every call.
    pub fn loaded() -> Result<&'static Self, &'static Unavailable> {
        static LOADED: OnceLock<Result<Cuda, Unavailable>> = OnceLock::new();
        let load = || {
            let path = Self::library();
            if path.exists() {
                return Self::open(&path);
            }
            Self::open(Path::new(NAME)).map_err(|error| match error {
                Unavailable::Broken { problem, .. } if problem.contains("No such file") => {
                    Unavailable::NotBuilt(path)
                }
                other => other,
            })
        };
        LOADED.get_or_init(load).as_ref()
    }

    fn open(path: &Path) -> Result<Self, Unavailable> {
        let broken = |problem| Unavailable::Broken {
            path: path.to_owned(),
            problem,
        };
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| broken(error.to_string()))?;
        // SAFETY: the library is our own; loading it runs no code but CUDA's static initialisers.
        let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
        let cross_entropy = if library.is_null() {
            std::ptr::null_mut()
        } else {
            // SAFETY: the library is loaded and never closed.
            unsafe { dlsym(library, c"bessemer_cuda_cross_entropy".as_ptr()) }
        };
        // SAFETY: called right after a failure, on the same thread.
        let problem = || broken(text(unsafe { dlerror() }).unwrap_or_default());
        let cross_entropy = NonNull::new(cross_entropy).ok_or_else(problem)?;
        Ok(Self { cross_entropy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_library_is_named() {
        let own = Path::new(file!()).canonicalize();
        let broken = Cuda::open(own.as_deref().unwrap_or(Path::new("/bin/sh")));
        assert!(
            matches!(broken, Err(Unavailable::Broken { .. })),
            "{broken:?}"
        );
        let other = Cuda::open(Path::new("libc.so.6"));
        assert!(
            other
                .as_ref()
                .is_err_and(|error| error.to_string().contains("bessemer_cuda_cross_entropy")),
            "{other:?}"
        );
    }
}

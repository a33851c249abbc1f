//! Compiles the CPU kernels against the libtorch that torch-sys found. CUDA kernels are built apart, by
//! build.sh, into a library that is loaded at run time: a machine without nvcc builds all of Bessemer.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=cpu");
    println!("cargo:rerun-if-changed=build.rs");
    let Ok(library) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        println!(
            "cargo:error=torch-sys told no libtorch directory; run `make libtorch` and set LIBTORCH"
        );
        return;
    };
    let root = PathBuf::from(library);
    let include = root
        .parent()
        .map(|parent| parent.join("include"))
        .unwrap_or_default();
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(3)
        .flag("-std=c++17")
        .flag("-fopenmp")
        .flag("-fno-math-errno")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("cpu/head_loss.cpp")
        .compile("bessemer_kernels");
    // The same OpenMP pool as libtorch's, which ships libgomp.so.1.
    println!("cargo:rustc-link-lib=gomp");
}

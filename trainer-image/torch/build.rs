//! Compiles the C++ shim against the libtorch that torch-sys found; it must not look for another one.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=cpp");
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
        .opt_level(2)
        .flag("-std=c++17")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include("cpp")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("cpp/shim.cpp")
        .file("cpp/distributed.cpp")
        .compile("bessemer_torch");
}

//! Makes the operator's binary smaller, since its pages are most of the memory of an idle operator: equal functions once
//! (Kubernetes' types leave thousands of them), relocations packed where the C library can read them. Linux on x86-64 alone,
//! where rustc links with lld; other linkers would not know the words.

use std::env::var;
use std::process::Command;

/// The first glibc that reads packed relocations.
const PACKED: (u32, u32) = (2, 36);

fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = String::from_utf8(said.ok()?.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = var("TARGET").unwrap_or_default();
    if target != "x86_64-unknown-linux-gnu" {
        return;
    }
    println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    if var("HOST").is_ok_and(|host| host == target) && glibc() >= Some(PACKED) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

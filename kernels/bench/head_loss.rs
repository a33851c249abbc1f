//! Question: what does fusing the cross entropy with the head save? Prints a table of versions: seconds and
//! peak extra memory of one forward and backward pass, the plain reference in the same run. On a GPU, where there is
//! one, in BF16; memory is that of the CPU.
//!
//! `cargo bench -p bessemer-kernels --bench head_loss`

use std::time::Instant;

use bessemer_kernels::{Cuda, Version, head_loss, head_loss_reference};
use tch::{Device, Kind, Tensor};

/// Resident memory's high-water mark in MiB since the last reset, from the kernel.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default()
        .to_owned();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

fn reset_peak() -> f64 {
    // 5 resets VmHWM (proc(5), clear_refs); without permission the memory column shows 0.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    peak_mib()
}

fn main() -> Result<(), bessemer_kernels::Error> {
    let gpu = bessemer_torch::device(1); // first: libtorch looks for one once
    println!(
        "| rows x width x vocabulary | version | seconds (best of 5 runs) | ratio to reference | extra MiB |"
    );
    println!("|---|---|---|---|---|");
    for shape in [(768, 128, 65), (2048, 256, 4096), (1024, 256, 32_000)] {
        compare(shape, Kind::Float, Device::Cpu)?;
    }
    match gpu {
        Ok(gpu) => {
            for shape in [
                (16_384, 768, 50_257),
                (16_384, 768, 50_304),
                (8192, 4096, 128_256),
            ] {
                compare(shape, Kind::BFloat16, gpu)?;
            }
            if let Err(reason) = Cuda::loaded() {
                println!("fused as chunked: {reason}");
            }
        }
        Err(reason) => println!("GPU skipped: {reason}"),
    }
    Ok(())
}

fn compare(
    (rows, width, vocabulary): (i64, i64, i64),
    kind: Kind,
    device: Device,
) -> Result<(), bessemer_kernels::Error> {
    let options = (Kind::Float, device);
    let hidden = Tensor::randn([rows, width], options).to_kind(kind);
    let hidden = hidden.set_requires_grad(true);
    let weight = (Tensor::randn([vocabulary, width], options) * 0.02).set_requires_grad(true);
    let targets = Tensor::randint(vocabulary, [rows], (Kind::Int64, device));
    let scale = 1.0 / rows as f64;
    let mut reference = f64::NAN;
    for version in [None, Some(Version::Chunked), Some(Version::Fused)] {
        let mut best = f64::INFINITY;
        let mut extra = 0.0f64;
        for _ in 0..5 {
            let (mut hidden, mut weight) = (hidden.shallow_clone(), weight.shallow_clone());
            hidden.zero_grad();
            weight.zero_grad();
            let wait = || weight.get(0).get(0).double_value(&[]);
            wait();
            let before = reset_peak();
            let start = Instant::now();
            let loss = match version {
                None => head_loss_reference(&hidden, &weight, &targets, scale),
                Some(version) => head_loss(&hidden, &weight, &targets, scale, version)?,
            };
            loss.backward();
            wait();
            best = best.min(start.elapsed().as_secs_f64());
            extra = extra.max(peak_mib() - before);
        }
        let name = match version {
            None => "0 plain: all logits stored",
            Some(Version::Chunked) => "1 chunked, libtorch's operators",
            Some(Version::Fused) => "2 chunked, fused rows",
        };
        if version.is_none() {
            reference = best;
        }
        println!(
            "| {rows} x {width} x {vocabulary}, {device:?} {kind:?} | {name} | {best:.4} | {:.2} | {extra:.0} |",
            best / reference
        );
    }
    Ok(())
}

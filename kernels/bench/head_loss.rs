//! Question: what does fusing the cross entropy with the head save? Prints a table of versions: seconds and
//! peak extra memory of one forward and backward pass, the plain reference in the same run.
//!
//! `cargo bench -p bessemer-kernels --bench head_loss`

use std::time::Instant;

use bessemer_kernels::{Version, head_loss, head_loss_reference};
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

fn main() {
    println!(
        "| rows x width x vocabulary | version | seconds (best of 5 runs) | ratio to reference | extra MiB |"
    );
    println!("|---|---|---|---|---|");
    for (rows, width, vocabulary) in [(768, 128, 65), (2048, 256, 4096), (1024, 256, 32_000)] {
        let options = (Kind::Float, Device::Cpu);
        let hidden = Tensor::randn([rows, width], options).set_requires_grad(true);
        let weight = (Tensor::randn([vocabulary, width], options) * 0.02).set_requires_grad(true);
        let targets = Tensor::randint(vocabulary, [rows], (Kind::Int64, Device::Cpu));
        let scale = 1.0 / rows as f64;
        let mut reference = f64::NAN;
        for version in [None, Some(Version::Chunked), Some(Version::Fused)] {
            let mut best = f64::INFINITY;
            let mut extra = 0.0f64;
            for _ in 0..5 {
                let (mut hidden, mut weight) = (hidden.shallow_clone(), weight.shallow_clone());
                hidden.zero_grad();
                weight.zero_grad();
                let before = reset_peak();
                let start = Instant::now();
                let loss = match version {
                    None => head_loss_reference(&hidden, &weight, &targets, scale),
                    Some(version) => match head_loss(&hidden, &weight, &targets, scale, version) {
                        Ok(loss) => loss,
                        Err(error) => {
                            eprintln!("{error}");
                            std::process::exit(70);
                        }
                    },
                };
                loss.backward();
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
                "| {rows} x {width} x {vocabulary} | {name} | {best:.4} | {:.2} | {extra:.0} |",
                best / reference
            );
        }
    }
}

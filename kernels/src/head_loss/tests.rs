//! The kernel's versions against the plain reference, forward and backward.

use std::sync::LazyLock;

use bessemer_torch::NoGpu;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::head_loss_reference;

/// Loss and gradients by hidden and weight.
type Outcome = (Tensor, Tensor, Tensor);

/// Asked for before anything else: libtorch looks for a GPU once.
static GPU: LazyLock<Result<Device, NoGpu>> = LazyLock::new(|| bessemer_torch::device(1));

fn inputs(rows: i64, width: i64, vocabulary: i64, kind: Kind) -> (Tensor, Tensor, Tensor) {
    LazyLock::force(&GPU);
    tch::manual_seed(rows + 31 * vocabulary);
    let options = (Kind::Float, Device::Cpu);
    let hidden = Tensor::randn([rows, width], options).to_kind(kind);
    let weight = Tensor::randn([vocabulary, width], options);
    let targets = Tensor::randint(vocabulary, [rows], (Kind::Int64, Device::Cpu));
    let _ = targets.narrow(0, 0, rows / 3).fill_(IGNORE);
    (hidden, weight, targets)
}

fn run(
    inputs: &(Tensor, Tensor, Tensor),
    loss: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
) -> Outcome {
    let (hidden, weight, targets) = inputs;
    let (hidden, weight) = (
        hidden.copy().set_requires_grad(true),
        weight.copy().set_requires_grad(true),
    );
    let loss = loss(&hidden, &weight, targets);
    loss.backward();
    (loss.detach(), hidden.grad(), weight.grad())
}

/// Largest difference relative to the largest element.
fn error(left: &Tensor, right: &Tensor) -> f64 {
    let (left, right) = (left.to_kind(Kind::Double), right.to_kind(Kind::Double));
    let largest = right.abs().max().double_value(&[]).max(1e-30);
    (left - right).abs().max().double_value(&[]) / largest
}

#[test]
fn every_version_equals_the_reference_forward_and_backward() {
    every_version_equals_the_reference_on(Device::Cpu);
}

#[test]
fn every_version_equals_the_reference_on_a_gpu() {
    match *GPU {
        Ok(gpu) => {
            let kernels = Cuda::loaded();
            assert!(kernels.is_ok(), "{kernels:?}");
            every_version_equals_the_reference_on(gpu);
            extremes_on(gpu);
        }
        Err(reason) => println!("skipped: {reason}"),
    }
}

fn every_version_equals_the_reference_on(device: Device) {
    // Vocabularies below, at and above the vector width, and one that needs several chunks.
    for (rows, width, vocabulary) in [
        (1, 3, 5),
        (7, 8, 16),
        (13, 24, 65),
        (40, 32, 1003),
        (96, 16, 50_257),
    ] {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            let (hidden, weight, targets) = inputs(rows, width, vocabulary, kind);
            let inputs = (
                hidden.to_device(device),
                weight.to_device(device),
                targets.to_device(device),
            );
            let scale = 1.0 / rows as f64;
            let expected = run(&inputs, |h, w, t| head_loss_reference(h, w, t, scale));
            for version in [Version::Chunked, Version::Fused] {
                let found = run(&inputs, |h, w, t| {
                    head_loss(h, w, t, scale, version).unwrap()
                });
                for (part, left, right) in [
                    ("loss", &found.0, &expected.0),
                    ("hidden", &found.1, &expected.1),
                    ("weight", &found.2, &expected.2),
                ] {
                    let error = error(left, right);
                    assert!(
                        error < tolerance,
                        "{version:?} {kind:?} {rows}x{width}x{vocabulary} {part}: {error}"
                    );
                    assert_eq!(left.kind(), right.kind());
                }
            }
        }
    }
}

#[test]
fn the_gradient_follows_what_comes_from_above() {
    let inputs = inputs(9, 8, 20, Kind::Float);
    let expected = run(&inputs, |h, w, t| head_loss_reference(h, w, t, 1.0) * 3.0);
    let found = run(&inputs, |h, w, t| {
        head_loss(h, w, t, 1.0, Version::Fused).unwrap() * 3.0
    });
    assert!(error(&found.1, &expected.1) < 1e-5 && error(&found.2, &expected.2) < 1e-5);
}

#[test]
fn extreme_logits_stay_finite_and_nan_is_not_hidden() {
    extremes_on(Device::Cpu);
}

fn extremes_on(device: Device) {
    LazyLock::force(&GPU);
    let hidden = Tensor::from_slice(&[1.0f32]).view([1, 1]);
    let weight = Tensor::from_slice(&[500.0f32, -500.0, 80.0]).view([3, 1]);
    let weight = weight.to_device(device);
    let loss = |hidden: &Tensor, target: i64| {
        head_loss(
            &hidden.to_device(device),
            &weight,
            &Tensor::from_slice(&[target]).to_device(device),
            1.0,
            Version::Fused,
        )
        .unwrap()
        .double_value(&[])
    };
    assert!(loss(&hidden, 0).abs() < 1e-6);
    assert!((loss(&hidden, 1) - 1000.0).abs() < 1e-3);
    let broken = Tensor::from_slice(&[f32::NAN]).view([1, 1]);
    assert!(loss(&broken, 0).is_nan());
}

#[test]
fn without_gradients_only_the_loss_is_computed() {
    let (hidden, weight, targets) = inputs(9, 8, 20, Kind::Float);
    let loss = head_loss(&hidden, &weight, &targets, 1.0, Version::Fused).unwrap();
    assert!(!loss.requires_grad());
    assert!(error(&loss, &head_loss_reference(&hidden, &weight, &targets, 1.0)) < 1e-6);
    // A frozen head still passes the gradient on.
    let hidden = hidden.set_requires_grad(true);
    head_loss(&hidden, &weight, &targets, 1.0, Version::Fused)
        .unwrap()
        .backward();
    assert!(hidden.grad().defined() && !weight.grad().defined());
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (hidden, weight, targets) = inputs(9, 8, 20, Kind::Float);
    let before = head_loss_calls();
    for (targets, word) in [
        (Tensor::full_like(&targets, 20), "outside the vocabulary"),
        (Tensor::full_like(&targets, -1), "outside the vocabulary"),
        (targets.narrow(0, 0, 3), "got hidden"),
        (targets.to_kind(Kind::Int), "int64"),
    ] {
        let error = head_loss(&hidden, &weight, &targets, 1.0, Version::Fused).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.category(), "KernelError");
    }
    assert!(head_loss(&hidden, &weight, &targets, 1.0, Version::Fused).is_ok());
    assert!(head_loss_calls() > before);
}

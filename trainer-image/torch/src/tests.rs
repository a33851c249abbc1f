//! The shim against plain formulas.

use tch::{Kind, Tensor};

use super::*;

#[test]
fn peaks_are_those_of_the_data_sheets() {
    let h100 = "NVIDIA H100 80GB HBM3";
    assert_eq!(peak_of(h100, Kind::BFloat16), Some(989.4e12));
    assert_eq!(peak_of(h100, Kind::Float), Some(66.9e12));
    assert_eq!(peak_of("NVIDIA H100 PCIe", Kind::BFloat16), Some(756e12));
    assert_eq!(peak_of("NVIDIA L40S", Kind::BFloat16), Some(362e12));
    assert_eq!(peak_of(h100, Kind::Double), None);
    assert_eq!(peak_of("another", Kind::Float), None);
    assert_eq!(peak_flops(Device::Cpu, Kind::Float), None);
    match device(1) {
        Ok(gpu) => assert!(peak_flops(gpu, Kind::BFloat16).is_some()),
        Err(reason) => println!("skipped: {reason}"),
    }
}

fn close(left: &Tensor, right: &Tensor, tolerance: f64) {
    let difference = (left - right).abs().max().double_value(&[]);
    assert!(difference <= tolerance, "difference {difference}");
}

#[test]
fn fused_adamw_follows_the_formula_for_three_steps() {
    let options = AdamW {
        rate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        decay: 0.1,
    };
    let fused = [
        Tensor::from_slice(&[1.0f32, -2.0, 3.0]),
        Tensor::from_slice(&[0.5f32]),
    ];
    let means: Vec<Tensor> = fused.iter().map(Tensor::zeros_like).collect();
    let squares: Vec<Tensor> = fused.iter().map(Tensor::zeros_like).collect();
    let mut plain: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> = vec![
        (vec![1.0, -2.0, 3.0], vec![0.0; 3], vec![0.0; 3]),
        (vec![0.5], vec![0.0], vec![0.0]),
    ];
    for step in 1..=3i32 {
        let gradients = [
            Tensor::from_slice(&[0.1f32, -0.2, 0.3 * step as f32]),
            Tensor::from_slice(&[-0.4f32]),
        ];
        fused_adamw(
            &fused,
            &gradients,
            &means,
            &squares,
            i64::from(step),
            options,
        )
        .unwrap();
        for ((value, mean, square), gradient) in plain.iter_mut().zip(&gradients) {
            for i in 0..value.len() {
                let g = gradient.double_value(&[i as i64]);
                value[i] *= 1.0 - options.rate * options.decay;
                mean[i] = options.beta1 * mean[i] + (1.0 - options.beta1) * g;
                square[i] = options.beta2 * square[i] + (1.0 - options.beta2) * g * g;
                let corrected = mean[i] / (1.0 - options.beta1.powi(step));
                let root = (square[i] / (1.0 - options.beta2.powi(step))).sqrt();
                value[i] -= options.rate * corrected / (root + options.epsilon);
            }
        }
    }
    for (tensor, (value, _, _)) in fused.iter().zip(&plain) {
        close(
            &tensor.to_kind(Kind::Double),
            &Tensor::from_slice(value),
            1e-6,
        );
    }
}

#[test]
fn unequal_lists_are_refused() {
    let options = AdamW {
        rate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        decay: 0.0,
    };
    let one = [Tensor::from_slice(&[1.0f32])];
    let error = fused_adamw(&one, &[], &one, &one, 1, options).unwrap_err();
    assert!(
        error.to_string().contains("1 parameters, 0 gradients"),
        "{error}"
    );
}

#[test]
fn norm_and_scale_act_on_all_tensors_together() {
    let tensors = [
        Tensor::from_slice(&[3.0f32]),
        Tensor::from_slice(&[0.0f32, 4.0]),
    ];
    assert!((global_norm(&tensors).unwrap() - 5.0).abs() < 1e-12);
    scale(&tensors, 0.5).unwrap();
    assert!((global_norm(&tensors).unwrap() - 2.5).abs() < 1e-12);
    assert!(global_norm(&[]).unwrap().abs() < 1e-12);
}

#[test]
fn cleared_gradients_do_not_accumulate() {
    let weight = [Tensor::from_slice(&[2.0f32]).set_requires_grad(true)];
    for _ in 0..2 {
        clear_gradients(&weight).unwrap();
        assert!(!weight[0].grad().defined());
        (&weight[0] * 3.0).sum(Kind::Float).backward();
        assert!((weight[0].grad().double_value(&[0]) - 3.0).abs() < 1e-12);
    }
}

//! Owns the AVX2 form of the inference arithmetic: plain loops, which the compiler turns into
//! vector code once it may use fused multiply-add. Equal bit for bit to `portable`. It must not be
//! called where [`available`] is false: the public functions check it.
#![allow(
    unsafe_code,
    reason = "calling a function compiled for more instructions than the program is only sound after the check, which every caller here makes"
)]

use super::portable::{self, Element};
use super::{LANES, Weights};

/// Weight rows computed together: their sums fill the registers.
const ROWS: usize = 4;

/// Whether this machine has the instructions (looked up once by the standard library).
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// See [`super::project`].
pub fn project(weights: Weights<'_>, width: usize, inputs: &[f32], output: &mut [f32]) {
    assert!(available());
    // SAFETY: the features were just detected.
    match weights {
        Weights::Single(weights) => unsafe { project_elements(weights, width, inputs, output) },
        Weights::Brain(weights) => unsafe { project_elements(weights, width, inputs, output) },
    }
}

#[target_feature(enable = "avx2,fma")]
fn project_elements<E: Element>(weights: &[E], width: usize, inputs: &[f32], output: &mut [f32]) {
    let batch = inputs.len() / width.max(1);
    if batch == 0 || width == 0 {
        return;
    }
    let mut parts = weights.chunks_exact(width * ROWS);
    let mut outputs = output.chunks_exact_mut(batch * ROWS);
    for (part, results) in parts.by_ref().zip(outputs.by_ref()) {
        let mut rows = part.chunks_exact(width);
        let rows: [&[E]; ROWS] = std::array::from_fn(|_| rows.next().unwrap_or_default());
        for (b, input) in inputs.chunks_exact(width).enumerate() {
            for (value, result) in dots(rows, input)
                .into_iter()
                .zip(results.iter_mut().skip(b).step_by(batch))
            {
                *result = value;
            }
        }
    }
    portable::project_elements(parts.remainder(), width, inputs, outputs.into_remainder());
}

/// Four dot products with one input.
#[inline(always)]
fn dots<E: Element>(rows: [&[E]; ROWS], input: &[f32]) -> [f32; ROWS] {
    let (blocks, tail) = input.as_chunks::<LANES>();
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<LANES>());
    let mut sums = [[0.0_f32; LANES]; ROWS];
    for ((((x, a), b), c), d) in blocks.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        for (sums, row) in sums.iter_mut().zip([a, b, c, d]) {
            for ((sum, weight), x) in sums.iter_mut().zip(row).zip(x) {
                *sum = weight.widen().mul_add(*x, *sum);
            }
        }
    }
    let mut totals = sums.map(portable::fold);
    for (total, rest) in totals.iter_mut().zip([a.1, b.1, c.1, d.1]) {
        for (weight, x) in rest.iter().zip(tail) {
            *total = weight.widen().mul_add(*x, *total);
        }
    }
    totals
}

/// See [`super::accumulate`].
pub fn accumulate(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    assert!(available());
    // SAFETY: the features were just detected.
    unsafe { accumulate_vectors(factors, vectors, output) };
}

#[target_feature(enable = "avx2,fma")]
fn accumulate_vectors(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    portable::accumulate(factors, vectors, output);
}

//! Owns the AVX-512 form of the inference arithmetic; equal bit for bit to `portable`. It must
//! not be called where [`available`] is false: the public functions check it.
#![allow(
    unsafe_code,
    reason = "unaligned vector loads take pointers; each is bounded by the slice lengths asserted at the top of `tile`"
)]

use super::{LANES, Weights, portable};
use std::arch::x86_64::{
    __m512, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

/// Input rows that share one pass over the weights.
const BATCH_TILE: usize = 6;

/// Whether this machine has the instructions (looked up once by the standard library).
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

trait Element: portable::Element {
    /// Loads sixteen elements, widened to FP32.
    ///
    /// # Safety
    /// `at` must be valid for reads of sixteen elements.
    unsafe fn load(at: *const Self) -> __m512;
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(at: *const Self) -> __m512 {
        // SAFETY: the caller vouches for sixteen readable elements.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Element for u16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(at: *const Self) -> __m512 {
        // SAFETY: the caller vouches for sixteen readable elements, 32 bytes.
        let bits = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// See [`super::project`].
pub fn project(weights: Weights<'_>, width: usize, inputs: &[f32], output: &mut [f32]) {
    assert!(available());
    // SAFETY: the feature was just detected.
    match weights {
        Weights::Single(weights) => unsafe { project_elements(weights, width, inputs, output) },
        Weights::Brain(weights) => unsafe { project_elements(weights, width, inputs, output) },
    }
}

#[target_feature(enable = "avx512f")]
fn project_elements<E: Element>(weights: &[E], width: usize, inputs: &[f32], output: &mut [f32]) {
    let batch = inputs.len() / width.max(1);
    if batch == 0 || width == 0 {
        return;
    }
    // One input row needs many weight rows in flight to hide the latency of the additions;
    // several input rows bring their own parallelism.
    let rows = if batch <= 2 { 8 } else { 4 };
    let mut parts = weights.chunks_exact(width * rows);
    let mut outputs = output.chunks_exact_mut(batch * rows);
    for (part, results) in parts.by_ref().zip(outputs.by_ref()) {
        for (first, block) in inputs.chunks(BATCH_TILE * width).enumerate() {
            let first = first * BATCH_TILE;
            match (rows, block.len() / width) {
                (8, 1) => tile::<E, 8, 1>(part, width, block, results, batch, first),
                (8, _) => tile::<E, 8, 2>(part, width, block, results, batch, first),
                (_, 1) => tile::<E, 4, 1>(part, width, block, results, batch, first),
                (_, 2) => tile::<E, 4, 2>(part, width, block, results, batch, first),
                (_, 3) => tile::<E, 4, 3>(part, width, block, results, batch, first),
                (_, 4) => tile::<E, 4, 4>(part, width, block, results, batch, first),
                (_, 5) => tile::<E, 4, 5>(part, width, block, results, batch, first),
                _ => tile::<E, 4, 6>(part, width, block, results, batch, first),
            }
        }
    }
    let rest = outputs.into_remainder();
    for (row, results) in parts
        .remainder()
        .chunks_exact(width)
        .zip(rest.chunks_exact_mut(batch))
    {
        for (first, input) in inputs.chunks_exact(width).enumerate() {
            tile::<E, 1, 1>(row, width, input, results, batch, first);
        }
    }
}

/// `R` weight rows times `B` input rows; writes `output[r * batch + first + b]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn tile<E: Element, const R: usize, const B: usize>(
    weights: &[E],
    width: usize,
    inputs: &[f32],
    output: &mut [f32],
    batch: usize,
    first: usize,
) {
    assert!(weights.len() >= R * width && inputs.len() >= B * width);
    let (weight, input) = (weights.as_ptr(), inputs.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); B]; R];
    let whole = width / LANES * LANES;
    let mut k = 0;
    while k < whole {
        let mut columns = [_mm512_setzero_ps(); B];
        for (b, column) in columns.iter_mut().enumerate() {
            // SAFETY: b < B and k + 16 <= width, inside `inputs` by the assertion above.
            *column = unsafe { _mm512_loadu_ps(input.add(b * width + k)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: r < R and k + 16 <= width, inside `weights` by the assertion above.
            let row = unsafe { E::load(weight.add(r * width + k)) };
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_fmadd_ps(row, column, *sum);
            }
        }
        k += LANES;
    }
    for (r, sums) in sums.iter().enumerate() {
        for (b, sum) in sums.iter().enumerate() {
            let mut total = fold(*sum);
            for (a, x) in weights
                .iter()
                .skip(r * width + whole)
                .zip(inputs.iter().skip(b * width + whole).take(width - whole))
            {
                total = a.widen().mul_add(*x, total);
            }
            if let Some(result) = output.get_mut(r * batch + first + b) {
                *result = total;
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fold(sum: __m512) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` holds sixteen elements.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) };
    portable::fold(lanes)
}

/// See [`super::accumulate`].
pub fn accumulate(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    assert!(available() && vectors.len() >= factors.len() * output.len());
    // SAFETY: the feature was just detected.
    unsafe { accumulate_vectors(factors, vectors, output) };
}

#[target_feature(enable = "avx512f")]
fn accumulate_vectors(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    let width = output.len();
    let mut column = 0;
    while column + LANES * 4 <= width {
        accumulate_columns::<4>(factors, vectors, output, column);
        column += LANES * 4;
    }
    while column + LANES <= width {
        accumulate_columns::<1>(factors, vectors, output, column);
        column += LANES;
    }
    for (at, sum) in output.iter_mut().enumerate().skip(column) {
        for (factor, value) in factors.iter().zip(vectors.iter().skip(at).step_by(width)) {
            *sum = factor.mul_add(*value, *sum);
        }
    }
}

/// The columns from `column` on, `C` registers wide.
#[inline]
#[target_feature(enable = "avx512f")]
fn accumulate_columns<const C: usize>(
    factors: &[f32],
    vectors: &[f32],
    output: &mut [f32],
    column: usize,
) {
    let width = output.len();
    assert!(column + C * LANES <= width && vectors.len() >= factors.len() * width);
    let (target, source) = (output.as_mut_ptr(), vectors.as_ptr());
    let mut sums = [_mm512_setzero_ps(); C];
    for (c, sum) in sums.iter_mut().enumerate() {
        // SAFETY: column + (c + 1) * 16 <= width, asserted above.
        *sum = unsafe { _mm512_loadu_ps(target.add(column + c * LANES)) };
    }
    for (n, factor) in factors.iter().enumerate() {
        let scale = _mm512_set1_ps(*factor);
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row n exists and its columns end inside it, asserted above.
            let value = unsafe { _mm512_loadu_ps(source.add(n * width + column + c * LANES)) };
            *sum = _mm512_fmadd_ps(scale, value, *sum);
        }
    }
    for (c, sum) in sums.iter().enumerate() {
        // SAFETY: as for the loads from `output`.
        unsafe { _mm512_storeu_ps(target.add(column + c * LANES), *sum) };
    }
}

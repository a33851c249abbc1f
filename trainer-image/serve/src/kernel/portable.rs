//! Owns the plain reference of the inference arithmetic, used on machines with neither AVX-512 nor AVX2 and
//! in tests; always inlined, so that `avx2` can compile it for more instructions. It must stay simple enough to be read as the definition of the result.

use super::{LANES, Weights};

/// An element that widens exactly to FP32.
pub(super) trait Element: Copy {
    /// The value in FP32.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for u16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

/// See [`super::project`].
pub fn project(weights: Weights<'_>, width: usize, inputs: &[f32], output: &mut [f32]) {
    match weights {
        Weights::Single(weights) => project_elements(weights, width, inputs, output),
        Weights::Brain(weights) => project_elements(weights, width, inputs, output),
    }
}

#[inline(always)]
pub(super) fn project_elements<E: Element>(
    weights: &[E],
    width: usize,
    inputs: &[f32],
    output: &mut [f32],
) {
    let batch = inputs.len() / width.max(1);
    for (row, results) in weights
        .chunks_exact(width)
        .zip(output.chunks_exact_mut(batch.max(1)))
    {
        for (input, result) in inputs.chunks_exact(width).zip(results) {
            *result = dot_elements(row, input);
        }
    }
}

#[inline(always)]
fn dot_elements<E: Element>(left: &[E], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left_blocks, left_tail) = left.as_chunks::<LANES>();
    let (right_blocks, right_tail) = right.as_chunks::<LANES>();
    for (a, b) in left_blocks.iter().zip(right_blocks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.widen().mul_add(*b, *sum);
        }
    }
    let mut total = fold(sums);
    for (a, b) in left_tail.iter().zip(right_tail) {
        total = a.widen().mul_add(*b, total);
    }
    total
}

/// Adds the lanes pairwise: halves, then halves of halves.
#[inline(always)]
pub(super) fn fold(sums: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = sums;
    let (a, b, c, d) = (a + i, b + j, c + k, d + l);
    let (e, f, g, h) = (e + m, f + n, g + o, h + p);
    let (a, b, c, d) = (a + e, b + f, c + g, d + h);
    (a + c) + (b + d)
}

/// See [`super::accumulate`].
#[inline(always)]
pub fn accumulate(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    for (factor, vector) in factors
        .iter()
        .zip(vectors.chunks_exact(output.len().max(1)))
    {
        for (sum, value) in output.iter_mut().zip(vector) {
            *sum = factor.mul_add(*value, *sum);
        }
    }
}

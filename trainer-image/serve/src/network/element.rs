//! Owns the element-wise and normalising arithmetic between the matrices. It must treat every row
//! alone, so that a row's bits do not depend on its batch. Rows are shared between the threads of the pool.

use rayon::prelude::*;

/// Rows that one thread takes at least: fewer are done sooner than another thread wakes.
const ROWS: usize = 8;

/// Root-mean-square normalisation (Zhang and Sennrich 2019) of each row of `values`, times `gain`.
pub fn rms_norm(values: &[f32], gain: &[f32], epsilon: f32) -> Vec<f32> {
    let mut output = values.to_vec();
    output
        .par_chunks_exact_mut(gain.len().max(1))
        .with_min_len(ROWS)
        .for_each(|row| {
            let squares: f32 = sum(row, |value| value * value);
            let scale = 1.0 / (squares / gain.len() as f32 + epsilon).sqrt();
            row.iter_mut()
                .zip(gain)
                .for_each(|(value, gain)| *value = *value * scale * gain);
        });
    output
}

/// Layer normalisation (Ba et al. 2016) of each row of `values`, times `gain`, plus `bias` unless it is empty.
pub fn layer_norm(values: &[f32], gain: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let mut output = values.to_vec();
    let width = gain.len() as f32;
    output
        .par_chunks_exact_mut(gain.len().max(1))
        .with_min_len(ROWS)
        .for_each(|row| {
            let mean = sum(row, |value| value) / width;
            let variance = sum(row, |value| (value - mean) * (value - mean)) / width;
            let scale = 1.0 / (variance + epsilon).sqrt();
            row.iter_mut()
                .zip(gain)
                .for_each(|(value, gain)| *value = (*value - mean) * scale * gain);
            row.iter_mut()
                .zip(bias)
                .for_each(|(value, bias)| *value += bias);
        });
    output
}

/// Sum of `term` over `values` with sixteen partial sums: fixed order, less rounding than one chain.
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (parts, tail) = values.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for part in parts {
        sums.iter_mut()
            .zip(part)
            .for_each(|(sum, value)| *sum += term(*value));
    }
    sums.iter().sum::<f32>() + tail.iter().map(|value| term(*value)).sum::<f32>()
}

/// SwiGLU (Shazeer 2020): rows of [gate, up] halves to silu(gate) * up.
pub fn gated_silu(values: &[f32], width: usize) -> Vec<f32> {
    let mut output = vec![0.0; values.len() / 2];
    let rows = output
        .par_chunks_exact_mut(width)
        .zip(values.par_chunks_exact(width * 2));
    rows.with_min_len(ROWS).for_each(|(output, row)| {
        let (gate, up) = row.split_at(width);
        for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
            *output = gate / (1.0 + exp(-gate)) * up;
        }
    });
    output
}

/// GELU in the tanh form that GPT-2 was trained with (Hendrycks and Gimpel 2016), in place.
pub fn gelu(values: &mut [f32]) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    values
        .par_iter_mut()
        .with_min_len(ROWS * 1024)
        .for_each(|value| {
            let x = *value;
            *value = 0.5 * x * (1.0 + (ROOT * (x + 0.044_715 * x * x * x)).tanh());
        });
}

/// Softmax weights of `scores * scale`, unnormalised, in place; returns their sum.
pub fn softmax_weights(scores: &mut [f32], scale: f32) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores
        .iter_mut()
        .for_each(|score| *score = exp((*score - highest) * scale));
    sum(scores, |score| score)
}

/// e^x within 2 units in the last place, without branches so that loops over it become vector
/// code (Cephes' expf: reduction by ln 2 in two parts, polynomial of degree 5). Saturates instead
/// of overflowing; NaN stays NaN.
pub fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let rest = x - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let polynomial = ((((1.987_569_1e-4 * rest + 1.398_2e-3) * rest + 8.333_452e-3) * rest
        + 4.166_579_6e-2)
        * rest
        + 1.666_666_5e-1)
        * rest
        + 5e-1;
    let fraction = polynomial * rest * rest + rest + 1.0;
    let exponent = (shifted.to_bits().wrapping_add(127)) << 23;
    fraction * f32::from_bits(exponent)
}

/// Rotates the halves of each head of `vector` by the angles of one position: `cosines` and
/// `sines` hold half a head's width.
pub fn rotate(vector: &mut [f32], cosines: &[f32], sines: &[f32]) {
    for head in vector.chunks_exact_mut(cosines.len() * 2) {
        let (left, right) = head.split_at_mut(cosines.len());
        for (((a, b), cosine), sine) in left.iter_mut().zip(right).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close_everywhere() {
        let worst = (-8700..8830)
            .map(|i| i as f32 / 100.0)
            .map(|x| ((f64::from(exp(x)) - f64::from(x).exp()) / f64::from(x).exp()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "{worst}");
        assert!(
            exp(f32::NEG_INFINITY) < 2e-38
                && exp(f32::INFINITY).is_finite()
                && exp(f32::NAN).is_nan()
        );
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn norms_have_their_defining_moments() {
        let values: Vec<f32> = (0..80)
            .map(|i| (i as f32 * 0.7).sin() * 3.0 + 1.0)
            .collect();
        let gain = vec![1.0; 40];
        let root = rms_norm(&values, &gain, 0.0);
        assert!((root[..40].iter().map(|v| v * v).sum::<f32>() / 40.0 - 1.0).abs() < 1e-5);
        let layer = layer_norm(&values, &gain, &[2.0; 40], 0.0);
        assert!((layer[40..].iter().sum::<f32>() / 40.0 - 2.0).abs() < 1e-5);
        assert!(
            (layer[40..]
                .iter()
                .map(|v| (v - 2.0) * (v - 2.0))
                .sum::<f32>()
                / 40.0
                - 1.0)
                .abs()
                < 1e-5
        );
    }

    #[test]
    fn activations_have_known_values() {
        assert!((gated_silu(&[1.0, 2.0], 1)[0] - 2.0 * 0.731_058_6).abs() < 1e-6);
        let mut values = [1.0, -1.0, 0.0];
        gelu(&mut values);
        assert!(
            (values[0] - 0.841_192).abs() < 1e-5
                && (values[1] + 0.158_808).abs() < 1e-5
                && values[2] == 0.0
        );
        let mut scores = [0.0, 2.0_f32.ln()];
        let sum = softmax_weights(&mut scores, 1.0);
        assert!((scores[1] / sum - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn rotation_by_a_quarter_turn_swaps_halves() {
        let mut vector = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut vector, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(vector, [-3.0, 2.0, 1.0, 4.0]);
    }
}

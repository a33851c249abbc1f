//! Owns the arithmetic of CPU inference: matrix times a batch of vectors, dot products and
//! scaled additions, over FP32 or BF16 weights with FP32 accumulation. It must not know about
//! models, caches or threads.
//!
//! Every output element is one dot product whose sixteen partial sums are added in a fixed
//! order that depends on the length alone. A row therefore gets the same bits whatever else is
//! in the batch, however rows are tiled and however many threads share the work: that is what
//! makes scores independent of the batch. The plain reference is [`portable`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod portable;

/// Lanes of partial sums; part of the definition of the result, not of the machine.
pub(crate) const LANES: usize = 16;

/// A row-major matrix as the checkpoint stores it. BF16 is kept as its 16 bits and widened,
/// exactly, on the way into the multiplication.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// FP32 elements.
    Single(&'a [f32]),
    /// BF16 elements, by their bits.
    Brain(&'a [u16]),
}

/// Writes `output[n * batch + b] = dot(weights[n], inputs[b])` for every row `n` of `weights`
/// (each `width` long) and every row `b` of `inputs`. The output is transposed (row of the
/// matrix first) so that threads can own disjoint, contiguous parts of it.
pub fn project(weights: Weights<'_>, width: usize, inputs: &[f32], output: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return avx512::project(weights, width, inputs, output);
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        return avx2::project(weights, width, inputs, output);
    }
    portable::project(weights, width, inputs, output);
}

/// Writes `output = sum over n of factors[n] * vectors[n]`, added in the order of `n`; each vector
/// is as long as `output`. This is attention's weighted sum of values for one run of positions;
/// what `output` held is the start of the sum.
pub fn accumulate(factors: &[f32], vectors: &[f32], output: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return avx512::accumulate(factors, vectors, output);
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        return avx2::accumulate(factors, vectors, output);
    }
    portable::accumulate(factors, vectors, output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    fn brain(values: &[f32]) -> Vec<u16> {
        values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
    }

    #[test]
    fn fast_path_equals_the_reference_bit_for_bit() {
        for (rows, width, batch) in [
            (1, 16, 1),
            (9, 40, 1),
            (17, 64, 2),
            (8, 33, 3),
            (13, 96, 7),
            (5, 7, 13),
        ] {
            let single = values(rows * width, 1);
            let short = brain(&single);
            let inputs = values(batch * width, 2);
            for weights in [Weights::Single(&single), Weights::Brain(&short)] {
                let (mut fast, mut plain) = (vec![0.0; rows * batch], vec![0.0; rows * batch]);
                project(weights, width, &inputs, &mut fast);
                portable::project(weights, width, &inputs, &mut plain);
                assert_eq!(fast, plain, "{rows} x {width}, batch {batch}");
                #[cfg(target_arch = "x86_64")]
                if avx2::available() {
                    fast.fill(0.0);
                    avx2::project(weights, width, &inputs, &mut fast);
                    assert_eq!(fast, plain, "AVX2, {rows} x {width}, batch {batch}");
                }
            }
            let factors = values(rows, 7);
            let (mut fast, mut plain) = (inputs[..width].to_vec(), inputs[..width].to_vec());
            accumulate(&factors, &single, &mut fast);
            portable::accumulate(&factors, &single, &mut plain);
            assert_eq!(fast, plain);
            #[cfg(target_arch = "x86_64")]
            if avx2::available() {
                fast.copy_from_slice(&inputs[..width]);
                avx2::accumulate(&factors, &single, &mut fast);
                assert_eq!(fast, plain);
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let (rows, width, batch) = (37, 80, 11);
        let weights = values(rows * width, 3);
        let inputs = values(batch * width, 4);
        let mut together = vec![0.0; rows * batch];
        project(Weights::Single(&weights), width, &inputs, &mut together);
        for b in 0..batch {
            let mut alone = vec![0.0; rows];
            project(
                Weights::Single(&weights),
                width,
                &inputs[b * width..(b + 1) * width],
                &mut alone,
            );
            for n in 0..rows {
                assert_eq!(alone[n].to_bits(), together[n * batch + b].to_bits());
            }
        }
    }

    #[test]
    fn products_agree_with_double_precision() {
        let (left, right) = (values(1000, 5), values(1000, 6));
        let exact: f64 = left
            .iter()
            .zip(&right)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        let mut result = [0.0];
        project(Weights::Single(&left), 1000, &right, &mut result);
        assert!((f64::from(result[0]) - exact).abs() < 1e-4);
        let mut sum = left.clone();
        accumulate(&[0.5], &right, &mut sum);
        assert!(
            sum.iter()
                .zip(left.iter().zip(&right))
                .all(|(s, (a, b))| *s == 0.5f32.mul_add(*b, *a))
        );
    }
}

//! Owns the random numbers of new weights: a function of seed and name, whatever the order or thread; it must
//! not decide their spread.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::Error;

/// FP32 numbers from N(0, deviation) by Box and Muller, in `shape`.
pub(crate) fn normal(
    seed: u64,
    name: &str,
    shape: &[i64],
    deviation: f64,
    device: Device,
) -> Result<Tensor, Error> {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name);
    let mut random = ChaCha8Rng::from_seed(hash.finalize().into());
    let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
    let mut values: Vec<f32> = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let (u, v): (f64, f64) = (random.random(), random.random());
        let radius = deviation * (-2.0 * (1.0 - u).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * v).sin_cos();
        values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
    }
    values.truncate(count);
    Ok(Tensor::from_slice(&values).f_view(shape)?.to_device(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_normal_and_depend_on_seed_and_name_only() {
        let draw = |seed, name: &str| normal(seed, name, &[101, 99], 0.02, Device::Cpu).unwrap();
        let first = draw(1, "a");
        assert!(first.mean(tch::Kind::Double).double_value(&[]).abs() < 1e-3);
        assert!((first.std(true).double_value(&[]) - 0.02).abs() < 5e-4);
        // Kurtosis of a normal distribution: 3.
        let fourth = first
            .to_kind(tch::Kind::Double)
            .pow_tensor_scalar(4)
            .mean(tch::Kind::Double)
            .double_value(&[]);
        assert!((fourth / 0.02f64.powi(4) - 3.0).abs() < 0.3);
        assert!(first.equal(&draw(1, "a")));
        assert!(!first.equal(&draw(2, "a")) && !first.equal(&draw(1, "b")));
    }
}

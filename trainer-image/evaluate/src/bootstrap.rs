//! Owns intervals by the percentile bootstrap (Efron 1979), seeded, paired where two systems are compared; it
//! must not know which metric is resampled.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The middle 95 % of the resampled values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Resampling plan: the same seed, draws and size give the same resamples, so that intervals of two systems over
/// the same samples are paired.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    /// Seed.
    pub seed: u64,
    /// Resamples; 0 gives no interval.
    pub draws: u32,
}

impl Bootstrap {
    /// Interval of `value`, a function of the multiset of chosen samples: it gets the indices of a resample.
    /// `None` without draws or samples, or when a resample has no finite value.
    pub fn interval(
        &self,
        samples: usize,
        mut value: impl FnMut(&[usize]) -> f64,
    ) -> Option<Interval> {
        if samples == 0 || self.draws == 0 {
            return None;
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut chosen = vec![0; samples];
        let mut values = Vec::with_capacity(self.draws as usize);
        for _ in 0..self.draws {
            for index in &mut chosen {
                *index = random.random_range(0..samples as u64) as usize;
            }
            let one = value(&chosen);
            if !one.is_finite() {
                return None;
            }
            values.push(one);
        }
        values.sort_by(f64::total_cmp);
        // sacrebleu's choice of ranks: as many left out below as above.
        let skip = values.len() / 40;
        Some(Interval {
            low: *values.get(skip)?,
            high: *values.get(values.len() - 1 - skip)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], chosen: &[usize]) -> f64 {
        chosen.iter().map(|index| values[*index]).sum::<f64>() / chosen.len() as f64
    }

    #[test]
    fn the_interval_of_a_mean_is_the_normal_one_and_repeats() {
        let values: Vec<f64> = (0..400).map(|index| f64::from(index % 20)).collect();
        let bootstrap = Bootstrap {
            seed: 7,
            draws: 2000,
        };
        let found = bootstrap
            .interval(values.len(), |chosen| mean(&values, chosen))
            .unwrap();
        // mean 9.5, deviation 5.766, 1.96 * 5.766 / 20 = 0.565
        assert!(
            (found.low - 8.935).abs() < 0.06 && (found.high - 10.065).abs() < 0.06,
            "{found:?}"
        );
        assert_eq!(
            Some(found),
            bootstrap.interval(values.len(), |chosen| mean(&values, chosen))
        );
        let other = Bootstrap {
            seed: 8,
            draws: 2000,
        };
        assert_ne!(
            Some(found),
            other.interval(values.len(), |chosen| mean(&values, chosen))
        );
    }

    #[test]
    fn pairing_finds_a_small_constant_difference() {
        let first: Vec<f64> = (0..50).map(|index| f64::from(index * index % 97)).collect();
        let second: Vec<f64> = first.iter().map(|value| value + 0.5).collect();
        let bootstrap = Bootstrap {
            seed: 1,
            draws: 500,
        };
        let delta = bootstrap
            .interval(50, |chosen| mean(&second, chosen) - mean(&first, chosen))
            .unwrap();
        assert!((delta.low - 0.5).abs() < 1e-9 && (delta.high - 0.5).abs() < 1e-9);
    }

    #[test]
    fn no_interval_without_samples_or_of_what_is_no_number() {
        let bootstrap = Bootstrap { seed: 1, draws: 10 };
        assert_eq!(bootstrap.interval(0, |_| 1.0), None);
        assert_eq!(bootstrap.interval(3, |_| f64::NAN), None);
    }
}

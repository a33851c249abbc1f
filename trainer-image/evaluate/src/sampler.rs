//! Owns the choice of the next token from logits; it must not ask a model.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Parameters of the choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    /// 0 is greedy.
    pub temperature: f64,
    /// Smallest set of most likely tokens with at least this mass.
    pub top_p: f64,
}

impl Sampler {
    /// The chosen index; of equally likely ones the lowest. `None` when there is no finite logit.
    pub fn choose(&self, logits: &[f32], random: &mut ChaCha8Rng) -> Option<usize> {
        let best = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| logit.is_finite())
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?;
        if self.temperature <= 0.0 {
            return Some(best.0);
        }
        let top = f64::from(*best.1);
        let mut all: Vec<(usize, f64)> = logits
            .iter()
            .map(|logit| ((f64::from(*logit) - top) / self.temperature).exp())
            .enumerate()
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut mass = 0.0;
        let keep = all
            .iter()
            .position(|(_, weight)| {
                mass += weight;
                mass >= self.top_p * total
            })
            .map_or(all.len(), |last| last + 1);
        all.truncate(keep);
        let kept: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut left = random.random::<f64>() * kept;
        for (index, weight) in &all {
            left -= weight;
            if left < 0.0 {
                return Some(*index);
            }
        }
        all.last().map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let greedy = Sampler {
            temperature: 0.0,
            top_p: 1.0,
        };
        assert_eq!(
            greedy.choose(&[0.0, 3.0, f32::NAN, 3.0], &mut random),
            Some(1)
        );
        assert_eq!(greedy.choose(&[f32::NAN], &mut random), None);
    }

    #[test]
    fn shares_follow_the_distribution_and_the_nucleus_cuts_the_tail() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|share| share.ln()).collect();
        let mut share = |top_p| {
            let mut counts = [0; 3];
            for _ in 0..20_000 {
                counts[Sampler {
                    temperature: 1.0,
                    top_p,
                }
                .choose(&logits, &mut random)
                .unwrap()] += 1;
            }
            counts.map(|count| f64::from(count) / 20_000.0)
        };
        let all = share(1.0);
        assert!(
            (all[0] - 0.5).abs() < 0.02 && (all[2] - 0.2).abs() < 0.02,
            "{all:?}"
        );
        let nucleus = share(0.7);
        assert!(
            nucleus[2] == 0.0 && (nucleus[0] - 0.625).abs() < 0.02,
            "{nucleus:?}"
        );
    }
}

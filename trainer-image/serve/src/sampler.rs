//! Owns the choice of the next token from logits and the log-probabilities reported with it. It
//! must draw only from the generator it is given: a request's tokens are a function of its logits
//! and its seed.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How the next token is chosen: temperature first, then the `top_k` likeliest, then the nucleus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token (the lowest id among equals).
    pub temperature: f32,
    /// Likeliest tokens considered; 0 considers all.
    pub top_k: usize,
    /// Smallest set of likeliest tokens with at least this probability is considered; 1 takes all.
    pub top_p: f32,
}

/// A token with its natural log-probability under the model itself (before temperature).
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Its id.
    pub token: u32,
    /// At most 0.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// The model produced no finite logit; the weights are damaged or the arithmetic overflowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model produced values that are not numbers; its weights are damaged")]
pub struct NotFinite;

/// The generator of choice number `choice` of a request.
#[must_use]
pub fn generator(seed: u64, choice: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(choice);
    random
}

/// Chooses the next token.
///
/// # Errors
/// When the logits are not finite.
pub fn choose(
    logits: &[f32],
    sampling: Sampling,
    random: &mut ChaCha8Rng,
) -> Result<u32, NotFinite> {
    let (best, highest) = likeliest(logits)?;
    if sampling.temperature <= 0.0 {
        return Ok(best);
    }
    // Probabilities relative to the likeliest, so the largest is 1.
    let scale = 1.0 / sampling.temperature;
    let weight = |logit: f32| f64::from(crate::network::exp((logit - highest) * scale));
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut candidates: Vec<(u32, f64)> = if sampling.top_k > 0 && sampling.top_k < logits.len() {
        top(logits, sampling.top_k)
            .into_iter()
            .map(|(id, logit)| (id, weight(logit)))
            .collect()
    } else {
        (0..)
            .zip(logits)
            .map(|(id, logit)| (id, weight(*logit)))
            .collect()
    };
    if sampling.top_p < 1.0 {
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        // Tokens below this weight together hold less than what the nucleus leaves out.
        let floor = (1.0 - f64::from(sampling.top_p)) * total / candidates.len() as f64;
        candidates.retain(|(_, weight)| *weight >= floor);
        candidates.sort_unstable_by(order);
        let mut reached = 0.0;
        let nucleus = candidates.iter().take_while(|(_, weight)| {
            let before = reached;
            reached += weight;
            before < f64::from(sampling.top_p) * total
        });
        let kept = nucleus.count().max(1);
        candidates.truncate(kept);
    }
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut point = random.random::<f64>() * total;
    for (id, weight) in &candidates {
        point -= weight;
        if point < 0.0 {
            return Ok(*id);
        }
    }
    Ok(candidates.last().map_or(best, |(id, _)| *id))
}

/// Scores `token` and the `count` likeliest tokens.
///
/// # Errors
/// When the logits are not finite.
pub fn score(logits: &[f32], token: u32, count: usize) -> Result<Score, NotFinite> {
    let (_, highest) = likeliest(logits)?;
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(crate::network::exp(logit - highest)))
        .sum();
    let normaliser = f64::from(highest) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - normaliser).min(0.0) as f32;
    let own = logits
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    Ok(Score {
        token,
        logprob: logprob(own),
        top: top(logits, count)
            .into_iter()
            .map(|(id, logit)| (id, logprob(logit)))
            .collect(),
    })
}

/// The `count` likeliest ids with their logits, likeliest first, lower ids first among equals.
fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    /// Up to here keeping a short list sorted during one scan is faster than selecting.
    const SHORT: usize = 256;
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best: Vec<(u32, f32)> = Vec::new();
    if count > SHORT {
        best.extend((0..).zip(logits.iter().copied()));
        if count < best.len() {
            best.select_nth_unstable_by(count, order);
            best.truncate(count);
        }
        best.sort_unstable_by(order);
        return best;
    }
    let mut least = f32::NEG_INFINITY;
    for (id, logit) in (0..).zip(logits.iter().copied()) {
        if best.len() == count && logit <= least {
            continue;
        }
        let at = best.partition_point(|(_, other)| *other >= logit);
        best.insert(at, (id, logit));
        best.truncate(count);
        least = best.last().map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
    }
    best
}

/// Id and logit of the likeliest token, the lowest id among equals.
fn likeliest(logits: &[f32]) -> Result<(u32, f32), NotFinite> {
    let mut best = None;
    for (id, logit) in (0..).zip(logits.iter().copied()) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(NotFinite);
        }
        if best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((id, logit));
        }
    }
    best.filter(|(_, highest)| highest.is_finite())
        .ok_or(NotFinite)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 1.0, 3.0, -2.0];

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
        }
    }

    fn histogram(sampling: Sampling) -> [f64; 5] {
        let mut counts = [0.0; 5];
        let mut random = generator(7, 0);
        for _ in 0..20_000 {
            counts[choose(&LOGITS, sampling, &mut random).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(
            choose(&LOGITS, sampling(0.0, 0, 1.0), &mut generator(1, 0)),
            Ok(1)
        );
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        for temperature in [0.5_f32, 1.0, 2.0] {
            let weights: Vec<f64> = LOGITS
                .iter()
                .map(|l| f64::from(l / temperature).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (seen, weight) in histogram(sampling(temperature, 0, 1.0)).iter().zip(weights) {
                assert!(
                    (seen - weight / total).abs() < 0.015,
                    "{seen} {}",
                    weight / total
                );
            }
        }
    }

    #[test]
    fn top_k_and_nucleus_cut_the_tail() {
        let seen = histogram(sampling(5.0, 2, 1.0));
        assert!(seen[1] > 0.4 && seen[3] > 0.4 && seen[0] + seen[2] + seen[4] == 0.0);
        // p = [.023, .463, .063, .463, .003]: 0.9 needs both threes, 0.95 the one as well.
        let seen = histogram(sampling(1.0, 0, 0.9));
        assert!(seen[2] == 0.0 && seen[1] > 0.4 && seen[3] > 0.4);
        let seen = histogram(sampling(1.0, 0, 0.95));
        assert!(seen[2] > 0.0 && seen[0] == 0.0);
        assert!(histogram(sampling(1.0, 0, 0.0))[1] > 0.999_999);
    }

    #[test]
    fn the_same_seed_gives_the_same_draws_and_choices_differ() {
        let draw = |seed, choice| {
            let mut random = generator(seed, choice);
            (0..32)
                .map(|_| choose(&[0.0; 64], sampling(1.0, 0, 1.0), &mut random).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3, 0), draw(3, 0));
        assert_ne!(draw(3, 0), draw(3, 1));
        assert_ne!(draw(3, 0), draw(4, 0));
    }

    #[test]
    fn long_and_short_lists_of_the_likeliest_agree() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32).collect();
        let long = top(&logits, 300);
        assert_eq!(long[..200], top(&logits, 200));
        assert_eq!(
            (long.len(), top(&logits, 0).len(), top(&logits, 2000).len()),
            (300, 0, 1000)
        );
        assert!(
            long.windows(2)
                .all(|pair| pair[0].1 > pair[1].1
                    || (pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0))
        );
    }

    #[test]
    fn scores_are_log_probabilities() {
        let scored = score(&LOGITS, 2, 3).unwrap();
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((f64::from(scored.logprob) - (1.0 - total.ln())).abs() < 1e-6);
        assert_eq!(
            scored.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [1, 3, 2]
        );
        assert_eq!(scored.top[2].1, scored.logprob);
        assert_eq!(score(&[5.0], 0, 1).unwrap().logprob, 0.0);
    }

    #[test]
    fn damaged_logits_are_an_error() {
        for logits in [
            [f32::NAN, 1.0],
            [f32::INFINITY, 1.0],
            [f32::NEG_INFINITY; 2],
        ] {
            assert_eq!(
                choose(&logits, sampling(1.0, 0, 1.0), &mut generator(0, 0)),
                Err(NotFinite)
            );
            assert_eq!(score(&logits, 0, 0), Err(NotFinite));
        }
    }
}

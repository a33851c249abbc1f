//! Owns the order in which rows of tokens are trained on: a pure function of (seed, position), independent of
//! world size and resumed at any step at once; it must not hold state that a resume would need.

use crate::error::DataError;
use crate::shard::TokenStream;

/// Rows of a block in which the mixture's shares hold as exactly as integers allow.
const BLOCK: u64 = 1024;

/// A dataset of a mixture.
#[derive(Debug)]
pub struct Share {
    /// Its training tokens.
    pub tokens: TokenStream,
    /// Relative share of rows, positive.
    pub weight: f64,
}

/// Rows of one part of a batch, each of `length + 1` ids: inputs and the token behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Ids, row after row.
    pub tokens: Vec<i64>,
    /// Rows.
    pub rows: usize,
    /// Ids of a row.
    pub width: usize,
}

/// Deterministic loader over a weighted mixture.
///
/// A dataset of N tokens has ceil((N - 1) / length) rows; documents run on from row to row and the last row is
/// moved back to end with the last token, so no token is dropped. Each epoch visits all rows once, in an order that
/// a keyed permutation gives without a table.
#[derive(Debug)]
pub struct Loader {
    shares: Vec<Share>,
    length: usize,
    batch: usize,
    seed: u64,
    /// Rows of a block that go to each share.
    quotas: Vec<u64>,
    /// Share of each place of a block, and how many places before it have the same one.
    pattern: Vec<(usize, u64)>,
}

impl Loader {
    /// A loader of `batch` rows of `length` inputs per step.
    ///
    /// # Errors
    /// `Config` when a dataset is too short for one row or a weight is not positive.
    pub fn new(
        shares: Vec<Share>,
        length: usize,
        batch: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::Config {
            field: "datasets",
            reason,
        };
        if shares.is_empty() || length == 0 || batch == 0 {
            return Err(refuse(
                "there is nothing to load: give datasets, a sequence length and a batch".into(),
            ));
        }
        for share in &shares {
            if share.tokens.len() <= length as u64 {
                let tokens = share.tokens.len();
                return Err(refuse(format!(
                    "a dataset has {tokens} tokens, fewer than one row of {length} and its target; add text or shorten contextLength"
                )));
            }
            if !(share.weight.is_finite() && share.weight > 0.0) {
                return Err(refuse(format!("weight {} is not positive", share.weight)));
            }
        }
        let quotas = quotas(&shares.iter().map(|share| share.weight).collect::<Vec<_>>());
        Ok(Self {
            shares,
            length,
            batch,
            seed,
            pattern: pattern(&quotas, seed),
            quotas,
        })
    }

    /// Rows of one epoch of all datasets together.
    pub fn rows(&self) -> u64 {
        self.shares
            .iter()
            .map(|share| rows_of(&share.tokens, self.length))
            .sum()
    }

    /// Rows `first .. first + count` of the global batch of `step`. Ranks that divide a batch take disjoint ranges
    /// and together see what one rank sees.
    pub fn training(&self, step: u64, first: usize, count: usize) -> Batch {
        let mut tokens = Vec::with_capacity(count * (self.length + 1));
        let begin = step * self.batch as u64 + first as u64;
        for position in begin..begin + count as u64 {
            self.row(position, &mut tokens);
        }
        Batch {
            tokens,
            rows: count,
            width: self.length + 1,
        }
    }

    /// Appends the row at a position of the endless sequence of rows.
    fn row(&self, position: u64, out: &mut Vec<i64>) {
        let (block, inside) = (position / BLOCK, (position % BLOCK) as usize);
        let Some((number, rank)) = self.pattern.get(inside) else {
            return;
        };
        let (Some(share), Some(quota)) = (self.shares.get(*number), self.quotas.get(*number))
        else {
            return;
        };
        let index = block * quota + rank;
        let rows = rows_of(&share.tokens, self.length);
        let row = permute(mix(self.seed, index / rows, 2), rows, index % rows);
        let last = share.tokens.len() - 1 - self.length as u64;
        share
            .tokens
            .read((row * self.length as u64).min(last), self.length + 1, out);
    }
}

/// Spreads the shares over a block in an order that the seed gives.
fn pattern(quotas: &[u64], seed: u64) -> Vec<(usize, u64)> {
    let mut taken = vec![0; quotas.len()];
    let share_of = |mut slot: u64| {
        quotas
            .iter()
            .position(|quota| slot.checked_sub(*quota).map(|rest| slot = rest).is_none())
            .unwrap_or_default()
    };
    (0..BLOCK)
        .map(|inside| {
            let share = share_of(permute(mix(seed, 0, 1), BLOCK, inside));
            let rank = taken.get_mut(share).map_or(0, |count: &mut u64| {
                *count += 1;
                *count - 1
            });
            (share, rank)
        })
        .collect()
}

fn rows_of(tokens: &TokenStream, length: usize) -> u64 {
    (tokens.len().saturating_sub(1)).div_ceil(length as u64)
}

/// Integers that sum to a block, in proportion to the weights (largest remainder), at least 1 each.
fn quotas(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights
        .iter()
        .map(|weight| weight / total * BLOCK as f64)
        .collect();
    let mut quotas: Vec<u64> = exact
        .iter()
        .map(|share| (share.floor() as u64).max(1))
        .collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let fraction = |index: &usize| exact.get(*index).map_or(0.0, |share| share.fract());
    order.sort_by(|a, b| fraction(b).total_cmp(&fraction(a)));
    let mut turn = order.iter().cycle();
    while quotas.iter().sum::<u64>() < BLOCK {
        if let Some(quota) = turn.next().and_then(|index| quotas.get_mut(*index)) {
            *quota += 1;
        }
    }
    while quotas.iter().sum::<u64>() > BLOCK {
        if let Some(largest) = quotas.iter_mut().max() {
            *largest -= 1;
        }
    }
    quotas
}

/// A hash of three numbers (SplitMix64's finaliser over a running sum).
fn mix(a: u64, b: u64, c: u64) -> u64 {
    [a, b, c]
        .into_iter()
        .fold(0x9E37_79B9_7F4A_7C15, |state: u64, value| {
            let mut z = state
                .wrapping_add(value)
                .wrapping_add(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        })
}

/// A keyed permutation of 0..size: a four-round Feistel network over the next even power of two, walked until the
/// value is inside (Black and Rogaway 2002).
fn permute(key: u64, size: u64, index: u64) -> u64 {
    let half = (64 - size.saturating_sub(1).leading_zeros())
        .div_ceil(2)
        .max(1);
    let mask = (1u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(key, round, right) & mask));
        }
        value = (left << half) | right;
        if value < size {
            return value;
        }
    }
}

/// The validation split in order, in rows that do not overlap: row i predicts tokens i * length + 1 onwards.
#[derive(Debug)]
pub struct ValidationRows {
    streams: Vec<TokenStream>,
    length: usize,
}

impl ValidationRows {
    /// Over all datasets' validation splits; ones too short for a row give none.
    pub fn new(streams: Vec<TokenStream>, length: usize) -> Self {
        Self { streams, length }
    }

    /// Rows in total.
    pub fn rows(&self) -> u64 {
        self.streams
            .iter()
            .map(|stream| stream.len().saturating_sub(1) / self.length as u64)
            .sum()
    }

    /// Up to `count` rows from `first` on; fewer at the end.
    pub fn batch(&self, first: u64, count: usize) -> Batch {
        let mut tokens = Vec::new();
        let mut rows = 0;
        for position in first..(first + count as u64).min(self.rows()) {
            let mut at = position;
            for stream in &self.streams {
                let here = stream.len().saturating_sub(1) / self.length as u64;
                if at < here {
                    stream.read(at * self.length as u64, self.length + 1, &mut tokens);
                    rows += 1;
                    break;
                }
                at -= here;
            }
        }
        Batch {
            tokens,
            rows,
            width: self.length + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_permutation_visits_everything_once(key: u64, size in 1u64..3000) {
            let seen: BTreeSet<u64> = (0..size).map(|index| permute(key, size, index)).collect();
            prop_assert_eq!(seen.len() as u64, size);
            prop_assert!(seen.iter().all(|value| *value < size));
        }

        #[test]
        fn quotas_fill_a_block_in_proportion(weights in proptest::collection::vec(0.01f64..100.0, 1..20)) {
            let total: f64 = weights.iter().sum();
            let quotas = quotas(&weights);
            prop_assert_eq!(quotas.iter().sum::<u64>(), BLOCK);
            for (quota, weight) in quotas.iter().zip(&weights) {
                prop_assert!(*quota >= 1);
                prop_assert!((*quota as f64 - weight / total * BLOCK as f64).abs() < 21.0);
            }
        }
    }
}

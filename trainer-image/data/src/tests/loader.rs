//! The loader: every token once an epoch, the same rows whatever the world size, shares as asked.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use crate::shard::{Description, ShardWriter};
use crate::*;

/// A dataset whose tokens count up from `first`, in shards of at most `limit` tokens.
fn counting(directory: &Path, first: u32, tokens: u32, limit: u64) -> TokenStream {
    let mut writer = ShardWriter::new(directory, Split::Train, 1 << 20, limit);
    let ids: Vec<u32> = (first..first + tokens).collect();
    for document in ids.chunks(7) {
        writer.push(document).unwrap();
    }
    let description = Description {
        schema_version: 1,
        token_bytes: 4,
        vocabulary_size: 1 << 20,
        train: writer.finish().unwrap(),
        validation: vec![],
    };
    std::fs::write(
        directory.join("dataset.json"),
        serde_json::to_string(&description).unwrap(),
    )
    .unwrap();
    TokenStream::open(directory, Split::Train).unwrap()
}

fn loader(shares: &[(u32, f64)], limit: u64, length: usize, batch: usize, seed: u64) -> Loader {
    let shares = shares
        .iter()
        .enumerate()
        .map(|(index, (tokens, weight))| {
            let directory = tempfile::tempdir().unwrap();
            Share {
                tokens: counting(directory.path(), index as u32 * 100_000, *tokens, limit),
                weight: *weight,
            }
        })
        .collect();
    Loader::new(shares, length, batch, seed).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_epoch_trains_on_every_token(tokens in 40u32..900, length in 2usize..30, limit in 20u64..300, seed: u64) {
        let loader = loader(&[(tokens, 1.0)], limit, length, 1, seed);
        let mut targets: Vec<i64> = Vec::new();
        for step in 0..loader.rows() {
            let row = loader.training(step, 0, 1).tokens;
            prop_assert_eq!(row.len(), length + 1);
            prop_assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1), "rows are contiguous");
            targets.extend(&row[1..]);
        }
        targets.sort_unstable();
        targets.dedup();
        prop_assert_eq!(targets, (1..i64::from(tokens)).collect::<Vec<_>>());
    }

    #[test]
    fn ranks_together_see_what_one_rank_sees(batch in 1usize..12, ranks in 1usize..5, step in 0u64..5000, seed: u64) {
        let loader = loader(&[(500, 1.0), (300, 2.5)], 100, 8, batch * ranks, seed);
        let whole = loader.training(step, 0, batch * ranks);
        let parts: Vec<i64> = (0..ranks).flat_map(|rank| loader.training(step, rank * batch, batch).tokens).collect();
        prop_assert_eq!(whole.tokens, parts);
    }
}

#[test]
fn epochs_differ_in_order_and_seeds_too() {
    let order = |seed: u64, from: u64| -> Vec<i64> {
        let loader = loader(&[(801, 1.0)], 1000, 8, 1, seed);
        (from..from + 100)
            .map(|step| loader.training(step, 0, 1).tokens[0])
            .collect()
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 100));
    assert_ne!(order(1, 0), order(2, 0));
}

#[test]
fn shares_are_as_asked() {
    let loader = loader(&[(5000, 3.0), (5000, 1.0)], 10_000, 16, 64, 9);
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for step in 0..64 {
        for row in loader.training(step, 0, 64).tokens.chunks(17) {
            *counts.entry(row[0] / 100_000).or_default() += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([(0, 3072), (1, 1024)]));
}

#[test]
fn validation_rows_follow_each_other_without_overlap() {
    let one = tempfile::tempdir().unwrap();
    let two = tempfile::tempdir().unwrap();
    let rows = ValidationRows::new(
        vec![
            counting(one.path(), 0, 21, 10),
            counting(two.path(), 1000, 15, 100),
        ],
        5,
    );
    assert_eq!(rows.rows(), 4 + 2);
    let first: Vec<i64> = (0..6).map(|row| rows.batch(row, 1).tokens[0]).collect();
    assert_eq!(first, [0, 5, 10, 15, 1000, 1005]);
    assert_eq!(rows.batch(4, 10).rows, 2);
    assert_eq!(rows.batch(6, 10).rows, 0);
}

#[test]
fn a_dataset_shorter_than_a_row_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = counting(directory.path(), 0, 16, 100);
    let error = Loader::new(
        vec![Share {
            tokens,
            weight: 1.0,
        }],
        16,
        1,
        0,
    )
    .unwrap_err();
    assert!(error.to_string().contains("16 tokens"), "{error}");
}

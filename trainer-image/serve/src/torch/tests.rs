use super::*;
use crate::engine::Model as _;
use crate::network::tests::{models, tokens};
use tch::Device;

fn logits_of(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
    let logits = model
        .forward(&Tensor::from_slice(&ids).unsqueeze(0))
        .unwrap();
    Vec::try_from(logits.view([-1])).unwrap()
}

/// Row of `tokens` at `position` in `table`.
fn row(tokens: &[u32], position: usize, table: usize) -> Row {
    Row {
        token: tokens[position],
        position,
        table,
        logits: (position + table).is_multiple_of(2),
    }
}

/// Every device here on which a server may compute through libtorch.
fn devices() -> Vec<Device> {
    let gpu = bessemer_torch::device(1);
    if let Err(reason) = &gpu {
        eprintln!("on CPUs only: {reason}");
    }
    [Device::Cpu].into_iter().chain(gpu).collect()
}

#[test]
fn sequences_that_come_and_go_in_pieces_get_what_a_whole_pass_computes() {
    for (model, device) in devices()
        .into_iter()
        .flat_map(|device| models().into_iter().map(move |model| (model, device)))
    {
        let vocabulary = model.config().vocabulary_size as usize;
        let sequences: Vec<Vec<u32>> = (0..4)
            .map(|seed| tokens(9 + seed * 5, vocabulary, seed))
            .collect();
        let whole: Vec<Vec<f32>> = sequences
            .iter()
            .map(|tokens| logits_of(&model, tokens))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let directory = bessemer_model::Directory::new(directory.path());
        directory.save(&model, &[0]).unwrap();
        let moved = directory.load(None, None, device).unwrap();
        let mut torch = Torch::new(moved, vec![1]).unwrap();
        assert_eq!((torch.vocabulary(), torch.ends()), (vocabulary, &[1][..]));
        for piece in [1, 4, 64] {
            // Two run at a time; a table is used again by the sequence that follows.
            for pair in [[0, 1], [2, 3]] {
                let tables: [&[u32]; 2] = [&[5, 1], &[0, 3]];
                let mut done = 0;
                while done < 32 {
                    let rows: Vec<Row> = pair
                        .into_iter()
                        .enumerate()
                        .flat_map(|(table, sequence)| {
                            let tokens = &sequences[sequence];
                            (done..(done + piece).min(tokens.len()))
                                .map(move |position| row(tokens, position, table))
                        })
                        .collect();
                    done += piece;
                    if rows.is_empty() {
                        continue;
                    }
                    let logits = torch.forward(&rows, &tables, &|| {}).unwrap();
                    let wanted: Vec<&Row> = rows.iter().filter(|row| row.logits).collect();
                    assert_eq!(logits.len(), wanted.len() * vocabulary);
                    for (row, found) in wanted.iter().zip(logits.chunks_exact(vocabulary)) {
                        let at = row.position * vocabulary;
                        let expected = &whole[pair[row.table]][at..at + vocabulary];
                        let scale = expected.iter().fold(1.0f32, |m, value| m.max(value.abs()));
                        for (found, expected) in found.iter().zip(expected) {
                            assert!(
                                (found - expected).abs() < 1e-3 * scale,
                                "{device:?} {piece} {row:?}: {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn memory_of_a_sequence_that_left_is_free_and_a_gap_is_refused() {
    let model = models().remove(0);
    let tokens = tokens(20, 97, 1);
    let mut torch = Torch::new(model, Vec::new()).unwrap();
    let rows = [row(&tokens, 0, 0), row(&tokens, 0, 1)];
    torch.forward(&rows, &[&[7], &[9]], &|| {}).unwrap();
    assert_eq!(torch.caches.keys().collect::<Vec<_>>(), [&7, &9]);
    torch
        .forward(&[row(&tokens, 1, 0)], &[&[9]], &|| {})
        .unwrap();
    assert_eq!(torch.caches.keys().collect::<Vec<_>>(), [&9]);
    let error = torch
        .forward(&[row(&tokens, 3, 0)], &[&[9]], &|| {})
        .unwrap_err();
    assert!(error.to_string().contains("position 3"), "{error}");
    assert_eq!(torch.room(), None, "a CPU does not tell");
}

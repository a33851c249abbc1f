use super::*;
use crate::cache::{Allocator, BLOCK};
use bessemer_model::Directory;
use tch::{Device, Kind, Tensor};

pub(crate) fn models() -> Vec<Model> {
    let configs = [
        Config::llama(97, 2, (4, 2), 64, 96, 64),
        Config {
            tied_embeddings: true,
            ..Config::llama(50, 1, (2, 2), 24, 40, 64)
        },
        Config {
            attention_window: Some(BLOCK as i64 + 3),
            ..Config::llama(61, 2, (4, 2), 32, 48, 64)
        },
        Config::gpt2(97, 2, 4, 64, 64),
        Config {
            bias: false,
            ..Config::gpt2(40, 1, 2, 32, 64)
        },
    ];
    configs
        .map(|config| spread(Model::new(config, 7, Kind::Float, Device::Cpu).unwrap()))
        .into()
}

/// Random vectors in place of ones and zeros, and larger weights, so that every term matters.
fn spread(model: Model) -> Model {
    tch::no_grad(|| {
        for parameter in model.weights() {
            let noise = Tensor::empty_like(&parameter.tensor).normal_(0.0, 0.15);
            let mut tensor = parameter.tensor;
            let _ = tensor.g_add_(&noise);
        }
    });
    model
}

pub(crate) fn tokens(count: usize, vocabulary: usize, seed: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * i * 7 + i * 3 + seed * 11) % vocabulary) as u32)
        .collect()
}

/// Logits of every position, computed in pieces of `piece` rows.
fn forward(network: &Network, tokens: &[u32], piece: usize) -> Vec<f32> {
    let shape = *network.shape();
    let blocks = Allocator::needed(tokens.len());
    let mut store = Store::new(
        shape.layers,
        blocks + 1,
        shape.key_value_heads,
        shape.head_width,
    );
    let table: Vec<u32> = (0..blocks as u32).rev().collect();
    let mut logits = Vec::new();
    for (index, part) in tokens.chunks(piece).enumerate() {
        let row = |(at, token): (usize, &u32)| Row {
            token: *token,
            position: index * piece + at,
            table: 0,
            logits: true,
        };
        let rows: Vec<Row> = part.iter().enumerate().map(row).collect();
        logits.extend(network.forward(&rows, &[&table], &mut store, &|| {}));
    }
    logits
}

#[test]
fn every_family_computes_what_libtorch_computes() {
    for model in models() {
        let network = Network::new(&model).unwrap();
        let tokens = tokens(BLOCK * 2 + 5, network.shape().vocabulary, 1);
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let reference = model
            .forward(&Tensor::from_slice(&ids).unsqueeze(0))
            .unwrap();
        let expected = Vec::<f32>::try_from(&reference.view([-1])).unwrap();
        let worst = forward(&network, &tokens, 7)
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        let scale = expected.iter().map(|value| value.abs()).fold(0.0, f32::max);
        assert!(
            worst < 2e-5 * scale.max(1.0),
            "{:?}: {worst} of {scale}",
            model.config()
        );
    }
}

#[test]
fn brain_weights_and_directories_are_served_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let directory = Directory::new(directory.path());
    directory.save(&models()[0], &[0]).unwrap();
    let single = Network::new(&directory.load(None, None, Device::Cpu).unwrap()).unwrap();
    let model = directory
        .load(Some(Kind::BFloat16), None, Device::Cpu)
        .unwrap();
    let brain = Network::new(&model).unwrap();
    assert_eq!(single.bytes(), brain.bytes() * 2);
    // The reference: the rounded weights, computed in FP32.
    let rounded = Directory::new(directory.path("rounded"));
    rounded.save(&model, &[0]).unwrap();
    let reference = rounded.load(Some(Kind::Float), None, Device::Cpu).unwrap();
    let tokens = tokens(20, 97, 3);
    let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
    let expected = Vec::<f32>::try_from(
        &reference
            .forward(&Tensor::from_slice(&ids).unsqueeze(0))
            .unwrap()
            .view([-1]),
    )
    .unwrap();
    let worst = forward(&brain, &tokens, 20)
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn logits_are_the_same_bits_in_any_company_and_on_any_number_of_threads() {
    for model in models() {
        let network = Network::new(&model).unwrap();
        let shape = *network.shape();
        let sequences: Vec<Vec<u32>> = (0..5)
            .map(|seed| tokens(9 + seed * 5, shape.vocabulary, seed))
            .collect();
        let alone: Vec<Vec<f32>> = sequences
            .iter()
            .map(|tokens| forward(&network, tokens, 1))
            .collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            for piece in [1, 4, 13, 64] {
                let mut store =
                    Store::new(shape.layers, 16, shape.key_value_heads, shape.head_width);
                let tables: Vec<Vec<u32>> = (0..5).map(|i| vec![i * 2 + 1, i * 2]).collect();
                let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
                let mut together = vec![Vec::new(); 5];
                let mut done = 0;
                while done < 32 {
                    let mut rows = Vec::new();
                    for (table, tokens) in sequences.iter().enumerate() {
                        for (position, token) in tokens.iter().enumerate().skip(done).take(piece) {
                            rows.push(Row {
                                token: *token,
                                position,
                                table,
                                logits: (position + table) % 2 == 0,
                            });
                        }
                    }
                    let logits =
                        pool.install(|| network.forward(&rows, &tables, &mut store, &|| {}));
                    for (row, logits) in rows
                        .iter()
                        .filter(|row| row.logits)
                        .zip(logits.chunks_exact(shape.vocabulary))
                    {
                        together[row.table].push((row.position, logits.to_vec()));
                    }
                    done += piece;
                }
                for (tokens, found) in alone.iter().zip(together) {
                    for (position, logits) in found {
                        assert_eq!(
                            logits,
                            tokens[position * shape.vocabulary..(position + 1) * shape.vocabulary]
                        );
                    }
                }
            }
        }
    }
}

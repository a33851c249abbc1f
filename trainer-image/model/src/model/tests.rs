//! Identities that hold for any size, and the serving pass against the training pass.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::TARGETS;

fn gpt2() -> Model {
    Model::new(Config::gpt2(61, 2, 4, 32, 48), 7, Kind::Float, Device::Cpu).unwrap()
}

fn llama() -> Model {
    Model::new(
        Config::llama(61, 2, (4, 2), 32, 48, 48),
        7,
        Kind::Float,
        Device::Cpu,
    )
    .unwrap()
}

/// A Llama whose attention looks back three tokens.
fn mistral() -> Model {
    let config = Config {
        attention_window: Some(3),
        ..llama().config().clone()
    };
    Model::new(config, 7, Kind::Float, Device::Cpu).unwrap()
}

fn ids(sequences: i64, length: i64) -> Tensor {
    // No random numbers: libtorch's generator is shared by all tests.
    let count = Tensor::arange(sequences * length, (Kind::Int64, Device::Cpu));
    (&count * &count * 7 + count * 3 + 5)
        .remainder(61)
        .view([sequences, length])
}

fn largest_difference(left: &Tensor, right: &Tensor) -> f64 {
    (left - right).abs().max().double_value(&[])
}

#[test]
fn the_first_loss_is_the_logarithm_of_the_vocabulary() {
    for (vocabulary, expected) in [(65, 4.174), (50_257, 10.825)] {
        let model = Model::new(
            Config::gpt2(vocabulary, 2, 4, 64, 32),
            1337,
            Kind::Float,
            Device::Cpu,
        )
        .unwrap();
        let tokens = Tensor::randint(vocabulary, [4, 32], (Kind::Int64, Device::Cpu));
        let logits = model.forward(&tokens).unwrap().view([-1, vocabulary]);
        let targets = Tensor::randint(vocabulary, [128], (Kind::Int64, Device::Cpu));
        let loss = logits.cross_entropy_for_logits(&targets).double_value(&[]);
        assert!((loss - expected).abs() < 0.1, "{loss}");
    }
}

#[test]
fn equal_seeds_give_equal_weights_and_others_do_not() {
    let (first, second) = (llama(), llama());
    let third = Model::new(first.config().clone(), 8, Kind::Float, Device::Cpu).unwrap();
    for (left, right) in first.weights().iter().zip(second.weights()) {
        assert!(left.tensor.equal(&right.tensor), "{}", left.name);
    }
    assert!(!first.head().equal(third.head()));
}

#[test]
fn the_parameter_count_is_what_is_allocated() {
    for model in [gpt2(), llama(), mistral()] {
        let allocated: usize = model
            .weights()
            .iter()
            .map(|weight| weight.tensor.numel())
            .sum();
        assert_eq!(model.config().parameters(), allocated as i64);
    }
}

#[test]
fn only_matrices_decay() {
    for parameter in gpt2().weights() {
        let vector = parameter.name.contains("ln_") || parameter.name.ends_with(".bias");
        assert_eq!(parameter.decay, !vector, "{}", parameter.name);
    }
}

#[test]
fn tokens_do_not_see_the_future() {
    for model in [gpt2(), llama(), mistral()] {
        let tokens = ids(1, 12);
        let before = model.forward(&tokens).unwrap();
        let changed = tokens.copy();
        let _ = changed.narrow(1, 8, 4).fill_(1);
        let after = model.forward(&changed).unwrap();
        assert!(before.narrow(1, 0, 8).equal(&after.narrow(1, 0, 8)));
        assert!(!before.narrow(1, 8, 4).equal(&after.narrow(1, 8, 4)));
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let model = mistral();
    let tokens = ids(1, 12);
    let changed = tokens.copy();
    let _ = changed.narrow(1, 0, 1).fill_(2);
    let (before, after) = (
        model.forward(&tokens).unwrap(),
        model.forward(&changed).unwrap(),
    );
    // Each of the two blocks looks back two tokens further.
    assert!(before.narrow(1, 5, 7).equal(&after.narrow(1, 5, 7)));
    assert!(!before.narrow(1, 4, 1).equal(&after.narrow(1, 4, 1)));
}

#[test]
fn documents_of_a_pack_do_not_see_each_other_at_all() {
    for model in [gpt2(), llama(), mistral()] {
        let tokens = ids(1, 12);
        let documents = Tensor::from_slice(&[0i64, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]).view([1, 12]);
        let changed = tokens.copy();
        let _ = changed.narrow(1, 0, 5).fill_(2);
        let hidden = |tokens: &Tensor| {
            model
                .hidden(tokens, Some(&documents), false)
                .unwrap()
                .narrow(0, 5, 7)
        };
        assert!(hidden(&tokens).equal(&hidden(&changed)));
        // Without document numbers the same change is seen.
        let open = |tokens: &Tensor| model.hidden(tokens, None, false).unwrap().narrow(0, 5, 7);
        assert!(!open(&tokens).equal(&open(&changed)));
    }
}

#[test]
fn a_ragged_batch_over_caches_equals_whole_sequences() {
    for model in [gpt2(), llama(), mistral()] {
        let (left, right) = (ids(1, 11), ids(1, 7).fliplr());
        let mut caches = [model.cache(2), model.cache(2)];
        // Uneven pieces: prompts of 5 and 1, then 1 and 4, then 5 and 2 tokens; room grows on the way.
        let mut outputs: [Vec<Tensor>; 2] = [Vec::new(), Vec::new()];
        for (a, b) in [((0, 5), (0, 1)), ((5, 1), (1, 4)), ((6, 5), (5, 2))] {
            let tokens =
                Tensor::cat(&[left.narrow(1, a.0, a.1), right.narrow(1, b.0, b.1)], 1).view([-1]);
            let [first, second] = &mut caches;
            let mut segments = [
                Segment {
                    cache: first,
                    tokens: a.1,
                },
                Segment {
                    cache: second,
                    tokens: b.1,
                },
            ];
            let hidden = model.extend(&tokens, &mut segments).unwrap();
            let logits = model.logits(&hidden);
            outputs[0].push(logits.narrow(0, 0, a.1));
            outputs[1].push(logits.narrow(0, a.1, b.1));
        }
        for (tokens, outputs) in [&left, &right].into_iter().zip(&outputs) {
            let whole = model.forward(tokens).unwrap().squeeze_dim(0);
            let difference = largest_difference(&whole, &Tensor::cat(outputs, 0));
            assert!(difference < 1e-5, "{difference}");
        }
        assert_eq!((caches[0].length(), caches[1].length()), (11, 7));
    }
}

#[test]
fn a_full_context_is_refused_and_leaves_the_cache_alone() {
    let model = llama();
    let mut cache = model.cache(48);
    let long = ids(1, 49).view([-1]);
    let error = model
        .extend(
            &long,
            &mut [Segment {
                cache: &mut cache,
                tokens: 49,
            }],
        )
        .unwrap_err();
    assert_eq!(error.category(), "ContextTooLong");
    assert_eq!(cache.length(), 0);
    assert!(model.forward(&ids(1, 49)).is_err());
    let error = model
        .extend(
            &long,
            &mut [Segment {
                cache: &mut cache,
                tokens: 3,
            }],
        )
        .unwrap_err();
    assert_eq!(error.category(), "InvalidModel");
}

#[test]
fn a_fresh_adapter_gives_bitwise_the_base_logits_and_merges_to_what_it_computed() {
    for (mut model, targets) in [
        (gpt2(), vec!["q", "v", "o", "up", "down"]),
        (llama(), TARGETS.to_vec()),
    ] {
        let tokens = ids(2, 9);
        let base = model.forward(&tokens).unwrap();
        let targets: Vec<String> = targets.into_iter().map(str::to_owned).collect();
        let count = targets.len();
        model
            .adapt(
                &AdapterSpec {
                    rank: 3,
                    alpha: 6.0,
                    targets,
                },
                5,
            )
            .unwrap();
        assert!(model.forward(&tokens).unwrap().equal(&base));
        assert_eq!(model.trainable().len(), 2 * 2 * count);
        assert!(
            model
                .weights()
                .iter()
                .all(|weight| !weight.tensor.requires_grad())
        );

        tch::no_grad(|| {
            for mut parameter in model.adapter_weights() {
                if parameter.name.ends_with("lora_B") {
                    let _ = parameter.tensor.normal_(0.0, 0.1);
                }
            }
        });
        let adapted = model.forward(&tokens).unwrap();
        assert!(largest_difference(&adapted, &base) > 1e-3);
        model.merge();
        assert!(model.adapter_weights().is_empty());
        let difference = largest_difference(&model.forward(&tokens).unwrap(), &adapted);
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_in_words() {
    let spec = |rank, targets: &[&str]| AdapterSpec {
        rank,
        alpha: 1.0,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
    };
    for (spec, word) in [
        (spec(0, &["q"]), "rank"),
        (spec(1, &["x"]), "unknown target x"),
        (spec(1, &["gate"]), "gate"),
    ] {
        let error = gpt2().adapt(&spec, 1).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn bfloat16_arithmetic_keeps_fp32_weights_and_gradients() {
    let config = Config::llama(61, 2, (4, 2), 32, 48, 48);
    let model = Model::new(config, 7, Kind::BFloat16, Device::Cpu).unwrap();
    let hidden = model.hidden(&ids(2, 9), None, true).unwrap();
    assert_eq!(hidden.kind(), Kind::BFloat16);
    model.logits(&hidden).square().mean(Kind::Float).backward();
    for weight in model.weights() {
        assert_eq!(weight.tensor.kind(), Kind::Float);
        assert_eq!(weight.tensor.grad().kind(), Kind::Float, "{}", weight.name);
    }
    let exact = llama().forward(&ids(2, 9)).unwrap();
    let coarse = model.forward(&ids(2, 9)).unwrap().to_kind(Kind::Float);
    let difference = largest_difference(&exact, &coarse);
    assert!(difference > 0.0 && difference < 0.05, "{difference}");
}

//! Suites on real, tiny models: known values, independence of batch sizes and order, an independent way to the same
//! log-likelihoods, comparison with a baseline.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // reason: a test fails by panicking

use std::path::Path;

use bessemer_evaluate::{Inputs, Observer, Progress, Subject, evaluate};
use bessemer_model::{Config, Directory, Model, Segment};
use bessemer_protocol::EvaluationResult;
use bessemer_protocol::task::{
    Aggregation, EvaluateTask, GenerationMetric, GenerationSuite, PerplexitySuite, Suite, SuiteKind,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// 256 bytes and three special tokens, no merges: a token is a byte.
const VOCABULARY: i64 = 259;
const CONTEXT: i64 = 32;

fn tokenizer() -> Value {
    let mut printable: Vec<u32> = (33..=126).chain(161..=172).chain(174..=255).collect();
    let mut extra = 256;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..256u32 {
        let code = if printable.contains(&byte) {
            byte
        } else {
            extra += 1;
            extra - 1
        };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    printable.clear();
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<|user|>"), special(257, "<|assistant|>"), special(258, "<|end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []},
    })
}

fn save(root: &Path, name: &str, seed: u64, scale: f64) -> std::path::PathBuf {
    let directory = root.join(name);
    let model = Model::new(
        Config::llama(VOCABULARY, 2, (4, 2), 32, 64, CONTEXT),
        seed,
        Kind::Float,
        Device::Cpu,
    )
    .unwrap();
    tch::no_grad(|| {
        model.weights().into_iter().for_each(|weight| {
            let mut tensor = weight.tensor;
            let _ = tensor.g_mul_scalar_(scale);
        })
    });
    std::fs::write(root.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    Directory::new(&directory).save(&model, &[258]).unwrap();
    Directory::new(&directory)
        .save_tokenizer(root, "<|end|>")
        .unwrap();
    directory
}

fn dataset(root: &Path, name: &str, records: &[Value]) -> std::path::PathBuf {
    let directory = root.join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(directory.join("validation.jsonl"), text).unwrap();
    directory
}

fn documents() -> Vec<Value> {
    ["short", "A document that is longer than the context of thirty-two tokens, so that it needs several windows.", "ünïcödé", "x"]
        .iter().cycle().take(11).enumerate().map(|(index, text)| json!({"text": format!("{text} {index}")})).collect()
}

fn questions() -> Vec<Value> {
    (0..11)
        .map(|index| json!({"prompt": format!("q{index}?"), "response": format!("a {index}")}))
        .collect()
}

fn task(batch_size: u32) -> EvaluateTask {
    let suite = |name: &str, dataset: &str, measure| Suite {
        name: name.into(),
        dataset: dataset.into(),
        limit: 0,
        measure,
    };
    let perplexity = |aggregation| SuiteKind::Perplexity(PerplexitySuite { aggregation });
    let generation = |temperature| {
        SuiteKind::Generation(GenerationSuite {
            metrics: vec![
                GenerationMetric::Bleu,
                GenerationMetric::Chrf,
                GenerationMetric::Rouge,
            ],
            max_tokens: 6,
            temperature,
            top_p: 0.9,
        })
    };
    EvaluateTask {
        suites: vec![
            suite("text", "docs", perplexity(Aggregation::Document)),
            suite("answers", "pairs", perplexity(Aggregation::Answer)),
            suite("greedy", "pairs", generation(0.0)),
            suite("sampled", "pairs", generation(1.0)),
        ],
        seed: 3,
        bootstrap_samples: 200,
        batch_size,
        threads: 1,
    }
}

struct Watch(Vec<Progress>, usize);

impl Observer for Watch {
    fn progress(&mut self, progress: Progress) {
        self.0.push(progress);
    }
    fn stopping(&self) -> bool {
        self.0.len() >= self.1
    }
}

fn quiet() -> Watch {
    Watch(Vec::new(), usize::MAX)
}

fn find<'a>(results: &'a [EvaluationResult], suite: &str, metric: &str) -> &'a EvaluationResult {
    results
        .iter()
        .find(|one| one.suite == suite && one.metric == metric)
        .unwrap()
}

#[test]
fn a_uniform_model_has_the_vocabulary_as_byte_perplexity() {
    let root = tempfile::tempdir().unwrap();
    let inputs = Inputs {
        model: Some(save(root.path(), "uniform", 1, 0.0)),
        baseline: None,
        device: tch::Device::Cpu,
        datasets: vec![
            ("docs".into(), dataset(root.path(), "docs", &documents())),
            ("pairs".into(), dataset(root.path(), "pairs", &questions())),
        ],
    };
    let results = evaluate(&task(4), &inputs, &root.path().join("out"), &mut quiet()).unwrap();
    let value = |suite, metric| find(&results, suite, metric).value.unwrap();
    assert!((value("text", "bytePerplexity") - VOCABULARY as f64).abs() < 1e-9);
    assert!((value("text", "bitsPerByte") - (VOCABULARY as f64).log2()).abs() < 1e-9);
    assert!((value("text", "loss") - (VOCABULARY as f64).ln()).abs() < 1e-9);
    assert!((value("answers", "loss") - (VOCABULARY as f64).ln()).abs() < 1e-9);
    // An answer's end is scored too: bytes + 1 tokens.
    let (tokens, bytes) = (0..11)
        .map(|index| format!("a {index}").len() as f64)
        .fold((0.0, 0.0), |(t, b), n| (t + n + 1.0, b + n));
    assert!(
        (value("answers", "bitsPerByte") - (VOCABULARY as f64).log2() * tokens / bytes).abs()
            < 1e-9
    );
    assert_eq!(find(&results, "text", "loss").samples, 11);
    assert!(
        !find(&results, "text", "loss").higher_is_better
            && find(&results, "greedy", "bleu").higher_is_better
    );
}

#[test]
fn log_likelihoods_equal_decoding_token_by_token() {
    let root = tempfile::tempdir().unwrap();
    let path = save(root.path(), "model", 5, 3.0);
    let subject = Subject::load(&path, tch::Device::Cpu).unwrap();
    let text = "Thirty bytes of text, or so: ü";
    let found = subject.document(text).unwrap();
    let model = Directory::new(&path).load(None, None, Device::Cpu).unwrap();
    let mut cache = model.cache(4);
    let mut before = 258;
    let mut wanted = Vec::new();
    for byte in text.bytes() {
        let mut segments = [Segment {
            cache: &mut cache,
            tokens: 1,
        }];
        let hidden = model
            .extend(&Tensor::from_slice(&[before]), &mut segments)
            .unwrap();
        let row = tch::no_grad(|| model.logits(&hidden).log_softmax(-1, Kind::Double));
        wanted.push(row.double_value(&[0, i64::from(byte)]));
        before = i64::from(byte);
    }
    assert_eq!(found.tokens.len(), wanted.len());
    for (found, wanted) in found.tokens.iter().zip(&wanted) {
        assert!((found - wanted).abs() < 1e-5, "{found} is not {wanted}");
    }
    let uniform = -(VOCABULARY as f64).ln() * wanted.len() as f64;
    assert!(
        (found.total() - uniform).abs() > 1.0,
        "the model must not be uniform, or this shows nothing"
    );
}

#[test]
fn no_number_depends_on_the_batch_size_or_on_the_order_of_samples() {
    let root = tempfile::tempdir().unwrap();
    let model = Some(save(root.path(), "model", 5, 8.0));
    let run = |name: &str, batch, docs: Vec<Value>| {
        let inputs = Inputs {
            model: model.clone(),
            baseline: None,
            device: tch::Device::Cpu,
            datasets: vec![
                ("docs".into(), dataset(root.path(), name, &docs)),
                ("pairs".into(), dataset(root.path(), "pairs", &questions())),
            ],
        };
        let out = root.path().join(format!("{name}-{batch}"));
        evaluate(&task(batch), &inputs, &out, &mut quiet()).unwrap();
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        [
            read("results.json"),
            read("samples/text.jsonl"),
            read("samples/answers.jsonl"),
            read("samples/greedy.jsonl"),
            read("samples/sampled.jsonl"),
        ]
    };
    let first = run("docs", 1, documents());
    for batch in [2, 3, 7, 64] {
        assert_eq!(run("docs", batch, documents()), first, "batch {batch}");
    }
    let lines = |text: &str| -> Vec<u64> {
        text.lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["logLikelihood"]
                    .as_f64()
                    .unwrap()
                    .to_bits()
            })
            .collect()
    };
    let mut reversed = documents();
    reversed.reverse();
    let mut other = lines(&run("reversed", 4, reversed)[1]);
    other.reverse();
    assert_eq!(other, lines(&first[1]));
    let answers: Vec<Value> = first[4]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        answers
            .iter()
            .any(|one| one["answer"] != answers[0]["answer"]),
        "samples have their own random numbers"
    );
}

#[test]
fn a_baseline_gives_its_own_and_paired_numbers() {
    let root = tempfile::tempdir().unwrap();
    let (sharp, flat) = (
        save(root.path(), "sharp", 5, 8.0),
        save(root.path(), "flat", 5, 0.0),
    );
    let datasets = vec![
        (
            "docs".to_owned(),
            dataset(root.path(), "docs", &documents()),
        ),
        (
            "pairs".to_owned(),
            dataset(root.path(), "pairs", &questions()),
        ),
    ];
    let run = |baseline: &Path, out: &str| {
        let inputs = Inputs {
            model: Some(sharp.clone()),
            baseline: Some(baseline.to_owned()),
            device: tch::Device::Cpu,
            datasets: datasets.clone(),
        };
        let mut watch = quiet();
        let results = evaluate(&task(4), &inputs, &root.path().join(out), &mut watch).unwrap();
        assert_eq!(
            watch.0.last(),
            Some(&Progress {
                done: 88,
                total: 88
            })
        );
        assert!(watch.0.windows(2).all(|pair| pair[0].done < pair[1].done));
        results
    };
    let results = run(&flat, "different");
    let (ours, theirs, delta) = (
        find(&results, "text", "loss"),
        find(&results, "text", "baseline.loss"),
        find(&results, "text", "delta.loss"),
    );
    assert!((ours.value.unwrap() - theirs.value.unwrap() - delta.value.unwrap()).abs() < 1e-12);
    assert!(
        delta.low.unwrap() > 0.0,
        "random sharp weights are worse than uniform ones: {delta:?}"
    );
    assert!(ours.low.unwrap() < ours.value.unwrap() && ours.value.unwrap() < ours.high.unwrap());
    for row in run(&sharp, "same")
        .iter()
        .filter(|row| row.metric.starts_with("delta."))
    {
        assert_eq!(
            (row.value, row.low, row.high),
            (Some(0.0), Some(0.0), Some(0.0)),
            "{row:?}"
        );
    }
}

#[test]
fn broken_weights_missing_inputs_and_interruption_are_said() {
    let root = tempfile::tempdir().unwrap();
    let broken = save(root.path(), "broken", 5, f64::NAN);
    let mut inputs = Inputs {
        model: Some(broken),
        baseline: None,
        device: tch::Device::Cpu,
        datasets: vec![("docs".into(), dataset(root.path(), "docs", &documents()))],
    };
    let mut only = task(1);
    only.suites.truncate(1);
    let out = root.path().join("out");
    let error = evaluate(&only, &inputs, &out, &mut quiet()).unwrap_err();
    assert_eq!(
        (error.category(), error.exit_code().code()),
        ("InvalidProbability", 65)
    );
    assert!(!out.join("results.json").exists());
    let error = evaluate(&task(1), &inputs, &out, &mut quiet()).unwrap_err();
    assert_eq!(
        (error.category(), error.exit_code().code()),
        ("MissingInput", 66)
    );
    inputs.model = Some(save(root.path(), "model", 5, 1.0));
    let error = evaluate(&only, &inputs, &out, &mut Watch(Vec::new(), 3)).unwrap_err();
    assert_eq!(
        (error.category(), error.exit_code().code()),
        ("Interrupted", 75)
    );
    only.suites[0].name = "../x".into();
    assert_eq!(
        evaluate(&only, &inputs, &out, &mut quiet())
            .unwrap_err()
            .exit_code()
            .code(),
        64
    );
}

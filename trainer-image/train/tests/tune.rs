//! Supervised tuning from a directory to a directory: it learns the answers, keeps the base elsewhere, and can
//! be interrupted.
#![cfg(test)]
// reason: a test says what it expects by failing
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bessemer_model::{ChatTemplate, Config, Directory, Message, Model, WEIGHTS_FILE};
use bessemer_protocol::task::{
    Adapter, Batch, CheckpointPolicy, Optimizer, OptimizerKind, Phases, Precision, Schedule,
    ScheduleKind, TuneTask,
};
use bessemer_train::{Error, Inputs, Observer, Outcome, Progress, Ranks, tune};
use serde_json::json;
use tch::{Device, Kind};

/// Asks to stop after a step; 0 never does.
struct StopAt(u64, u64);

impl Observer for StopAt {
    fn progress(&mut self, progress: &Progress) {
        self.1 = progress.step;
    }
    fn checkpoint(&mut self, _: u64, _: &Path) -> Result<(), String> {
        Ok(())
    }
    fn stopping(&self) -> bool {
        self.0 == self.1
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// A base model with a byte-level tokenizer, and a dataset of questions with one-letter answers.
struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"];
        let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .collect();
        alphabet.sort_unstable();
        let words = special
            .iter()
            .map(|&token| token.to_owned())
            .chain(alphabet.into_iter().map(String::from));
        let vocabulary: serde_json::Map<_, _> = words
            .enumerate()
            .map(|(id, word)| (word, id.into()))
            .collect();
        let size = vocabulary.len() as i64;
        let added: Vec<_> = special.iter().enumerate().map(|(id, token)| json!({ "id": id, "content": token,
            "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })).collect();
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
        let tokenizer = json!({ "version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] } });
        let base = Directory::new(root.path().join("base"));
        let config = Config::llama(size, 2, (4, 2), 32, 64, 48);
        base.save(
            &Model::new(config, 1, Kind::Float, Device::Cpu).unwrap(),
            &[0],
        )
        .unwrap();
        std::fs::create_dir(root.path().join("tokenizer")).unwrap();
        std::fs::write(
            root.path().join("tokenizer/tokenizer.json"),
            tokenizer.to_string(),
        )
        .unwrap();
        base.save_tokenizer(&root.path().join("tokenizer"), "<|endoftext|>")
            .unwrap();

        // The answer is the first letter of the question; in the other dataset the letter after it.
        for (name, shift) in [("dataset", 0), ("shifted", 1)] {
            let (mut training, mut held_out) = (String::new(), String::new());
            for index in 0..60u8 {
                let letter = |shift| char::from(b'a' + (index + shift) % 6);
                let (prompt, response) = (format!("{}{}", letter(0), index % 10), letter(shift));
                let line =
                    json!({ "prompt": prompt, "response": response.to_string(), "license": "MIT" });
                let file = if index % 10 == 9 {
                    &mut held_out
                } else {
                    &mut training
                };
                writeln!(file, "{line}").unwrap();
            }
            let dataset = root.path().join(name);
            std::fs::create_dir(&dataset).unwrap();
            std::fs::write(dataset.join("train.jsonl"), training).unwrap();
            std::fs::write(dataset.join("validation.jsonl"), held_out).unwrap();
        }
        Self { root }
    }

    fn inputs(&self) -> Inputs {
        Inputs {
            datasets: vec![("pairs".to_owned(), self.root.path().join("dataset"))],
            model: Some(self.root.path().join("base")),
        }
    }

    fn base(&self) -> Vec<u8> {
        std::fs::read(self.root.path().join("base").join(WEIGHTS_FILE)).unwrap()
    }

    fn tune(&self, task: &TuneTask, work: &str, stop_at: u64) -> Result<Outcome, Error> {
        tune(
            task,
            &self.inputs(),
            &self.root.path().join(work),
            &mut Ranks::alone(),
            &mut StopAt(stop_at, 0),
        )
    }
}

fn task(adapter: Option<Adapter>) -> TuneTask {
    TuneTask {
        adapter,
        sequence_length: 32,
        epochs: 30,
        steps: None,
        batch: Batch {
            sequences: 6,
            micro_batch: 3,
            sequence_length: 32,
        },
        optimizer: Optimizer {
            kind: OptimizerKind::AdamW,
            learning_rate: 2e-2,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_clip_norm: 1.0,
        },
        schedule: Schedule {
            kind: ScheduleKind::Linear,
            warmup_steps: 5,
            decay_steps: 0,
            final_share: 0.0,
        },
        phases: None,
        dropout: 0.0,
        precision: Precision::FP32,
        seed: 3,
        deterministic: true,
        threads: 1,
        ranks: 1,
        checkpoint: CheckpointPolicy {
            every_steps: 0,
            every_seconds: 0,
            keep: 1,
        },
    }
}

fn low_rank(targets: &[&str]) -> Option<Adapter> {
    Some(Adapter {
        rank: 8,
        alpha: 16.0,
        targets: targets.iter().map(|&t| t.to_owned()).collect(),
    })
}

fn finished(outcome: Outcome) -> bessemer_train::Finished {
    match outcome {
        Outcome::Finished(finished) => finished,
        other => panic!("{other:?}"),
    }
}

/// What the model in `directory` answers to `question`, one token, greedily.
fn answer(directory: &Path, question: &str) -> String {
    let directory = Directory::new(directory);
    let (model, tokenizer) = (
        directory.load(None, None, Device::Cpu).unwrap(),
        directory.tokenizer().unwrap(),
    );
    let template: ChatTemplate = directory.chat_template().unwrap().unwrap();
    let prompt = template
        .render(&[Message::new("user", question)], true)
        .unwrap();
    let encoding = tokenizer.encode(prompt, false).unwrap();
    let ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
    let logits = model
        .forward(&tch::Tensor::from_slice(&ids).unsqueeze(0))
        .unwrap();
    let answer = logits.get(0).get(-1).argmax(-1, false).int64_value(&[]);
    tokenizer.decode(&[answer as u32], false).unwrap()
}

#[test]
fn dropout_and_phases_are_what_the_task_says() {
    let fixture = Fixture::new();
    let short = TuneTask {
        epochs: 2,
        ..task(None)
    };
    let weights = |task: &TuneTask, work: &str| {
        let done = finished(fixture.tune(task, work, 0).unwrap());
        std::fs::read(done.directory.join(WEIGHTS_FILE)).unwrap()
    };
    let dropped = TuneTask {
        dropout: 0.2,
        ..short.clone()
    };
    assert!(weights(&dropped, "dropped") != weights(&short, "plain"));
    // Two passes over 54 conversations in batches of 6 are 18 steps: a third of warmup is 6, a sixth of decay is 3.
    let phases = Phases {
        warmup: 1.0 / 3.0,
        decay: 1.0 / 6.0,
    };
    let mut shares = short.clone();
    shares.schedule.kind = ScheduleKind::WSD;
    let mut steps = shares.clone();
    shares.phases = Some(phases);
    (steps.schedule.warmup_steps, steps.schedule.decay_steps) = (6, 3);
    assert_eq!(phases.over(&shares.schedule, 18), steps.schedule);
    assert!(weights(&shares, "shares") == weights(&steps, "steps"));
    // No share of warmup leaves the steps that were given, and decay what is left of them.
    let given = Phases {
        warmup: 0.0,
        decay: 0.9,
    };
    let over = given.over(&shares.schedule, 18);
    assert_eq!((over.warmup_steps, over.decay_steps), (5, 13));
}

#[test]
fn whole_then_low_rank_tuning_learn_the_answers_and_export_plain_models() {
    let fixture = Fixture::new();
    let before = fixture.base();
    let whole = finished(fixture.tune(&task(None), "whole", 0).unwrap());
    let (first, last) = (
        whole.summary.curve[0].loss,
        whole.summary.validation_loss.unwrap(),
    );
    assert!(first > 4.0 && last < 0.2, "{first} -> {last}");
    assert_eq!(fixture.base(), before, "the base must not change");
    // One letter and <|end|> per conversation, 270 steps of 6 sequences: 30 epochs of 54 conversations.
    assert_eq!(whole.summary.tokens, 2 * 6 * 270);
    assert_eq!(answer(&whole.directory, "d9"), "d");
    let result = Directory::new(&whole.directory);
    let end = result.tokenizer().unwrap().token_to_id("<|end|>").unwrap();
    assert_eq!(result.ends().unwrap(), [0, i64::from(end)]);
    let record = std::fs::read_to_string(whole.directory.join("training.json")).unwrap();
    assert!(
        record.contains("\"steps\": 270") && record.contains("\"curve\""),
        "{record}"
    );

    // On top of it, adapters learn the other answers.
    let inputs = Inputs {
        datasets: vec![("shifted".to_owned(), fixture.root.path().join("shifted"))],
        model: Some(whole.directory.clone()),
    };
    let all = ["q", "k", "v", "o", "gate", "up", "down"];
    let work = fixture.root.path().join("low-rank");
    let done = finished(
        tune(
            &task(low_rank(&all)),
            &inputs,
            &work,
            &mut Ranks::alone(),
            &mut StopAt(0, 0),
        )
        .unwrap(),
    );
    assert!(
        done.summary.validation_loss.unwrap() < 0.5,
        "{:?}",
        done.summary
    );
    assert_eq!(answer(&done.directory, "d9"), "e");
    assert_eq!(answer(&whole.directory, "d9"), "d");
    assert!(
        Directory::new(&done.directory)
            .load(None, None, Device::Cpu)
            .unwrap()
            .adapter_weights()
            .is_empty()
    );
}

#[test]
fn an_interrupted_tuning_continues_to_the_same_bytes() {
    let fixture = Fixture::new();
    let mut task = task(low_rank(&["q", "v"]));
    task.steps = Some(9);
    let whole = finished(fixture.tune(&task, "whole", 0).unwrap());
    assert!(matches!(
        fixture.tune(&task, "parts", 4).unwrap(),
        Outcome::Interrupted { step: 4 }
    ));
    let parts = finished(fixture.tune(&task, "parts", 0).unwrap());
    for entry in std::fs::read_dir(&whole.directory).unwrap() {
        let name = entry.unwrap().file_name();
        let (left, right) = (
            std::fs::read(whole.directory.join(&name)),
            std::fs::read(parts.directory.join(&name)),
        );
        assert_eq!(left.unwrap(), right.unwrap(), "{}", name.to_string_lossy());
    }
    // Another task does not take over the checkpoint.
    task.seed = 4;
    let error = fixture.tune(&task, "parts", 0).unwrap_err();
    assert!(
        error.to_string().contains("belongs to another run"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_tuned_is_refused_by_name() {
    let fixture = Fixture::new();
    let mut long = task(None);
    long.sequence_length = 49;
    assert!(
        fixture
            .tune(&long, "a", 0)
            .unwrap_err()
            .to_string()
            .contains("sequenceLength")
    );
    let unknown = task(low_rank(&["everything"]));
    assert_eq!(
        fixture.tune(&unknown, "b", 0).unwrap_err().category(),
        "InvalidAdapter"
    );
    let inputs = Inputs {
        model: None,
        ..fixture.inputs()
    };
    let error = tune(
        &task(None),
        &inputs,
        fixture.root.path(),
        &mut Ranks::alone(),
        &mut StopAt(0, 0),
    )
    .unwrap_err();
    assert_eq!(error.exit_code(), bessemer_protocol::ExitCode::MissingInput);
    let weights = fixture.root.path().join("base").join(WEIGHTS_FILE);
    let mut bytes = fixture.base();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = fixture.tune(&task(None), "c", 0).unwrap_err();
    assert!(error.to_string().contains(WEIGHTS_FILE), "{error}");
    assert_eq!(error.exit_code(), bessemer_protocol::ExitCode::MissingInput);
}

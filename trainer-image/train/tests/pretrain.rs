//! Pretraining from text to a directory: prepared by bessemer-data, resumed anywhere, continued later.
#![cfg(test)]
// reason: a test says what it expects by failing
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fixture;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bessemer_data::{Control, LocalSource, PrepareStage, prepare};
use bessemer_model::{Directory, WEIGHTS_FILE};
use bessemer_protocol::ExitCode;
use bessemer_protocol::task::{
    Batch, CheckpointPolicy, Clean, Family, Format, LicensePolicy, Mixture, ModelShape, Positions,
    Precision, PrepareTask, Purpose, Schedule, ScheduleKind, Source, Split, TokenizerSource,
    TrainTask, Unicode,
};
use bessemer_train::{Error, Inputs, Observer, Outcome, Progress, Ranks, pretrain};
use tch::Device;

struct Go;

impl Control for Go {
    fn progress(&mut self, _: PrepareStage, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

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

/// Prepares documents of a small made-up language.
fn dataset(root: &Path, name: &str, words: u64) -> PathBuf {
    let text = root.join(format!("{name}-text"));
    std::fs::create_dir_all(&text).unwrap();
    for i in 0..80u64 {
        let sentence = |w: u64| {
            format!(
                "the {} follows the {}",
                ["cat", "dog", "fox"][((w + i) % 3) as usize],
                w % words
            )
        };
        let document: Vec<String> = (0..20 + i % 9).map(sentence).collect();
        std::fs::write(text.join(format!("{i:02}.txt")), document.join(". ")).unwrap();
    }
    let source = Source {
        name: "text".into(),
        uri: format!("file://{}", text.display()),
        endpoint: None,
        include: vec![],
        exclude: vec![],
        format: Format::Text,
        text_field: None,
        license: None,
        consent: None,
        subject_field: None,
        own_keys: false,
        weight: 1.0,
    };
    let task = PrepareTask {
        purpose: Purpose::Pretraining,
        sources: vec![source.clone()],
        clean: Clean {
            unicode: Unicode::Nfc,
            min_characters: 5,
            max_characters: 100_000,
            language: None,
            repetition: None,
        },
        exact_deduplication: true,
        licenses: LicensePolicy::default(),
        tokenizer: Some(TokenizerSource::TrainBpe {
            vocabulary_size: 300,
            special_tokens: vec![],
        }),
        split: Split {
            validation: 0.2,
            seed: 0,
        },
    };
    let local = LocalSource { source, root: text };
    prepare(&task, &[local], None, &root.join(name), &mut Go)
        .unwrap()
        .directory
}

fn task(family: Family, precision: Precision) -> TrainTask {
    let (positions, key_value_heads) = match family {
        Family::GPT2 => (Positions::Learned, 4),
        Family::Llama => (Positions::RoPE, 2),
    };
    TrainTask {
        mixture: vec![Mixture {
            name: "docs".into(),
            weight: 1.0,
        }],
        model: ModelShape {
            family,
            layers: 2,
            heads: 4,
            key_value_heads,
            hidden_size: 32,
            feed_forward_size: 64,
            context_length: 32,
            positions,
            attention_window: None,
            tied_embeddings: true,
            dropout: 0.0,
        },
        steps: 40,
        batch: Batch {
            sequences: 8,
            micro_batch: 4,
            sequence_length: 32,
        },
        optimizer: fixture::settings("pretrain").optimizer,
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: 4,
            decay_steps: 0,
            final_share: 0.1,
        },
        precision,
        seed: 7,
        deterministic: true,
        threads: 1,
        ranks: 1,
        checkpoint: CheckpointPolicy {
            every_steps: 10,
            every_seconds: 0,
            keep: 2,
        },
    }
}

fn finished(outcome: Outcome) -> bessemer_train::Finished {
    match outcome {
        Outcome::Finished(finished) => finished,
        other => panic!("{other:?}"),
    }
}

fn inputs(dataset: &Path) -> Inputs {
    Inputs {
        datasets: vec![("docs".into(), dataset.into())],
        model: None,
    }
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn text_becomes_a_hugging_face_directory_for_both_families_and_precisions() {
    let root = tempfile::tempdir().unwrap();
    let docs = dataset(root.path(), "docs", 9);
    for (family, precision) in [
        (Family::GPT2, Precision::FP32),
        (Family::Llama, Precision::FP32),
        (Family::Llama, Precision::BF16),
    ] {
        let work = root.path().join(format!("{family:?}-{precision:?}"));
        let done = finished(
            pretrain(
                &task(family, precision),
                &inputs(&docs),
                &work,
                &mut Ranks::alone(),
                &mut StopAt(0, 0),
            )
            .unwrap(),
        );
        let (first, last) = (
            done.summary.curve[0].loss,
            done.summary.validation_loss.unwrap(),
        );
        assert!(
            (first - 300f64.ln()).abs() < 0.3,
            "{family:?} starts at {first}"
        );
        assert!(
            last < 0.6 * first,
            "{family:?} {precision:?}: {first} -> {last}"
        );
        assert_eq!(done.summary.tokens, 40 * 8 * 32);
        let names: Vec<String> = files(&done.directory)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            names,
            [
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "training.json"
            ]
        );
        let directory = Directory::new(&done.directory);
        let model = directory.load(None, None, Device::Cpu).unwrap();
        assert_eq!(model.config().parameters(), done.parameters);
        let end = directory
            .tokenizer()
            .unwrap()
            .token_to_id("<|endoftext|>")
            .unwrap();
        assert_eq!(directory.ends().unwrap(), [i64::from(end)]);
        assert!(directory.chat_template().unwrap().is_some());
    }
}

#[test]
fn an_interrupted_pretraining_ends_in_the_same_files() {
    let root = tempfile::tempdir().unwrap();
    let docs = dataset(root.path(), "docs", 9);
    let task = task(Family::Llama, Precision::FP32);
    let run = |work: &str, stop_at| {
        pretrain(
            &task,
            &inputs(&docs),
            &root.path().join(work),
            &mut Ranks::alone(),
            &mut StopAt(stop_at, 0),
        )
    };
    let whole = finished(run("whole", 0).unwrap());
    for stop_at in [3, 10, 27] {
        assert!(
            matches!(run("parts", stop_at).unwrap(), Outcome::Interrupted { step } if step == stop_at)
        );
    }
    let parts = finished(run("parts", 0).unwrap());
    assert!(files(&whole.directory) == files(&parts.directory));
}

#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let Ok(gpu) = bessemer_torch::device(1) else {
        eprintln!("skipped: libtorch finds no GPU here");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let docs = dataset(root.path(), "docs", 9);
    for precision in [Precision::FP32, Precision::BF16] {
        let task = task(Family::Llama, precision);
        let run = |device: Device, stop_at: u64| {
            pretrain(
                &task,
                &inputs(&docs),
                &root.path().join(format!("{device:?}-{precision:?}")),
                &mut Ranks::alone().on(device),
                &mut StopAt(stop_at, 0),
            )
        };
        let cpu = finished(run(Device::Cpu, 0).unwrap());
        // A checkpoint brings weights and moments back onto the GPU.
        let stopped = run(gpu, 10).unwrap();
        assert!(matches!(stopped, Outcome::Interrupted { step: 10 }));
        let gpu = finished(run(gpu, 0).unwrap());
        let tolerance = match precision {
            Precision::FP32 => 1e-3,
            Precision::BF16 => 0.05,
        };
        let (one, other) = (cpu.summary.loss, gpu.summary.loss);
        assert!(
            (one - other).abs() < tolerance * one,
            "{precision:?}: {one} {other}"
        );
    }
}

#[test]
fn a_model_is_continued_and_a_mixture_needs_one_tokenizer() {
    let root = tempfile::tempdir().unwrap();
    let (docs, other) = (
        dataset(root.path(), "docs", 9),
        dataset(root.path(), "other", 23),
    );
    let mut task = task(Family::GPT2, Precision::FP32);
    let run = |task: &TrainTask, inputs: &Inputs, work: &str| {
        pretrain(
            task,
            inputs,
            &root.path().join(work),
            &mut Ranks::alone(),
            &mut StopAt(0, 0),
        )
    };
    let first = finished(run(&task, &inputs(&docs), "first").unwrap());
    let from = Inputs {
        model: Some(first.directory.clone()),
        ..inputs(&docs)
    };
    task.steps = 10;
    let second = finished(run(&task, &from, "second").unwrap());
    // It starts where the first ended, not at ln 300.
    assert!(
        second.summary.curve[0].loss < first.summary.loss + 0.3,
        "{:?}",
        second.summary.curve[0]
    );
    let mut wider = task.clone();
    wider.model.feed_forward_size = 128;
    assert!(
        run(&wider, &from, "third")
            .unwrap_err()
            .to_string()
            .contains("differs from that of the initial model")
    );

    task.mixture.push(Mixture {
        name: "more".into(),
        weight: 2.0,
    });
    let error = run(&task, &inputs(&docs), "fourth").unwrap_err();
    assert!(
        error.to_string().contains("more") && error.exit_code() == ExitCode::MissingInput,
        "{error}"
    );
    let both = |second: &Path| Inputs {
        datasets: vec![
            ("docs".into(), docs.clone()),
            ("more".into(), second.into()),
        ],
        model: None,
    };
    let error = run(&task, &both(&other), "fifth").unwrap_err();
    assert!(
        error.to_string().contains("tokenizer") && error.exit_code() == ExitCode::BadData,
        "{error}"
    );
    finished(run(&task, &both(&docs), "sixth").unwrap());
}

#[test]
fn damaged_shards_and_impossible_tasks_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let docs = dataset(root.path(), "docs", 9);
    let good = task(Family::Llama, Precision::FP32);
    let refuse = |task: &TrainTask| -> Error {
        pretrain(
            task,
            &inputs(&docs),
            &root.path().join("work"),
            &mut Ranks::alone(),
            &mut StopAt(0, 0),
        )
        .unwrap_err()
    };
    let mut task = good.clone();
    task.batch.sequence_length = 33;
    assert!(refuse(&task).to_string().contains("sequenceLength"));
    let mut task = good.clone();
    task.model.positions = Positions::Learned;
    assert!(refuse(&task).to_string().contains("positions"));
    let mut task = good.clone();
    task.model.key_value_heads = 3;
    assert_eq!(refuse(&task).exit_code(), ExitCode::BadConfig);

    let shard = std::fs::read_dir(&docs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("train-")
                && path.extension().is_some_and(|e| e == "bin")
        })
        .unwrap();
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let error = refuse(&good);
    assert!(error.to_string().contains("train-"), "{error}");
    assert_eq!(error.exit_code(), ExitCode::MissingInput);
    assert!(!root.path().join("work/model").join(WEIGHTS_FILE).exists());
}

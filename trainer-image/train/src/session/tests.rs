//! The loop on a model small enough to count: accumulation, resume, stopping, divergence, the fused head.

use std::cell::Cell;

use bessemer_model::Config;
use bessemer_protocol::task::{OptimizerKind, ScheduleKind};
use tch::{Device, Kind};

use super::*;

const VOCABULARY: i64 = 23;

/// Sequences that follow a rule, so that there is something to learn; rows have uneven numbers of targets.
struct Counting;

impl Counting {
    fn rows(seed: u64, first: usize, count: usize) -> Rows {
        let length = 8;
        let mut rows = Rows {
            count,
            length,
            name: format!("rows {first}..{}", first + count),
            ..Rows::default()
        };
        for row in first..first + count {
            let start = (mix(seed, row as u64) % VOCABULARY as u64) as i64;
            rows.tokens
                .extend((0..length as i64).map(|i| (start + 3 * i) % VOCABULARY));
            rows.targets.extend((0..length as i64).map(|i| {
                if i < (row % 5) as i64 {
                    bessemer_kernels::IGNORE
                } else {
                    (start + 3 * i + 3) % VOCABULARY
                }
            }));
        }
        rows
    }
}

impl Batches for Counting {
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
        Ok(Self::rows(step, first, count))
    }

    fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error> {
        Ok(Self::rows(
            u64::MAX,
            first,
            if first >= 6 { 0 } else { count },
        ))
    }
}

/// Stops after a step, and keeps what it saw.
#[derive(Default)]
struct Watch {
    stop_at: u64,
    seen: Vec<Progress>,
    saved: Vec<u64>,
    refuse: bool,
    clock: Cell<u64>,
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress) {
        self.seen.push(*progress);
    }

    fn checkpoint(&mut self, step: u64, directory: &Path) -> Result<(), String> {
        assert!(directory.join("state.json").exists());
        self.saved.push(step);
        if self.refuse {
            Err("the store is away".to_owned())
        } else {
            Ok(())
        }
    }

    fn stopping(&self) -> bool {
        self.seen
            .last()
            .is_some_and(|progress| progress.step == self.stop_at)
    }

    fn now(&self) -> Duration {
        self.clock.set(self.clock.get() + 1);
        Duration::from_secs(self.clock.get())
    }
}

fn settings(steps: u64) -> Settings {
    Settings {
        steps,
        batch: Batch {
            sequences: 6,
            micro_batch: 3,
            sequence_length: 8,
        },
        optimizer: OptimizerOptions {
            kind: OptimizerKind::AdamW,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_clip_norm: 1.0,
        },
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: 2,
            decay_steps: 0,
            final_share: 0.1,
        },
        checkpoint: CheckpointPolicy {
            every_steps: 4,
            every_seconds: 0,
            keep: 2,
        },
        seed: 5,
        threads: 1,
        deterministic: true,
        validation_sequences: 6,
        fingerprint: "run".to_owned(),
    }
}

fn model(family: &str) -> Model {
    let config = match family {
        "gpt2" => Config::gpt2(VOCABULARY, 2, 2, 16, 8),
        _ => Config::llama(VOCABULARY, 2, (2, 1), 16, 32, 8),
    };
    Model::new(config, 3, Kind::Float, Device::Cpu).unwrap()
}

fn bits(model: &Model) -> Vec<(String, Vec<u32>)> {
    let values = |tensor: &Tensor| -> Vec<u32> {
        Vec::<f32>::try_from(tensor.detach().contiguous().view([-1]))
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect()
    };
    model
        .weights()
        .iter()
        .map(|weight| (weight.name.clone(), values(&weight.tensor)))
        .collect()
}

fn train(model: &Model, settings: &Settings, root: &Path, watch: &mut Watch) -> Result<End, Error> {
    run(
        model,
        &mut Counting,
        settings,
        root,
        &mut Ranks::alone(),
        watch,
    )
}

#[test]
fn both_families_learn_and_the_step_calls_the_fused_head() {
    for family in ["gpt2", "llama"] {
        let (model, root, mut watch) = (
            model(family),
            tempfile::tempdir().unwrap(),
            Watch::default(),
        );
        let before = bessemer_kernels::head_loss_calls();
        let End::Finished(summary) = train(&model, &settings(60), root.path(), &mut watch).unwrap()
        else {
            panic!()
        };
        // Two micro-batches per step at least, apart from what other tests add.
        assert!(bessemer_kernels::head_loss_calls() - before >= 120);
        let first = watch.seen[0].loss;
        assert!(
            (first - (VOCABULARY as f64).ln()).abs() < 0.1,
            "{family} starts at {first}"
        );
        assert!(
            summary.validation_loss.unwrap() < 0.5 * first,
            "{family}: {summary:?}"
        );
        assert_eq!(watch.seen.len(), 60);
        assert_eq!(summary.curve.last().unwrap().step, 60);
        assert!(
            watch
                .seen
                .iter()
                .all(|progress| progress.tokens_per_second > 0.0 && progress.eta_seconds >= 0.0)
        );
    }
}

#[test]
fn the_size_of_the_micro_batch_changes_nothing_but_rounding() {
    let loss = |micro_batch: u32| {
        let (model, root, mut watch) = (
            model("llama"),
            tempfile::tempdir().unwrap(),
            Watch::default(),
        );
        let mut settings = settings(5);
        settings.batch.micro_batch = micro_batch;
        train(&model, &settings, root.path(), &mut watch).unwrap();
        watch
            .seen
            .iter()
            .map(|progress| (progress.loss, progress.gradient_norm))
            .collect::<Vec<_>>()
    };
    // Rows have between 4 and 8 targets, so a mean of means would differ in the third digit.
    for (whole, parts) in loss(6).into_iter().zip(loss(1)) {
        assert!(
            (whole.0 - parts.0).abs() < 1e-5 && (whole.1 - parts.1).abs() < 1e-4,
            "{whole:?} {parts:?}"
        );
    }
}

#[test]
fn a_run_stopped_anywhere_continues_to_the_same_bits() {
    let (whole, root) = (model("llama"), tempfile::tempdir().unwrap());
    let expected = train(&whole, &settings(11), root.path(), &mut Watch::default()).unwrap();
    for stop_at in 1..11 {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch {
            stop_at,
            ..Watch::default()
        };
        let end = train(&model("llama"), &settings(11), root.path(), &mut watch).unwrap();
        assert_eq!(end, End::Interrupted { step: stop_at });
        assert_eq!(watch.saved.last(), Some(&stop_at));
        // Another seed: everything must come from the checkpoint.
        let config = whole.config().clone();
        let other = Model::new(config, 99, Kind::Float, Device::Cpu).unwrap();
        let mut watch = Watch::default();
        let end = train(&other, &settings(11), root.path(), &mut watch).unwrap();
        assert_eq!(watch.seen[0].step, stop_at + 1);
        assert_eq!(bits(&other), bits(&whole));
        assert_eq!(end, expected);
    }
}

#[test]
fn checkpoints_come_by_steps_or_by_time_and_only_the_newest_stay() {
    let root = tempfile::tempdir().unwrap();
    let mut watch = Watch::default();
    train(&model("gpt2"), &settings(11), root.path(), &mut watch).unwrap();
    assert_eq!(watch.saved, [4, 8, 11]);
    assert_eq!(checkpoint::list(root.path()).unwrap().len(), 2);
    // The clock advances by a second per look.
    let mut by_time = settings(11);
    by_time.checkpoint = CheckpointPolicy {
        every_steps: 0,
        every_seconds: 3,
        keep: 1,
    };
    let (root, mut watch) = (tempfile::tempdir().unwrap(), Watch::default());
    train(&model("gpt2"), &by_time, root.path(), &mut watch).unwrap();
    assert!(watch.saved.len() > 2, "{:?}", watch.saved);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint() {
    struct Poisoned<'a>(&'a Model);
    impl Batches for Poisoned<'_> {
        fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
            if step == 6 && first == 3 {
                tch::no_grad(|| {
                    let _ = self.0.weights()[0].tensor.shallow_clone().fill_(f64::NAN);
                });
            }
            Ok(Counting::rows(step, first, count))
        }
        fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error> {
            Counting.validation(first, count)
        }
    }
    let (model, root) = (model("gpt2"), tempfile::tempdir().unwrap());
    let error = run(
        &model,
        &mut Poisoned(&model),
        &settings(11),
        root.path(),
        &mut Ranks::alone(),
        &mut Watch::default(),
    )
    .unwrap_err();
    let text = error.to_string();
    assert_eq!(error.category(), "LossDiverged");
    assert_eq!(error.exit_code(), bessemer_protocol::ExitCode::BadData);
    assert!(
        text.contains("the loss became NaN at step 7, in rows 0..3") && text.contains("0000000004"),
        "{text}"
    );
    let kept = checkpoint::newest(root.path(), "run").unwrap().unwrap();
    assert_eq!(kept.state.step, 4);
    assert!(
        kept.weights
            .values()
            .all(|tensor| bool::try_from(tensor.isfinite().all()).unwrap())
    );
}

#[test]
fn a_checkpoint_that_cannot_be_kept_stops_the_run() {
    let root = tempfile::tempdir().unwrap();
    let mut watch = Watch {
        refuse: true,
        ..Watch::default()
    };
    let error = train(&model("gpt2"), &settings(11), root.path(), &mut watch).unwrap_err();
    assert!(
        error.to_string().contains("step 4") && error.to_string().contains("the store is away"),
        "{error}"
    );
    assert_eq!(error.exit_code(), bessemer_protocol::ExitCode::TryAgain);
}

#[test]
fn impossible_settings_name_their_field() {
    let root = tempfile::tempdir().unwrap();
    type Spoil = fn(&mut Settings);
    let cases: [(&str, Spoil); 5] = [
        ("steps", |settings| settings.steps = 0),
        ("batch", |settings| settings.batch.micro_batch = 4),
        ("threads", |settings| settings.threads = 0),
        ("optimizer", |settings| {
            settings.optimizer.learning_rate = f64::NAN
        }),
        ("schedule.finalShare", |settings| {
            settings.schedule.final_share = 2.0
        }),
    ];
    for (field, spoil) in cases {
        let mut settings = settings(3);
        spoil(&mut settings);
        let error = train(
            &model("gpt2"),
            &settings,
            root.path(),
            &mut Watch::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(error.exit_code(), bessemer_protocol::ExitCode::BadConfig);
    }
}

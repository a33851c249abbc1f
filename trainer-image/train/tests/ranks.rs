//! Real processes that train one model together: the loss of one process, and after the loss of a rank the bits of an
//! undisturbed run.
#![cfg(test)]
// reason: a test says what it expects by failing
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fixture;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bessemer_kernels::IGNORE;
use bessemer_model::{Config, Directory, Model, WEIGHTS_FILE};
use bessemer_torch::distributed::{Group, Membership};
use bessemer_train::{Batches, End, Error, Observer, Progress, Ranks, Rows, Settings, run};
use fixture::STEPS;
use tch::{Device, Kind};

const WORK: &str = "BESSEMER_RANKS_TEST_WORK";
const RANK: &str = "BESSEMER_RANKS_TEST_RANK";
const SIZE: &str = "BESSEMER_RANKS_TEST_SIZE";
const ADDRESS: &str = "BESSEMER_RANKS_TEST_ADDRESS";
/// What goes wrong: `die <step>`, `stop <step>` or `poison <step>`, on the last rank.
const MISHAP: &str = "BESSEMER_RANKS_TEST_MISHAP";

/// Rows with uneven numbers of targets, so that a mean of the ranks' means would not do.
struct Powers<'a> {
    model: &'a Model,
    poison: Option<u64>,
}

impl Batches for Powers<'_> {
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
        if self.poison == Some(step + 1) {
            tch::no_grad(|| {
                let _ = self.model.weights()[0]
                    .tensor
                    .shallow_clone()
                    .fill_(f64::NAN);
            });
        }
        let length = 12;
        let mut rows = Rows {
            count,
            length,
            name: format!("rows {first}..{} of step {}", first + count, step + 1),
            ..Rows::default()
        };
        for row in first..first + count {
            let token = |i: usize| ((step as usize * 31 + row * 7 + i * i) % 29) as i64;
            rows.tokens.extend((0..length).map(token));
            let target = |i: usize| if i > row % 5 { token(i) } else { IGNORE };
            rows.targets.extend((1..=length).map(target));
        }
        Ok(rows)
    }

    fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error> {
        // Seven rows, which neither the micro-batch nor the ranks divide.
        self.training(1000, first, count.min(7usize.saturating_sub(first)))
    }
}

struct Watch {
    rank: usize,
    die_at: Option<u64>,
    stop_at: Option<u64>,
    step: u64,
    losses: Vec<String>,
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress) {
        self.step = progress.step;
        if self.die_at == Some(self.step) {
            std::process::abort();
        }
        // None before the first validation.
        let validation = progress.validation_loss.unwrap_or(1.0);
        self.losses.push(format!(
            "{} {validation} {}",
            progress.loss, progress.gradient_norm
        ));
    }
    fn checkpoint(&mut self, _: u64, _: &Path) -> Result<(), String> {
        assert_eq!(self.rank, 0, "only the first rank writes checkpoints");
        Ok(())
    }
    fn stopping(&self) -> bool {
        self.stop_at == Some(self.step)
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// The work of a child process; does nothing when the test harness calls it itself.
#[test]
fn child() {
    let Some(work) = std::env::var_os(WORK) else {
        return;
    };
    let work = Path::new(&work);
    let number = |name: &str| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let (rank, size) = (number(RANK), number(SIZE));
    let mishap = std::env::var(MISHAP).unwrap_or_default();
    let at = |word: &str| {
        let step = mishap.strip_prefix(word)?.trim().parse().ok()?;
        (rank == size - 1).then_some(step)
    };
    let mut ranks = if size == 1 {
        Ranks::alone()
    } else {
        let membership = Membership {
            rank,
            size,
            rendezvous: std::env::var(ADDRESS).unwrap(),
            own: IpAddr::V4(Ipv4Addr::LOCALHOST),
            patience: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
        };
        Ranks::of(Group::join(&membership, &|| false).unwrap())
    };
    // Dropout, so that random numbers count as well; other weights on every rank, so that those of rank 0 must come.
    let config = Config {
        dropout: 0.1,
        ..Config::llama(29, 2, (2, 1), 16, 32, 12)
    };
    let model = Model::new(config, 1 + rank as u64, Kind::Float, Device::Cpu).unwrap();
    let settings = settings();
    let mut watch = Watch {
        rank,
        die_at: at("die"),
        stop_at: at("stop"),
        step: 0,
        losses: Vec::new(),
    };
    let mut batches = Powers {
        model: &model,
        poison: at("poison"),
    };
    let root = work.join(format!("checkpoints-{rank}"));
    match run(
        &model,
        &mut batches,
        &settings,
        &root,
        &mut ranks,
        &mut watch,
    ) {
        Ok(End::Finished(_)) => {
            std::fs::write(work.join(format!("losses-{rank}")), watch.losses.join("\n")).unwrap();
            let model_directory = work.join(format!("model-{rank}"));
            Directory::new(model_directory).save(&model, &[0]).unwrap();
        }
        Ok(End::Interrupted { step }) => println!("INTERRUPTED {step}"),
        Err(error) => println!(
            "ERROR {} {}: {error}",
            error.exit_code().code(),
            error.category()
        ),
    }
}

fn settings() -> Settings {
    let mut settings = fixture::settings("ranks");
    settings.batch.sequences = 12;
    // Low enough to clip: the norm must be that of the whole gradient.
    settings.optimizer.gradient_clip_norm = 0.5;
    settings.checkpoint.every_steps = 5;
    settings.validation_sequences = 64;
    settings
}

/// Runs all ranks to their ends.
fn together(work: &Path, size: usize, mishap: &str) -> Vec<Output> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let children: Vec<Child> = (0..size)
        .map(|rank| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture", "--test-threads=1"])
                .env(WORK, work)
                .env(RANK, rank.to_string())
                .env(SIZE, size.to_string())
                .env(ADDRESS, &address)
                .env(MISHAP, mishap)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    children
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect()
}

fn finished(work: &Path, size: usize) {
    let ended = together(work, size, "");
    assert!(ended.iter().all(|end| end.status.success()), "{ended:?}");
}

fn weights(work: &Path, rank: usize) -> Vec<u8> {
    let path = work.join(format!("model-{rank}")).join(WEIGHTS_FILE);
    std::fs::read(path).unwrap()
}

fn said(output: &Output, word: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once(word));
    line.unwrap_or_else(|| panic!("no {word} in {text}"))
        .1
        .trim()
        .to_owned()
}

#[test]
fn two_and_three_ranks_have_the_losses_of_one_process() {
    let losses = |size: usize| -> Vec<Vec<f64>> {
        let work = tempfile::tempdir().unwrap();
        finished(work.path(), size);
        for rank in 1..size {
            assert_eq!(weights(work.path(), 0), weights(work.path(), rank));
            let own = |rank| std::fs::read(work.path().join(format!("losses-{rank}"))).unwrap();
            assert_eq!(own(0), own(rank));
        }
        let text = std::fs::read_to_string(work.path().join("losses-0")).unwrap();
        text.lines()
            .map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect())
            .collect()
    };
    let one = losses(1);
    assert_eq!(one.len() as u64, STEPS);
    assert!(one[STEPS as usize - 1][0] < 0.9 * one[0][0], "{one:?}");
    assert!(
        one.iter().any(|step| step[2] > 0.5),
        "nothing was clipped: {one:?}"
    );
    for size in [2, 3] {
        for (step, (alone, shared)) in one.iter().zip(losses(size)).enumerate() {
            // Training loss; validation losses are rounded to six decimals; gradient norm.
            for (at, tolerance) in [(0, 1e-6), (1, 2e-6), (2, 1e-4)] {
                let difference = (alone[at] - shared[at]).abs() / alone[at];
                assert!(
                    difference <= tolerance,
                    "{size} ranks, step {step}: {alone:?} {shared:?}"
                );
            }
        }
    }
}

#[test]
fn after_a_rank_is_lost_all_stop_and_the_next_attempt_ends_in_the_same_bits() {
    let (calm, stormy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    finished(calm.path(), 2);
    let ended = together(stormy.path(), 2, "die 13");
    assert!(!ended[1].status.success());
    let error = said(&ended[0], "ERROR");
    assert!(error.starts_with("75 RankLost"), "{error}");
    assert!(error.contains("rank 1 at 127.0.0.1 is lost"), "{error}");
    let kept = std::fs::read_dir(stormy.path().join("checkpoints-0")).unwrap();
    let mut kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["0000000005", "0000000010"]);
    // What another rank has on its disk must not count.
    std::fs::remove_dir_all(stormy.path().join("checkpoints-1")).unwrap();
    finished(stormy.path(), 2);
    for rank in 0..2 {
        assert_eq!(weights(calm.path(), rank), weights(stormy.path(), rank));
    }
}

#[test]
fn all_ranks_stop_after_one_step_when_one_is_asked_to() {
    let (calm, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    finished(calm.path(), 2);
    for end in &together(stopped.path(), 2, "stop 7") {
        assert_eq!(said(end, "INTERRUPTED"), "7");
    }
    assert!(stopped.path().join("checkpoints-0/0000000007").exists());
    finished(stopped.path(), 2);
    assert_eq!(weights(calm.path(), 0), weights(stopped.path(), 0));
}

#[test]
fn a_loss_that_diverges_on_one_rank_ends_all_and_the_rank_names_its_sequences() {
    let work = tempfile::tempdir().unwrap();
    let ended = together(work.path(), 2, "poison 7");
    for (end, named) in ended
        .iter()
        .zip(["the sequences of another rank", "rows 6..8 of step 7"])
    {
        let error = said(end, "ERROR");
        assert!(error.starts_with("65 LossDiverged"), "{error}");
        assert!(
            error.contains("at step 7") && error.contains(named),
            "{error}"
        );
    }
}

//! A process that is really killed, again and again, ends with the same bits as one that is left alone.
#![cfg(test)]
// reason: a test says what it expects by failing
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bessemer_model::{Config, Directory, Model, WEIGHTS_FILE};
use bessemer_train::{Batches, Error, Observer, Progress, Ranks, Rows, run};
use tch::{Device, Kind};

const WORK: &str = "BESSEMER_KILL_TEST_WORK";

struct Powers;

impl Batches for Powers {
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
        let (length, mut rows) = (
            12,
            Rows {
                count,
                length: 12,
                name: format!("step {step}"),
                ..Rows::default()
            },
        );
        for row in first..first + count {
            let token = |i: u64| ((step * 31 + row as u64 * 7 + i * i) % 29) as i64;
            rows.tokens.extend((0..length).map(token));
            rows.targets.extend((1..=length).map(token));
        }
        Ok(rows)
    }

    fn validation(&mut self, _: usize, _: usize) -> Result<Rows, Error> {
        Ok(Rows::default())
    }
}

/// Slow enough that a kill hits the middle of a run.
struct Slow(Instant);

impl Observer for Slow {
    fn progress(&mut self, _: &Progress) {
        std::thread::sleep(Duration::from_millis(15));
    }
    fn checkpoint(&mut self, _: u64, _: &Path) -> Result<(), String> {
        Ok(())
    }
    fn stopping(&self) -> bool {
        false
    }
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The work of the child process; does nothing when the test harness calls it itself.
#[test]
fn child() {
    let Some(work) = std::env::var_os(WORK) else {
        return;
    };
    let work = Path::new(&work);
    // Dropout, so that random numbers count as well.
    let config = Config {
        dropout: 0.1,
        ..Config::llama(29, 2, (2, 1), 16, 32, 12)
    };
    let model = Model::new(config, 1, Kind::Float, Device::Cpu).unwrap();
    let settings = fixture::settings("kill");
    run(
        &model,
        &mut Powers,
        &settings,
        &work.join("checkpoints"),
        &mut Ranks::alone(),
        &mut Slow(Instant::now()),
    )
    .unwrap();
    Directory::new(work.join("model"))
        .save(&model, &[0])
        .unwrap();
}

/// Runs the child; kills it after `limit` when given. Whether it ended by itself.
fn spawn(work: &Path, limit: Option<Duration>) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--test-threads=1"])
        .env(WORK, work)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let Some(limit) = limit else {
        assert!(child.wait().unwrap().success());
        return true;
    };
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn sigkill_at_any_moment_ends_in_the_same_bits() {
    let (calm, stormy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let start = Instant::now();
    spawn(calm.path(), None);
    let whole = start.elapsed();
    // Kills spread over the run; a growing limit guarantees the end.
    let mut kills = 0;
    for attempt in 0u32.. {
        let share = 0.25 + f64::from(attempt * 37 % 100) / 200.0 + f64::from(attempt / 8);
        if spawn(stormy.path(), Some(whole.mul_f64(share))) {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 1, "the child was never killed");
    let weights = |work: &Path| std::fs::read(work.join("model").join(WEIGHTS_FILE)).unwrap();
    assert_eq!(weights(calm.path()), weights(stormy.path()));
}

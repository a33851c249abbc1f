//! SIGKILL at seeded moments: whatever dies, the chain must end in the digests of an undisturbed run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::client;
use crate::plane::Plane;
use crate::process::{self, until};
use crate::source::Source;

/// What dies in a round.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The process with API, store, controllers and operator; its pods must die with it.
    Daemon,
    /// A pod that makes an artefact.
    Worker,
    /// A pod that serves or routes.
    Server,
    /// All processes of the plane at once.
    Everything,
}

const VICTIMS: [Victim; 4] = [
    Victim::Daemon,
    Victim::Worker,
    Victim::Server,
    Victim::Everything,
];
const WORKERS: [&str; 4] = ["prepare", "train", "tune", "evaluate"];
const SERVERS: [&str; 2] = ["serve", "route"];

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

/// A chain to disturb.
struct Case {
    manifests: PathBuf,
    deployment: &'static str,
    model: &'static str,
    /// Milliseconds within which everything may die.
    span: u64,
    rounds: u64,
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_kill_at_any_moment_changes_no_digest() {
    let source = Source::new();
    disturb_rounds(&Case {
        manifests: source.manifests(),
        deployment: "chat",
        model: "FineTune/tuned",
        span: 8_000,
        rounds: number("BESSEMER_ROUNDS", 50),
    });
}

#[test]
#[ignore = "takes long: make e2e-kill"]
fn quickstart_survives_kills() {
    let data = Path::new("/tmp/bessemer-quickstart/pairs/items.jsonl");
    assert!(
        data.exists(),
        "no {}; run `make quickstart` first",
        data.display()
    );
    disturb_rounds(&Case {
        manifests: bessemer_e2e::conformance::root().join("../examples/quickstart/chain.yaml"),
        deployment: "docs-chat",
        model: "FineTune/docs-chat",
        span: 120_000,
        rounds: number("BESSEMER_ROUNDS", 3),
    });
}

fn disturb_rounds(case: &Case) {
    let seed = number("BESSEMER_SEED", 4);
    println!("BESSEMER_SEED={seed} BESSEMER_ROUNDS={}", case.rounds);
    let expected = {
        let undisturbed = Plane::over(case.manifests.clone());
        undisturbed.ok(&["up"]);
        let started = Instant::now();
        undisturbed.apply();
        println!("undisturbed: {:.1} s", started.elapsed().as_secs_f64());
        undisturbed.digests()
    };
    // Each round has random numbers of its own, so that one can be played again alone.
    for round in number("BESSEMER_FIRST", 0)..case.rounds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(round);
        let victim = VICTIMS[random.random_range(0..VICTIMS.len())];
        let started = Instant::now();
        let plane = Plane::over(case.manifests.clone());
        plane.ok(&["up"]);
        let killed = disturb(&plane, victim, case.span, &mut random);
        if !process::alive(plane.daemon()) {
            plane.ok(&["up"]);
        }
        plane.apply();
        assert_eq!(plane.digests(), expected, "round {round}: {killed}");
        let body = client::chat(case.deployment, "Say number 7", 4, false);
        let answer = until(Duration::from_secs(60), || {
            client::post(&plane.url(case.deployment), "/v1/chat/completions", &body)
                .ok()
                .filter(|answer| answer.status == 200)
        });
        let answer = answer.unwrap_or_else(|| panic!("round {round}: nothing answers; {killed}"));
        assert_eq!(answer.digest(), expected[case.model], "round {round}");
        plane.ok(&["down"]);
        let orphans = plane.processes();
        assert!(
            orphans.is_empty(),
            "round {round}: {killed}, left: {orphans:?}"
        );
        println!(
            "round {round}: {killed}; {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
}

/// Applies, waits for a random moment, kills; returns what was killed, and when.
fn disturb(plane: &Plane, victim: Victim, span: u64, random: &mut ChaCha8Rng) -> String {
    let mut follower = plane
        .command(&["apply", "-f", &plane.manifests()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let killed = match victim {
        Victim::Daemon => {
            std::thread::sleep(Duration::from_millis(random.random_range(0..span)));
            process::kill(plane.daemon());
            "the daemon".into()
        }
        Victim::Everything => {
            std::thread::sleep(Duration::from_millis(random.random_range(0..span)));
            let all = plane.processes();
            all.iter().for_each(process::Process::kill);
            format!("all {} processes", all.len())
        }
        Victim::Worker => {
            // Each worker gets its share of the rounds; the moment is any of its life.
            let command = WORKERS[random.random_range(0..WORKERS.len())];
            let pause = random.random_range(0..span / 20);
            one(plane, &[command], pause)
        }
        Victim::Server => one(plane, &SERVERS, random.random_range(0..span / 5)),
    };
    let at = started.elapsed().as_secs_f64();
    let _ = follower.kill();
    let _ = follower.wait();
    format!("{victim:?}: {killed} killed after {at:.2} s")
}

/// Kills one process that does one of `commands`, `pause` milliseconds after the first is seen.
fn one(plane: &Plane, commands: &[&str], pause: u64) -> String {
    let find = || plane.processes().into_iter().find(|p| p.does(commands));
    // As long as `Plane::apply` waits: a server comes last.
    until(Duration::from_secs(900), find).unwrap_or_else(|| panic!("no {commands:?} ran"));
    std::thread::sleep(Duration::from_millis(pause));
    // It may have ended since; another one, or nothing, is as good a case.
    match find() {
        Some(process) => {
            process.kill();
            format!(
                "{:?}",
                process
                    .words
                    .iter()
                    .find(|word| commands.contains(&word.as_str()))
            )
        }
        None => format!("nothing ({commands:?} had ended)"),
    }
}

//! SIGKILL at seeded moments: whatever dies, the chain must end in the digests of an undisturbed run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

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
    let tally = disturb_rounds(&Case {
        manifests: source.manifests(),
        deployment: "chat",
        model: "FineTune/tuned",
        span: 8_000,
        rounds: number("BESSEMER_ROUNDS", 50),
    });
    // A few rounds that are played again may all come late; of many, kills after the work would prove nothing.
    let rare = tally.hits * 2 < tally.played;
    assert!(tally.played < 50 || !rare, "too few hits: {tally:?}");
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_killed_daemon_loses_nothing_that_was_stored() {
    let source = Source::new();
    let plane = Plane::started(&source);
    plane.apply();
    let (before, jobs) = (identities(&plane, "bessemer"), identities(&plane, "jobs"));
    assert_eq!((before.len(), jobs.len()), (6, 5), "{before:?} {jobs:?}");
    let digests = plane.digests();

    process::kill(plane.daemon());
    assert!(!process::alive(plane.daemon()));
    plane.ok(&["up"]);
    // Nothing is applied: what is there now was on the disk.
    assert_eq!(identities(&plane, "bessemer"), before);
    assert_eq!(plane.digests(), digests);
    plane.kubectl_ok(&[
        "wait",
        "--for=condition=Ready",
        "bessemer",
        "--all",
        "--timeout=300s",
    ]);
    assert_eq!(identities(&plane, "bessemer"), before);
    // The same Jobs: nothing was made a second time.
    assert_eq!(identities(&plane, "jobs"), jobs);
    let answer = answered(&plane, "chat").unwrap();
    assert_eq!(answer.digest(), digests["FineTune/tuned"]);
}

/// What an object is, what was asked of it and what was made for it, by kind and name: all that a restart must keep.
fn identities(plane: &Plane, kinds: &str) -> BTreeMap<String, Value> {
    let list = plane.json(&["get", kinds]);
    let of = |object: &Value| {
        let (metadata, status) = (&object["metadata"], &object["status"]);
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let identity = json!({
            "uid": metadata["uid"], "generation": metadata["generation"], "spec": object["spec"],
            "runKey": status["runKey"], "inputs": status["inputs"], "artifact": status["artifact"],
            "traffic": status["traffic"],
        });
        let title = format!("{}/{}", word(&object["kind"]), word(&metadata["name"]));
        (title, identity)
    };
    list["items"].as_array().unwrap().iter().map(of).collect()
}

/// A whole answer of a served model, as soon as there is one.
fn answered(plane: &Plane, deployment: &str) -> Option<client::Answer> {
    let body = client::chat(deployment, "Say number 7", 4, false);
    until(Duration::from_secs(60), || {
        client::post(&plane.url(deployment), "/v1/chat/completions", &body)
            .ok()
            .filter(|answer| answer.status == 200)
    })
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

/// How many rounds were played, and in how many a process died before the chain was ready.
#[derive(Debug, Default)]
struct Tally {
    played: u64,
    hits: u64,
}

fn disturb_rounds(case: &Case) -> Tally {
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
    let mut tally = Tally::default();
    // Each round has random numbers of its own, so that one can be played again alone.
    for round in number("BESSEMER_FIRST", 0)..case.rounds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(round);
        let victim = VICTIMS[random.random_range(0..VICTIMS.len())];
        let started = Instant::now();
        let plane = Plane::over(case.manifests.clone());
        plane.ok(&["up"]);
        let (killed, hit) = disturb(&plane, victim, case.span, &mut random);
        tally.played += 1;
        tally.hits += u64::from(hit);
        if !process::alive(plane.daemon()) {
            plane.ok(&["up"]);
        }
        plane.apply();
        assert_eq!(plane.digests(), expected, "round {round}: {killed}");
        let answer = answered(&plane, case.deployment);
        let answer = answer.unwrap_or_else(|| panic!("round {round}: nothing answers; {killed}"));
        assert_eq!(answer.digest(), expected[case.model], "round {round}");
        plane.ok(&["down"]);
        let orphans = plane.processes();
        assert!(
            orphans.is_empty(),
            "round {round}: {killed}, left: {orphans:?}"
        );
        println!(
            "round {round}: {killed}{}; {:.1} s",
            if hit { "" } else { ", after the work" },
            started.elapsed().as_secs_f64()
        );
    }
    println!("kills that hit work in progress: {tally:?}");
    tally
}

/// A watch of the Deployment, the last of the chain to be ready. It has the answer before it is asked for, so that
/// asking puts off no kill.
struct Watch {
    file: PathBuf,
    child: Child,
}

impl Watch {
    fn start(plane: &Plane) -> Self {
        let file = plane.directory().join("watch.deployment");
        let output = std::fs::File::create(&file).unwrap();
        let child = plane
            .kubectl(&["get", "deployments.bessemer.dev", "--watch", "--no-headers"])
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { file, child }
    }

    /// Whether the chain is not all ready.
    fn works(&self) -> bool {
        let rows = std::fs::read_to_string(&self.file).unwrap();
        !rows
            .lines()
            .any(|row| row.split_whitespace().nth(1) == Some("True"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Applies, waits for a random moment, kills; returns what was killed, when, and whether the chain was not ready yet.
fn disturb(plane: &Plane, victim: Victim, span: u64, random: &mut ChaCha8Rng) -> (String, bool) {
    let watch = Watch::start(plane);
    let mut follower = plane
        .command(&["apply", "-f", &plane.manifests()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let (killed, hit) = match victim {
        Victim::Daemon => {
            std::thread::sleep(Duration::from_millis(random.random_range(0..span)));
            let hit = watch.works();
            process::kill(plane.daemon());
            ("the daemon".into(), hit)
        }
        Victim::Everything => {
            std::thread::sleep(Duration::from_millis(random.random_range(0..span)));
            let all = plane.processes();
            let hit = watch.works();
            all.iter().for_each(process::Process::kill);
            (format!("all {} processes", all.len()), hit)
        }
        Victim::Worker => {
            // Each worker gets its share of the rounds; the moment is any of its life.
            let command = WORKERS[random.random_range(0..WORKERS.len())];
            let pause = random.random_range(0..span / 20);
            one(plane, &watch, &[command], pause)
        }
        Victim::Server => one(plane, &watch, &SERVERS, random.random_range(0..span / 5)),
    };
    let at = started.elapsed().as_secs_f64();
    let _ = follower.kill();
    let _ = follower.wait();
    (format!("{victim:?}: {killed} killed after {at:.2} s"), hit)
}

/// Kills one process that does one of `commands`, `pause` milliseconds after the first is seen.
fn one(plane: &Plane, watch: &Watch, commands: &[&str], pause: u64) -> (String, bool) {
    let find = || plane.processes().into_iter().find(|p| p.does(commands));
    // As long as `Plane::apply` waits: a server comes last.
    until(Duration::from_secs(900), find).unwrap_or_else(|| panic!("no {commands:?} ran"));
    std::thread::sleep(Duration::from_millis(pause));
    // It may have ended since; another one, or nothing, is as good a case.
    match find() {
        Some(process) => {
            let hit = watch.works();
            process.kill();
            let mut words = process.words.iter();
            let command = words.find(|word| commands.contains(&word.as_str()));
            (format!("{command:?}"), hit)
        }
        None => (format!("nothing ({commands:?} had ended)"), false),
    }
}

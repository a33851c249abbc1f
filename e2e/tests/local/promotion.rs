//! Promotions under load: whoever streams gets a whole answer, from one model or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client;
use crate::plane::Plane;
use crate::process::until;
use crate::source::Source;

const PROMOTIONS: usize = 20;
const CLIENTS: usize = 20;

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn twenty_promotions_under_twenty_streaming_clients_cut_no_answer() {
    let source = Source::with(include_str!("promotion.yaml"));
    let plane = Plane::started(&source);
    plane.apply();
    let digests = plane.digests();
    let models: BTreeSet<String> = ["one", "two"]
        .map(|name| digests[&format!("FineTune/{name}")].clone())
        .into();
    assert_eq!(models.len(), 2, "{digests:?}");
    let url = plane.url("chat");
    let done = AtomicBool::new(false);
    let faults: Mutex<Vec<String>> = Mutex::default();
    let answers: Mutex<BTreeMap<String, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (url, done, faults, answers) = (&url, &done, &faults, &answers);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    match stream(url, number) {
                        Ok(digest) => *answers.lock().unwrap().entry(digest).or_default() += 1,
                        Err(fault) => faults.lock().unwrap().push(fault),
                    }
                }
            });
        }
        let promoted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..PROMOTIONS {
                let model = if number % 2 == 0 { "two" } else { "one" };
                promote(&plane, model, &digests[&format!("FineTune/{model}")]);
                assert_eq!(plane.url("chat"), url, "the address must stay");
            }
        }));
        // The clients end first, or a failed promotion would wait for them for ever.
        done.store(true, Ordering::Relaxed);
        if let Err(why) = promoted {
            std::panic::resume_unwind(why);
        }
    });
    let (faults, answers) = (faults.into_inner().unwrap(), answers.into_inner().unwrap());
    let count: usize = answers.values().sum();
    println!(
        "{PROMOTIONS} promotions, {count} answers, {} faults: {answers:?}",
        faults.len()
    );
    assert!(
        faults.is_empty(),
        "{} of {count}: {:?}",
        faults.len(),
        faults.first()
    );
    assert_eq!(answers.into_keys().collect::<BTreeSet<_>>(), models);
    assert!(
        count >= PROMOTIONS * CLIENTS,
        "only {count} answers: too few to judge"
    );
}

fn promote(plane: &Plane, model: &str, digest: &str) {
    plane.change("mdeploy/chat", &json!({"modelRef": {"name": model}}));
    let served = until(std::time::Duration::from_secs(120), || {
        (plane.serves("chat", digest) && plane.ready("mdeploy/chat").0 == "True").then_some(())
    });
    assert!(
        served.is_some(),
        "{model}: {:?}\n{}",
        plane.ready("mdeploy/chat"),
        plane.log()
    );
}

/// Streams one answer; returns its digest, or what was wrong with it.
fn stream(url: &str, client: usize) -> Result<String, String> {
    let body = client::chat("chat", &format!("Say number {client}"), 100, true);
    let answer = client::post(url, "/v1/chat/completions", &body).map_err(|e| e.to_string())?;
    let events: Vec<&str> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    let reasons = events.iter().filter_map(|event| {
        let event: Value = serde_json::from_str(event).ok()?;
        event["choices"][0]["finish_reason"]
            .as_str()
            .map(str::to_owned)
    });
    let ended = reasons.count() > 0 && events.last() == Some(&"[DONE]");
    if answer.status == 200 && answer.whole && ended {
        Ok(answer.digest().to_owned())
    } else {
        Err(format!("{answer:?}"))
    }
}

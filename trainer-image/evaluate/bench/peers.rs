//! Question: how much faster are the metrics than sacrebleu and rouge-score? One core, same segments, one run:
//! `cargo bench -p bessemer-evaluate` (BESSEMER_PEER_PYTHON names a Python that has both peers).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)] // reason: a benchmark may stop by panicking

use std::process::Command;
use std::time::Instant;

use bessemer_evaluate::metric::bleu::Bleu;
use bessemer_evaluate::metric::chrf::Chrf;
use bessemer_evaluate::metric::rouge::Rouge;

const SEGMENTS: usize = 2000;

/// Segments of 89 words in the mean, as in the peers' published figures; about a quarter of the words differ.
fn segments() -> Vec<(String, [String; 1])> {
    let words: Vec<String> = (0..4000u64)
        .map(|index| {
            let stems = [
                "relat",
                "condition",
                "happi",
                "troubl",
                "form",
                "oper",
                "digit",
                "vector",
                "learn",
                "run",
            ];
            let ends = [
                "ed", "ing", "s", "ization", "", "ness", "ful", "able", "er", "ly",
            ];
            format!(
                "{}{}{}",
                stems[(index % 10) as usize],
                ends[(index / 10 % 10) as usize],
                index / 100
            )
        })
        .collect();
    let mut state = 1u64;
    let mut next = move |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    (0..SEGMENTS)
        .map(|_| {
            let reference: Vec<&str> = (0..70 + next(39))
                .map(|_| words[(next(63) * next(63)) as usize].as_str())
                .collect();
            let hypothesis: Vec<&str> = reference
                .iter()
                .map(|word| {
                    if next(4) == 0 {
                        words[next(4000) as usize].as_str()
                    } else {
                        word
                    }
                })
                .collect();
            (hypothesis.join(" ") + ".", [reference.join(" ") + "."])
        })
        .collect()
}

fn main() {
    let segments = segments();
    let view = || {
        segments
            .iter()
            .map(|(text, references)| (text.as_str(), references.as_slice()))
    };
    let timed = |name: &str, work: &mut dyn FnMut() -> f64| {
        let (rate, check) = (0..3)
            .map(|_| {
                let start = Instant::now();
                let check = work();
                (SEGMENTS as f64 / start.elapsed().as_secs_f64(), check)
            })
            .fold(
                (0.0f64, 0.0),
                |best, one| if one.0 > best.0 { one } else { best },
            );
        println!("ours {name} {rate:.0} {check:.9}");
    };
    timed("bleu", &mut || {
        let bleu = Bleu::default();
        let mut sum = Default::default();
        bleu.statistics(view()).iter().for_each(|one| sum += one);
        bleu.score(&sum)
    });
    timed("chrf", &mut || {
        let chrf = Chrf::default();
        let mut sum = Default::default();
        chrf.statistics(view()).iter().for_each(|one| sum += one);
        chrf.score(&sum)
    });
    timed("rouge", &mut || {
        let mut rouge = Rouge::new(true);
        view()
            .map(|(text, references)| rouge.score(&references[0], text).rouge_lsum.f)
            .sum::<f64>()
            / SEGMENTS as f64
    });
    let Ok(python) = std::env::var("BESSEMER_PEER_PYTHON") else {
        println!(
            "peers skipped: set BESSEMER_PEER_PYTHON to a Python with sacrebleu==2.6.0 and rouge-score==0.1.2"
        );
        return;
    };
    let file = std::env::temp_dir().join(format!("bessemer-peers-{}.json", std::process::id()));
    std::fs::write(&file, serde_json::to_string(&segments).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/peers.py");
    let status = Command::new(python)
        .env_remove("LD_LIBRARY_PATH")
        .arg(script)
        .arg(&file)
        .status()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(status.success());
}

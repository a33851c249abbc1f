//! Every metric against the table of scores that `peers.py` took from sacrebleu 2.6.0 and rouge-score 0.1.2.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // reason: a test fails by panicking

use std::io::{BufRead, BufReader};

use bessemer_evaluate::metric::bleu::{Bleu, Smooth, Statistics, Tokenize};
use bessemer_evaluate::metric::chrf::{self, Chrf};
use bessemer_evaluate::metric::rouge::{Rouge, Score};
use flate2::read::GzDecoder;
use serde_json::Value;

fn cases(metric: &str) -> Vec<Value> {
    let file =
        std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers.jsonl.gz")).unwrap();
    BufReader::new(GzDecoder::new(file))
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .filter(|case| case["metric"] == metric)
        .collect()
}

fn segments(case: &Value) -> (Vec<String>, Vec<Vec<String>>) {
    (
        serde_json::from_value(case["hyps"].clone()).unwrap(),
        serde_json::from_value(case["refs"].clone()).unwrap(),
    )
}

fn pairs<'a>(
    hyps: &'a [String],
    refs: &'a [Vec<String>],
) -> impl Iterator<Item = (&'a str, &'a [String])> {
    hyps.iter()
        .map(String::as_str)
        .zip(refs.iter().map(Vec::as_slice))
}

#[test]
fn bleu_equals_sacrebleu() {
    let cases = cases("bleu");
    assert!(cases.len() >= 900);
    let (mut several, mut partial) = (0, 0);
    for case in &cases {
        let options = &case["options"];
        let value = options["smooth_value"].as_f64();
        let bleu = Bleu {
            tokenize: Tokenize::from_name(options["tokenize"].as_str().unwrap()).unwrap(),
            smooth: match options["smooth_method"].as_str().unwrap() {
                "none" => Smooth::None,
                "floor" => Smooth::Floor(value.unwrap_or(0.1)),
                "add-k" => Smooth::AddK(value.unwrap_or(1.0)),
                _ => Smooth::Exp,
            },
            effective_order: options["effective_order"].as_bool().unwrap(),
            lowercase: options["lowercase"].as_bool().unwrap(),
        };
        let (hyps, refs) = segments(case);
        let mut sum = Statistics::default();
        for one in bleu.statistics(pairs(&hyps, &refs)) {
            sum += &one;
        }
        let (found, wanted) = (bleu.score(&sum), case["score"].as_f64().unwrap());
        assert!(
            (found - wanted).abs() <= 1e-9,
            "{found} is not {wanted}: {case}"
        );
        assert_eq!(Some(sum.hypothesis), case["hypothesis"].as_u64(), "{case}");
        assert_eq!(Some(sum.reference), case["reference"].as_u64(), "{case}");
        assert_eq!(
            Some(bleu.signature(refs[0].len()).as_str()),
            case["signature"].as_str()
        );
        several += usize::from(refs[0].len() > 1);
        partial += usize::from(wanted > 0.0 && wanted < 99.0);
    }
    assert!(several > 200 && partial > 400, "{several} {partial}");
}

#[test]
fn chrf_equals_sacrebleu() {
    let cases = cases("chrf");
    assert!(cases.len() >= 450);
    for case in &cases {
        let options = &case["options"];
        let chrf = Chrf {
            character_order: options["char_order"].as_u64().unwrap() as usize,
            word_order: options["word_order"].as_u64().unwrap() as usize,
            lowercase: options["lowercase"].as_bool().unwrap(),
        };
        let (hyps, refs) = segments(case);
        let mut sum = chrf::Statistics::default();
        for one in chrf.statistics(pairs(&hyps, &refs)) {
            sum += &one;
        }
        let (found, wanted) = (chrf.score(&sum), case["score"].as_f64().unwrap());
        assert!(
            (found - wanted).abs() <= 1e-9,
            "{found} is not {wanted}: {case}"
        );
    }
}

#[test]
fn rouge_equals_rouge_score() {
    let cases = cases("rouge");
    assert!(cases.len() >= 700);
    let mut scorers = [Rouge::new(false), Rouge::new(true)];
    for case in &cases {
        let scorer = &mut scorers[usize::from(case["stemmer"].as_bool().unwrap())];
        let (hyps, refs) = segments(case);
        let found = scorer.score_best(&refs[0], &hyps[0]);
        let wanted: Vec<[f64; 3]> = serde_json::from_value(case["scores"].clone()).unwrap();
        for (found, wanted) in [found.rouge1, found.rouge2, found.rouge_l, found.rouge_lsum]
            .iter()
            .zip(wanted)
        {
            let Score {
                precision,
                recall,
                f,
            } = found;
            for (found, wanted) in [precision, recall, f].into_iter().zip(wanted) {
                assert!(
                    (found - wanted).abs() <= 1e-12,
                    "{found} is not {wanted}: {case}"
                );
            }
        }
    }
}

//! Owns the generation suite: answers to held-out prompts against references by BLEU, chrF and ROUGE; it must not
//! read files.

use bessemer_protocol::task::{GenerationMetric, GenerationSuite};
use serde::Serialize;

use crate::Error;
use crate::metric::bleu::{self, Bleu};
use crate::metric::chrf::{self, Chrf};
use crate::metric::rouge::{Rouge, Scores};
use crate::record::Prompt;
use crate::sampler::Sampler;
use crate::subject::Subject;
use crate::table::Metric;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub index: usize,
    pub answer: String,
    pub references: Vec<String>,
    pub tokens: usize,
    /// Whether the model ended the answer, rather than the limit.
    pub ended: bool,
    /// Sentence BLEU (effective order), for reading; the result is the corpus score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bleu: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chrf: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rouge_l: Option<f64>,
}

/// Answers the prompts from `first` on, `prompts.len()` of them.
pub(crate) fn answer(
    subject: &Subject,
    suite: &GenerationSuite,
    prompts: &[Prompt],
    first: usize,
    seed: u64,
) -> Result<Vec<Sample>, Error> {
    let messages: Vec<_> = prompts
        .iter()
        .map(|prompt| prompt.messages.as_slice())
        .collect();
    let seeds: Vec<u64> = (0..prompts.len() as u64)
        .map(|offset| seed ^ (first as u64 + offset + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .collect();
    let sampler = Sampler {
        temperature: suite.temperature,
        top_p: suite.top_p,
    };
    let answers = subject.generate(&messages, &seeds, suite.max_tokens as usize, sampler)?;
    Ok(answers
        .into_iter()
        .zip(prompts)
        .enumerate()
        .map(|(offset, (answer, prompt))| Sample {
            index: first + offset,
            answer: answer.text,
            references: prompt.references.clone(),
            tokens: answer.tokens,
            ended: answer.ended,
            bleu: None,
            chrf: None,
            rouge_l: None,
        })
        .collect())
}

/// Metrics of answered samples; fills in the samples' own scores.
pub(crate) fn metrics(suite: &GenerationSuite, samples: &mut [Sample]) -> Vec<Metric<'static>> {
    let mut all = Vec::new();
    for metric in &suite.metrics {
        match metric {
            GenerationMetric::Bleu => all.push(bleu(samples)),
            GenerationMetric::Chrf => all.push(chrf(samples)),
            GenerationMetric::Rouge => all.extend(rouge(samples)),
        }
    }
    all
}

fn bleu(samples: &mut [Sample]) -> Metric<'static> {
    let (corpus, sentence) = (
        Bleu::default(),
        Bleu {
            effective_order: true,
            ..Bleu::default()
        },
    );
    let counts = corpus.statistics(
        samples
            .iter()
            .map(|sample| (sample.answer.as_str(), sample.references.as_slice())),
    );
    for (sample, counts) in samples.iter_mut().zip(&counts) {
        sample.bleu = Some(sentence.score(counts));
    }
    Metric::new("bleu", true, move |chosen| {
        let mut sum = bleu::Statistics::default();
        chosen
            .iter()
            .filter_map(|index| counts.get(*index))
            .for_each(|one| sum += one);
        corpus.score(&sum)
    })
}

fn chrf(samples: &mut [Sample]) -> Metric<'static> {
    let chrf = Chrf::default();
    let counts = chrf.statistics(
        samples
            .iter()
            .map(|sample| (sample.answer.as_str(), sample.references.as_slice())),
    );
    for (sample, counts) in samples.iter_mut().zip(&counts) {
        sample.chrf = Some(chrf.score(counts));
    }
    Metric::new("chrf", true, move |chosen| {
        let mut sum = chrf::Statistics::default();
        chosen
            .iter()
            .filter_map(|index| counts.get(*index))
            .for_each(|one| sum += one);
        chrf.score(&sum)
    })
}

fn rouge(samples: &mut [Sample]) -> Vec<Metric<'static>> {
    let mut rouge = Rouge::new(true);
    let scores: Vec<Scores> = samples
        .iter()
        .map(|sample| rouge.score_best(&sample.references, &sample.answer))
        .collect();
    for (sample, scores) in samples.iter_mut().zip(&scores) {
        sample.rouge_l = Some(scores.rouge_l.f);
    }
    type Kind = fn(&Scores) -> f64;
    let kinds: [(&'static str, Kind); 4] = [
        ("rouge1", |scores| scores.rouge1.f),
        ("rouge2", |scores| scores.rouge2.f),
        ("rougeL", |scores| scores.rouge_l.f),
        ("rougeLsum", |scores| scores.rouge_lsum.f),
    ];
    kinds
        .into_iter()
        .map(|(name, kind)| {
            let values: Vec<f64> = scores.iter().map(kind).collect();
            Metric::new(name, true, move |chosen| {
                chosen
                    .iter()
                    .filter_map(|index| values.get(*index))
                    .sum::<f64>()
                    / chosen.len() as f64
            })
        })
        .collect()
}

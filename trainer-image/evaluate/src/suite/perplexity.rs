//! Owns the perplexity suite, as lm-evaluation-harness 0.4 defines word and byte perplexity: corpus-weighted, not
//! a mean over documents; it must not read files.

use bessemer_protocol::task::Aggregation;
use serde::Serialize;

use crate::Error;
use crate::record::{Document, Prompt};
use crate::subject::{Likelihood, Subject};
use crate::table::Metric;
use crate::text::is_space;

/// What is scored.
pub(crate) enum Samples {
    Documents(Vec<Document>),
    Answers(Vec<Prompt>),
}

impl Samples {
    pub fn len(&self) -> usize {
        match self {
            Self::Documents(all) => all.len(),
            Self::Answers(all) => all.len(),
        }
    }

    pub fn aggregation(&self) -> Aggregation {
        match self {
            Self::Documents(_) => Aggregation::Document,
            Self::Answers(_) => Aggregation::Answer,
        }
    }
}

/// Numbers of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub index: usize,
    /// Sum over tokens, nats.
    pub log_likelihood: f64,
    pub tokens: u64,
    /// As lm-eval counts them: pieces between runs of white space, empty ones at the ends included.
    pub words: u64,
    /// UTF-8.
    pub bytes: u64,
}

/// `len(re.split(r"\s+", text))`.
fn words(text: &str) -> u64 {
    let mut before = false;
    let mut runs = 0;
    for c in text.chars() {
        let space = is_space(c);
        runs += u64::from(space && !before);
        before = space;
    }
    runs + 1
}

/// Scores sample `index`.
pub(crate) fn score(
    subject: &Subject,
    suite: &str,
    samples: &Samples,
    index: usize,
) -> Result<Sample, Error> {
    let (found, text): (Likelihood, &str) = match samples {
        Samples::Documents(all) => {
            let text = all.get(index).map_or("", |document| document.text.as_str());
            (subject.document(text)?, text)
        }
        Samples::Answers(all) => match all.get(index) {
            Some(prompt) => {
                let text = prompt.references.first().map_or("", String::as_str);
                (subject.answer(&prompt.conversation())?, text)
            }
            None => (Likelihood::default(), ""),
        },
    };
    if let Some(value) = found
        .tokens
        .iter()
        .find(|value| !(value.is_finite() && **value <= 0.0))
    {
        return Err(Error::NoProbability {
            suite: suite.to_owned(),
            sample: index,
            value: *value,
        });
    }
    Ok(Sample {
        index,
        log_likelihood: found.total(),
        tokens: found.tokens.len() as u64,
        words: words(text),
        bytes: text.len() as u64,
    })
}

/// Metrics of the scored samples.
pub(crate) fn metrics(samples: &[Sample]) -> Vec<Metric<'_>> {
    let per = move |chosen: &[usize], unit: fn(&Sample) -> u64| {
        let (mut likelihood, mut units) = (0.0, 0);
        for sample in chosen.iter().filter_map(|index| samples.get(*index)) {
            likelihood += sample.log_likelihood;
            units += unit(sample);
        }
        -likelihood / units as f64
    };
    vec![
        Metric::new("wordPerplexity", false, move |chosen| {
            per(chosen, |sample| sample.words).exp()
        }),
        Metric::new("bytePerplexity", false, move |chosen| {
            per(chosen, |sample| sample.bytes).exp()
        }),
        Metric::new("bitsPerByte", false, move |chosen| {
            per(chosen, |sample| sample.bytes) / std::f64::consts::LN_2
        }),
        Metric::new("loss", false, move |chosen| {
            per(chosen, |sample| sample.tokens)
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_re_split_does() {
        for (text, count) in [
            ("", 1),
            ("a b", 2),
            (" a \n b ", 4),
            ("a\u{1c}b", 2),
            (" ", 2),
        ] {
            assert_eq!(words(text), count, "{text:?}");
        }
    }

    #[test]
    fn corpus_weighted_not_a_mean_over_documents() {
        let one = |index, log_likelihood, tokens, words, bytes| Sample {
            index,
            log_likelihood,
            tokens,
            words,
            bytes,
        };
        let samples = [one(0, -10.0, 4, 2, 20), one(1, -2.0, 2, 4, 4)];
        let metrics = metrics(&samples);
        let value = |at: usize| (metrics[at].value)(&[0, 1]);
        assert!((value(0) - (12.0f64 / 6.0).exp()).abs() < 1e-12);
        assert!((value(1) - (0.5f64).exp()).abs() < 1e-12);
        assert!((value(2) - 0.5 / std::f64::consts::LN_2).abs() < 1e-12);
        assert!((value(3) - 2.0).abs() < 1e-12);
        assert_eq!(
            metrics.iter().map(|metric| metric.name).collect::<Vec<_>>(),
            ["wordPerplexity", "bytePerplexity", "bitsPerByte", "loss"]
        );
    }
}

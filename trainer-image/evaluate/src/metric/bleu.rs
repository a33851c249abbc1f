//! Owns BLEU (Papineni et al. 2002) as sacrebleu 2.6.0 computes it; it must not choose what is compared.

mod tokenize;

pub use tokenize::Tokenize;

use crate::metric::count::{Grams, Vocabulary};
use crate::text::{split, strip_end};

const ORDER: usize = 4;

/// What replaces a precision of zero (Chen and Cherry 2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smooth {
    /// Nothing: the score becomes 0.
    None,
    /// Method 1: this count instead of 0 (sacrebleu's default is 0.1).
    Floor(f64),
    /// Method 2: this much added to both counts of orders above 1 (sacrebleu's default is 1).
    AddK(f64),
    /// Method 3, NIST: halves with every further zero.
    Exp,
}

/// Parameters; the default is sacrebleu's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bleu {
    /// Tokenizer.
    pub tokenize: Tokenize,
    /// Smoothing.
    pub smooth: Smooth,
    /// Leave out orders that the hypothesis is too short for; recommended for single sentences.
    pub effective_order: bool,
    /// Compare in lower case.
    pub lowercase: bool,
}

impl Default for Bleu {
    fn default() -> Self {
        Self {
            tokenize: Tokenize::Mteval13a,
            smooth: Smooth::Exp,
            effective_order: false,
            lowercase: false,
        }
    }
}

/// Counts of one segment; they add up to those of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Tokens of the hypothesis.
    pub hypothesis: u64,
    /// Tokens of the reference nearest in length, the shorter one of two equally near.
    pub reference: u64,
    /// Matched n-grams, clipped, n = 1 to 4.
    pub correct: [u64; ORDER],
    /// n-grams of the hypothesis.
    pub total: [u64; ORDER],
}

impl std::ops::AddAssign<&Self> for Statistics {
    fn add_assign(&mut self, other: &Self) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for (sum, part) in self.correct.iter_mut().zip(other.correct) {
            *sum += part;
        }
        for (sum, part) in self.total.iter_mut().zip(other.total) {
            *sum += part;
        }
    }
}

impl Bleu {
    /// Counts of every segment. A segment is a hypothesis and its references.
    pub fn statistics<'a, R: AsRef<str> + 'a>(
        &self,
        segments: impl IntoIterator<Item = (&'a str, &'a [R])>,
    ) -> Vec<Statistics> {
        let mut grams = Grams::new();
        segments
            .into_iter()
            .map(|(text, references)| self.segment(&mut grams, text, references))
            .collect()
    }

    fn prepare(&self, text: &str) -> String {
        if self.lowercase {
            self.tokenize.apply(strip_end(&text.to_lowercase()))
        } else {
            self.tokenize.apply(strip_end(text))
        }
    }

    fn segment<R: AsRef<str>>(
        &self,
        grams: &mut Grams,
        text: &str,
        references: &[R],
    ) -> Statistics {
        let text = self.prepare(text);
        let references: Vec<String> = references
            .iter()
            .map(|text| self.prepare(text.as_ref()))
            .collect();
        let mut vocabulary = Vocabulary::default();
        let tokens: Vec<u32> = split(&text).map(|token| vocabulary.number(token)).collect();
        let reference_tokens: Vec<Vec<u32>> = references
            .iter()
            .map(|text| split(text).map(|token| vocabulary.number(token)).collect())
            .collect();
        let length = tokens.len() as u64;
        let nearest = reference_tokens
            .iter()
            .map(|tokens| tokens.len() as u64)
            .min_by_key(|reference| (reference.abs_diff(length), *reference));
        let mut result = Statistics {
            hypothesis: length,
            reference: nearest.unwrap_or(0),
            ..Statistics::default()
        };
        let mut hypothesis = vec![0; tokens.len()];
        let mut known: Vec<Vec<u32>> = reference_tokens
            .iter()
            .map(|tokens| vec![0; tokens.len()])
            .collect();
        for (order, (correct, total)) in
            result.correct.iter_mut().zip(&mut result.total).enumerate()
        {
            grams.clear();
            grams.extend(&mut hypothesis, tokens.get(order..).unwrap_or_default());
            for (grams_of_one, tokens) in known.iter_mut().zip(&reference_tokens) {
                grams.extend(grams_of_one, tokens.get(order..).unwrap_or_default());
            }
            let known: Vec<&[u32]> = known.iter().map(Vec::as_slice).collect();
            *total = hypothesis.len() as u64;
            *correct = grams.matches(&hypothesis, &known);
        }
        result
    }

    /// The score of summed counts, 0 to 100.
    pub fn score(&self, sum: &Statistics) -> f64 {
        if sum.correct.iter().all(|count| *count == 0) {
            return 0.0;
        }
        let penalty = if sum.hypothesis >= sum.reference {
            1.0
        } else if sum.hypothesis > 0 {
            (1.0 - sum.reference as f64 / sum.hypothesis as f64).exp()
        } else {
            0.0
        };
        let mut halving = 1.0;
        let mut logarithms = [-9_999_999_999.0f64; ORDER]; // sacrebleu's log of 0
        let mut orders = ORDER;
        for (order, ((correct, total), logarithm)) in sum
            .correct
            .iter()
            .zip(sum.total)
            .zip(&mut logarithms)
            .enumerate()
        {
            let (mut correct, mut total) = (*correct as f64, total as f64);
            if let (Smooth::AddK(k), true) = (self.smooth, order > 0) {
                correct += k;
                total += k;
            }
            if total == 0.0 {
                break;
            }
            if self.effective_order {
                orders = order + 1;
            }
            let precision = if correct > 0.0 {
                100.0 * correct / total
            } else {
                match self.smooth {
                    Smooth::Exp => {
                        halving *= 2.0;
                        100.0 / (halving * total)
                    }
                    Smooth::Floor(value) => 100.0 * value / total,
                    Smooth::None | Smooth::AddK(_) => 0.0,
                }
            };
            if precision > 0.0 {
                *logarithm = precision.ln();
            }
        }
        penalty * (logarithms.iter().take(orders).sum::<f64>() / orders as f64).exp()
    }

    /// sacrebleu's signature, for reports; `references` is the number of references of every segment, 0 when it varies.
    pub fn signature(&self, references: usize) -> String {
        let references = if references == 0 {
            "var".to_owned()
        } else {
            references.to_string()
        };
        let case = if self.lowercase { "lc" } else { "mixed" };
        let effective = if self.effective_order { "yes" } else { "no" };
        let smooth = match self.smooth {
            Smooth::None => "none".to_owned(),
            Smooth::Floor(value) => format!("floor[{value:.2}]"),
            Smooth::AddK(value) => format!("add-k[{value:.2}]"),
            Smooth::Exp => "exp".to_owned(),
        };
        let tokenize = self.tokenize.name();
        format!(
            "nrefs:{references}|case:{case}|eff:{effective}|tok:{tokenize}|smooth:{smooth}|version:2.6.0"
        )
    }
}

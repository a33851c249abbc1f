//! Owns chrF and chrF++ (Popović 2015, 2017) as sacrebleu 2.6.0 computes them; it must not choose what is compared.

use crate::metric::count::{Grams, Vocabulary};
use crate::text::{is_space, split};

/// Parameters; the default is sacrebleu's chrF, beta 2 and six orders of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chrf {
    /// Orders of characters.
    pub character_order: usize,
    /// Orders of words: 0 is chrF, 2 is chrF++.
    pub word_order: usize,
    /// Compare in lower case.
    pub lowercase: bool,
}

impl Default for Chrf {
    fn default() -> Self {
        Self {
            character_order: 6,
            word_order: 0,
            lowercase: false,
        }
    }
}

/// Weight of recall over precision.
const BETA: f64 = 2.0;

/// Counts of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// n-grams of the hypothesis; 0 when the reference has none.
    pub hypothesis: u64,
    /// n-grams of the reference.
    pub reference: u64,
    /// n-grams of both.
    pub matched: u64,
}

/// Counts of one segment, characters then words; they add up to those of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(pub Vec<Counts>);

impl std::ops::AddAssign<&Self> for Statistics {
    fn add_assign(&mut self, other: &Self) {
        self.0
            .resize(self.0.len().max(other.0.len()), Counts::default());
        for (sum, part) in self.0.iter_mut().zip(&other.0) {
            sum.hypothesis += part.hypothesis;
            sum.reference += part.reference;
            sum.matched += part.matched;
        }
    }
}

impl Chrf {
    /// Counts of every segment against its best reference. A segment is a hypothesis and its references.
    pub fn statistics<'a, R: AsRef<str> + 'a>(
        &self,
        segments: impl IntoIterator<Item = (&'a str, &'a [R])>,
    ) -> Vec<Statistics> {
        let mut grams = Grams::new();
        segments
            .into_iter()
            .map(|(text, references)| {
                let mut best: Option<(f64, Statistics)> = None;
                for reference in references {
                    let found = self.compare(&mut grams, text, reference.as_ref());
                    let score = self.score(&found);
                    if best.as_ref().is_none_or(|(known, _)| score > *known) {
                        best = Some((score, found));
                    }
                }
                best.map(|(_, found)| found).unwrap_or_default()
            })
            .collect()
    }

    fn compare(&self, grams: &mut Grams, text: &str, reference: &str) -> Statistics {
        let lower;
        let (text, reference) = if self.lowercase {
            lower = (text.to_lowercase(), reference.to_lowercase());
            (lower.0.as_str(), lower.1.as_str())
        } else {
            (text, reference)
        };
        let characters = |text: &str| -> Vec<u32> {
            text.chars()
                .filter(|c| !is_space(*c))
                .map(u32::from)
                .collect()
        };
        let mut orders = Vec::with_capacity(self.character_order + self.word_order);
        count(
            grams,
            &characters(text),
            &characters(reference),
            self.character_order,
            &mut orders,
        );
        if self.word_order > 0 {
            let mut vocabulary = Vocabulary::default();
            let hypothesis: Vec<u32> = words(text).map(|word| vocabulary.number(word)).collect();
            let reference: Vec<u32> = words(reference)
                .map(|word| vocabulary.number(word))
                .collect();
            count(grams, &hypothesis, &reference, self.word_order, &mut orders);
        }
        Statistics(orders)
    }

    /// The score of summed counts, 0 to 100: F-beta of the mean precision and recall over orders that both sides have.
    pub fn score(&self, sum: &Statistics) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for counts in &sum.0 {
            if counts.hypothesis > 0 && counts.reference > 0 {
                precision += counts.matched as f64 / counts.hypothesis as f64;
                recall += counts.matched as f64 / counts.reference as f64;
                orders += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        (precision, recall) = (precision / orders, recall / orders);
        let factor = BETA * BETA;
        100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
    }
}

fn count(
    grams: &mut Grams,
    hypothesis: &[u32],
    reference: &[u32],
    orders: usize,
    out: &mut Vec<Counts>,
) {
    let mut ours = vec![0; hypothesis.len()];
    let mut theirs = vec![0; reference.len()];
    for order in 0..orders {
        grams.clear();
        grams.extend(&mut ours, hypothesis.get(order..).unwrap_or_default());
        grams.extend(&mut theirs, reference.get(order..).unwrap_or_default());
        out.push(Counts {
            hypothesis: if theirs.is_empty() {
                0
            } else {
                ours.len() as u64
            },
            reference: theirs.len() as u64,
            matched: grams.matches(&ours, &[&theirs]),
        });
    }
}

/// Words with one mark of punctuation split off, at the end or else at the start.
fn words(text: &str) -> impl Iterator<Item = &str> {
    split(text).flat_map(|word| {
        let mut characters = word.chars();
        let (first, last) = (characters.next(), characters.next_back());
        let cut = match (first, last) {
            (_, Some(last)) if last.is_ascii_punctuation() => word.len() - 1,
            (Some(first), Some(_)) if first.is_ascii_punctuation() => 1,
            _ => word.len(),
        };
        let (left, right) = word.split_at(cut);
        [left, right].into_iter().filter(|part| !part.is_empty())
    })
}

//! Owns ROUGE-1, -2, -L and -Lsum (Lin 2004) as rouge-score 0.1.2 computes them with its stemmer; it must not
//! choose what is compared.

use std::collections::HashMap;

use crate::metric::count::Grams;
use crate::metric::porter;

/// Precision, recall and their harmonic mean, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Share of the prediction that the reference has.
    pub precision: f64,
    /// Share of the reference that the prediction has.
    pub recall: f64,
    /// Harmonic mean.
    pub f: f64,
}

impl Score {
    fn new(hits: u64, prediction: usize, reference: usize) -> Self {
        let precision = hits as f64 / prediction.max(1) as f64;
        let recall = hits as f64 / reference.max(1) as f64;
        let f = if precision + recall > 0.0 {
            2.0 * precision * recall / (precision + recall)
        } else {
            0.0
        };
        Self {
            precision,
            recall,
            f,
        }
    }
}

/// The four scores of one prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Words.
    pub rouge1: Score,
    /// Pairs of words.
    pub rouge2: Score,
    /// Longest common subsequence of the whole text.
    pub rouge_l: Score,
    /// Union of longest common subsequences by line.
    pub rouge_lsum: Score,
}

/// Scorer; keeps what it learned about words.
#[derive(Debug)]
pub struct Rouge {
    stemmer: bool,
    stems: HashMap<Vec<u8>, u32>,
    words: HashMap<Vec<u8>, u32>,
    grams: Grams,
    table: Vec<u32>,
    counts: (HashMap<u32, u32>, HashMap<u32, u32>),
}

/// Words kept before they are forgotten, so that memory stays bounded.
const KEPT: usize = 1 << 18;

impl Rouge {
    /// A scorer, with or without the stemmer.
    pub fn new(stemmer: bool) -> Self {
        Self {
            stemmer,
            stems: HashMap::new(),
            words: HashMap::new(),
            grams: Grams::new(),
            table: Vec::new(),
            counts: (HashMap::new(), HashMap::new()),
        }
    }

    /// Scores against the best reference, chosen for each type by F (the first of equals).
    pub fn score_best<R: AsRef<str>>(&mut self, references: &[R], prediction: &str) -> Scores {
        let mut best: Option<Scores> = None;
        for reference in references {
            let found = self.score(reference.as_ref(), prediction);
            best = Some(match best {
                None => found,
                Some(best) => {
                    let better = |new: Score, old: Score| if new.f > old.f { new } else { old };
                    Scores {
                        rouge1: better(found.rouge1, best.rouge1),
                        rouge2: better(found.rouge2, best.rouge2),
                        rouge_l: better(found.rouge_l, best.rouge_l),
                        rouge_lsum: better(found.rouge_lsum, best.rouge_lsum),
                    }
                }
            });
        }
        best.unwrap_or_default()
    }

    /// Scores against one reference.
    pub fn score(&mut self, reference: &str, prediction: &str) -> Scores {
        if self.words.len() > KEPT {
            self.words.clear();
            self.stems.clear();
        }
        let target = self.tokens(reference);
        let candidate = self.tokens(prediction);
        let lines = |scorer: &mut Self, text: &str| -> Vec<Vec<u32>> {
            text.split('\n')
                .filter(|line| !line.is_empty())
                .map(|line| scorer.tokens(line))
                .collect()
        };
        let target_lines = lines(self, reference);
        let candidate_lines = lines(self, prediction);
        Scores {
            rouge1: self.overlap(&target, &candidate, 1),
            rouge2: self.overlap(&target, &candidate, 2),
            rouge_l: Score::new(
                self.common(&target, &candidate),
                candidate.len(),
                target.len(),
            ),
            rouge_lsum: self.summary(&target_lines, &candidate_lines),
        }
    }

    /// Numbers of the stems: runs of `[a-z0-9]` in lower case; words of more than three characters are stemmed.
    fn tokens(&mut self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut word = Vec::new();
        for c in text.chars() {
            if c.is_ascii() {
                self.take(c.to_ascii_lowercase(), &mut word, &mut tokens);
            } else {
                // Few characters outside ASCII have lower-case forms within it: the Kelvin sign, I with dot.
                for lower in c.to_lowercase() {
                    self.take(lower, &mut word, &mut tokens);
                }
            }
        }
        self.take(' ', &mut word, &mut tokens);
        tokens
    }

    fn take(&mut self, c: char, word: &mut Vec<u8>, tokens: &mut Vec<u32>) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            word.push(c as u8);
        } else if !word.is_empty() {
            tokens.push(self.number(word));
            word.clear();
        }
    }

    fn number(&mut self, word: &[u8]) -> u32 {
        if let Some(number) = self.words.get(word) {
            return *number;
        }
        let mut stem = word.to_vec();
        if self.stemmer && word.len() > 3 {
            porter::stem(&mut stem);
        }
        let next = self.stems.len() as u32;
        let number = *self.stems.entry(stem).or_insert(next);
        self.words.insert(word.to_vec(), number);
        number
    }

    fn overlap(&mut self, target: &[u32], candidate: &[u32], order: usize) -> Score {
        let (mut ours, mut theirs) = (vec![0; candidate.len()], vec![0; target.len()]);
        for skip in 0..order {
            self.grams.clear();
            self.grams
                .extend(&mut ours, candidate.get(skip..).unwrap_or_default());
            self.grams
                .extend(&mut theirs, target.get(skip..).unwrap_or_default());
        }
        Score::new(
            self.grams.matches(&ours, &[&theirs]),
            ours.len(),
            theirs.len(),
        )
    }

    /// Fills the table of lengths, `target.len() + 1` rows by `candidate.len() + 1` columns, and returns the last.
    fn common(&mut self, target: &[u32], candidate: &[u32]) -> u64 {
        let width = candidate.len() + 1;
        self.table.clear();
        self.table.resize(width * (target.len() + 1), 0);
        let mut rest = self.table.as_mut_slice();
        for token in target {
            let (above, below) = rest.split_at_mut(width);
            let mut left = 0;
            for ((cell, other), pair) in below
                .iter_mut()
                .skip(1)
                .zip(candidate)
                .zip(above.windows(2))
            {
                let (diagonal, up) = match pair {
                    [diagonal, up] => (*diagonal, *up),
                    _ => (0, 0),
                };
                left = if token == other {
                    diagonal + 1
                } else {
                    up.max(left)
                };
                *cell = left;
            }
            rest = below;
        }
        self.table.last().map_or(0, |length| u64::from(*length))
    }

    /// Marks in `union` the positions of `target` on one longest common subsequence, going back as rouge-score does.
    fn mark(&mut self, target: &[u32], candidate: &[u32], union: &mut [bool]) {
        if target.is_empty() || candidate.is_empty() {
            return;
        }
        self.common(target, candidate);
        let width = candidate.len() + 1;
        let (mut i, mut j) = (target.len(), candidate.len());
        while i > 0 && j > 0 {
            let at = |row: usize, column: usize| {
                self.table.get(row * width + column).copied().unwrap_or(0)
            };
            if target.get(i - 1) == candidate.get(j - 1) {
                if let Some(mark) = union.get_mut(i - 1) {
                    *mark = true;
                }
                i -= 1;
                j -= 1;
            } else if at(i, j - 1) > at(i - 1, j) {
                j -= 1;
            } else {
                i -= 1;
            }
        }
    }

    fn summary(&mut self, target: &[Vec<u32>], candidate: &[Vec<u32>]) -> Score {
        let length = |lines: &[Vec<u32>]| lines.iter().map(Vec::len).sum::<usize>();
        let (reference, prediction) = (length(target), length(candidate));
        if reference == 0 || prediction == 0 {
            return Score::default();
        }
        let (mut ours, mut theirs) = std::mem::take(&mut self.counts);
        ours.clear();
        theirs.clear();
        for token in target.iter().flatten() {
            *ours.entry(*token).or_default() += 1;
        }
        for token in candidate.iter().flatten() {
            *theirs.entry(*token).or_default() += 1;
        }
        let mut hits = 0;
        for line in target {
            let mut union = vec![false; line.len()];
            for other in candidate {
                self.mark(line, other, &mut union);
            }
            for (token, _) in line.iter().zip(&union).filter(|(_, marked)| **marked) {
                // A token counts no more often than both sides have it.
                if let (Some(left), Some(right)) = (ours.get_mut(token), theirs.get_mut(token))
                    && *left > 0
                    && *right > 0
                {
                    hits += 1;
                    *left -= 1;
                    *right -= 1;
                }
            }
        }
        self.counts = (ours, theirs);
        Score::new(hits, prediction, reference)
    }
}

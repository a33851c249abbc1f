//! Owns Gopher's repetition rules (Rae et al. 2021, thresholds and counting of datatrove 0.10.1) over words split
//! at white space; it must not remove anything itself.
//!
//! One difference from datatrove: an n-gram that occurs once is no repetition, however short the text.
//!
//! All fractions are of code points. The first occurrence is never a duplicate. N-grams are compared by 64-bit
//! hashes; the tests compare with a plain transcription and with datatrove's own verdicts.

use xxhash_rust::xxh3::xxh3_64;

/// Which rule a document broke, in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepetitionRule {
    /// Share of paragraphs that repeat another.
    DuplicateParagraphs,
    /// Characters in such paragraphs.
    DuplicateParagraphCharacters,
    /// Share of lines that repeat another.
    DuplicateLines,
    /// Characters in such lines.
    DuplicateLineCharacters,
    /// Characters of the most frequent n-gram.
    TopNgram(u8),
    /// Characters in repeated n-grams.
    DuplicateNgrams(u8),
}

impl RepetitionRule {
    /// Stable word for statistics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::DuplicateParagraphs => "repeatedParagraphs",
            Self::DuplicateParagraphCharacters => "repeatedParagraphCharacters",
            Self::DuplicateLines => "repeatedLines",
            Self::DuplicateLineCharacters => "repeatedLineCharacters",
            Self::TopNgram(_) => "repeatedTopNgram",
            Self::DuplicateNgrams(_) => "repeatedNgrams",
        }
    }
}

const PARAGRAPHS: f64 = 0.30;
const PARAGRAPH_CHARACTERS: f64 = 0.20;
const LINES: f64 = 0.30;
const LINE_CHARACTERS: f64 = 0.20;
const TOP: [(u8, f64); 3] = [(2, 0.20), (3, 0.18), (4, 0.16)];
const DUPLICATE: [(u8, f64); 6] = [
    (5, 0.15),
    (6, 0.14),
    (7, 0.13),
    (8, 0.12),
    (9, 0.11),
    (10, 0.10),
];

/// Modulus and base of the hash of concatenated words (Karp and Rabin 1987).
const PRIME: u64 = (1 << 61) - 1;
const BASE: u64 = 0x0f3a_91c5_77d1_2b4d;

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let folded = (product & u128::from(PRIME)) as u64 + (product >> 61) as u64;
    if folded >= PRIME {
        folded - PRIME
    } else {
        folded
    }
}

/// The filter with its scratch space, reused over documents.
#[derive(Debug, Default)]
pub struct Repetition {
    table: Table,
    words: Vec<Word>,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    /// Hash of the word itself.
    own: u64,
    /// Hash of all words up to and including this one, joined without spaces.
    prefix: u64,
    /// `BASE` to the number of characters of this word.
    power: u64,
    /// Characters of all words up to and including this one.
    characters: u64,
}

impl Repetition {
    /// A filter without scratch space yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first rule that a document breaks.
    pub fn broken(&mut self, text: &str) -> Option<RepetitionRule> {
        let length = count(text) as f64;
        if length == 0.0 {
            return None;
        }
        let (elements, duplicates, characters) = self.duplicates(paragraphs(text.trim()));
        if duplicates as f64 / elements as f64 > PARAGRAPHS {
            return Some(RepetitionRule::DuplicateParagraphs);
        }
        if characters as f64 / length > PARAGRAPH_CHARACTERS {
            return Some(RepetitionRule::DuplicateParagraphCharacters);
        }
        let (elements, duplicates, characters) = self.duplicates(lines(text));
        if duplicates as f64 / elements as f64 > LINES {
            return Some(RepetitionRule::DuplicateLines);
        }
        if characters as f64 / length > LINE_CHARACTERS {
            return Some(RepetitionRule::DuplicateLineCharacters);
        }
        self.split(text);
        for (n, limit) in TOP {
            if self.top(n.into()) as f64 / length > limit {
                return Some(RepetitionRule::TopNgram(n));
            }
        }
        for (n, limit) in DUPLICATE {
            if self.repeated(n.into()) as f64 / length > limit {
                return Some(RepetitionRule::DuplicateNgrams(n));
            }
        }
        None
    }

    fn duplicates<'a>(
        &mut self,
        elements: impl Iterator<Item = &'a str> + Clone,
    ) -> (u64, u64, u64) {
        self.table.clear(elements.clone().count());
        let (mut all, mut duplicates, mut characters) = (0, 0, 0);
        for element in elements {
            all += 1;
            if self.table.add(xxh3_64(element.as_bytes()), 0) > 1 {
                duplicates += 1;
                characters += count(element);
            }
        }
        (all.max(1), duplicates, characters)
    }

    fn split(&mut self, text: &str) {
        self.words.clear();
        let (mut prefix, mut characters) = (0, 0);
        for word in text.split_whitespace() {
            let mut power = 1;
            for character in word.chars() {
                // Code points are below 2^21, so the sum stays far below 2^64.
                prefix = (multiply(prefix, BASE) + u64::from(u32::from(character)) + 1) % PRIME;
                power = multiply(power, BASE);
                characters += 1;
            }
            self.words.push(Word {
                own: xxh3_64(word.as_bytes()),
                prefix,
                power,
                characters,
            });
        }
    }

    /// Occurrences times length, joining spaces included, of the most frequent n-gram, the first one of several.
    fn top(&mut self, n: usize) -> u64 {
        self.table.clear(self.words.len());
        let mut best = (0, usize::MAX);
        for (index, window) in self.words.windows(n).enumerate() {
            let hash = window.iter().fold(n as u64, |hash, word| {
                (hash.rotate_left(5) ^ word.own).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            });
            let (occurrences, first) = self.table.add_at(hash, index as u32);
            // Python's max() takes the first of equals, in order of first occurrence.
            if occurrences > best.0 || (occurrences == best.0 && (first as usize) < best.1) {
                best = (occurrences, first as usize);
            }
        }
        if best.0 < 2 {
            return 0;
        }
        let Some(window) = self.words.get(best.1..best.1.saturating_add(n)) else {
            return 0;
        };
        let before = self.characters_before(best.1);
        let characters = window.last().map_or(0, |word| word.characters) - before + n as u64 - 1;
        characters * u64::from(best.0)
    }

    /// Characters of n-grams seen before, scanned from left to right, n words on after a hit.
    fn repeated(&mut self, n: usize) -> u64 {
        self.table.clear(self.words.len());
        let (mut characters, mut index) = (0, 0);
        while let Some(window) = self.words.get(index..index + n) {
            let (before, start) = match index
                .checked_sub(1)
                .and_then(|previous| self.words.get(previous))
            {
                Some(word) => (word.prefix, word.characters),
                None => (0, 0),
            };
            let power = window
                .iter()
                .fold(1, |power, word| multiply(power, word.power));
            let Some(last) = window.last() else { break };
            let hash = (last.prefix + PRIME - multiply(before, power)) % PRIME;
            if self.table.add(hash, 0) > 1 {
                characters += last.characters - start;
                index += n;
            } else {
                index += 1;
            }
        }
        characters
    }

    fn characters_before(&self, index: usize) -> u64 {
        index
            .checked_sub(1)
            .and_then(|previous| self.words.get(previous))
            .map_or(0, |word| word.characters)
    }
}

/// Pieces between runs of two or more line feeds; a single one belongs to the piece.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> + Clone {
    // A run of three leaves a line feed at the head of the next piece, which the pattern would have eaten.
    text.split("\n\n")
        .map(|piece| piece.trim_start_matches('\n'))
        .filter(|piece| !piece.is_empty())
}

/// Pieces between runs of line feeds; a run at either end has an empty piece beside it, as in Python's re.split.
fn lines(text: &str) -> impl Iterator<Item = &str> + Clone {
    let ends = |there: bool| there.then_some("").into_iter();
    let inner = text.split('\n').filter(|line| !line.is_empty());
    ends(text.starts_with('\n'))
        .chain(inner)
        .chain(ends(text.ends_with('\n')))
}

fn count(text: &str) -> u64 {
    // Bytes that are no continuation bytes: one per code point.
    text.bytes().filter(|byte| (*byte as i8) >= -0x40).count() as u64
}

/// Counts of hashes by open addressing; never more than half full.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<(u64, u32, u32)>,
    mask: usize,
}

impl Table {
    fn clear(&mut self, entries: usize) {
        let size = (entries.max(8) * 2).next_power_of_two();
        self.slots.clear();
        self.slots.resize(size, (0, 0, 0));
        self.mask = size - 1;
    }

    fn add(&mut self, hash: u64, first: u32) -> u32 {
        self.add_at(hash, first).0
    }

    /// Occurrences with this one, and the mark of the first.
    fn add_at(&mut self, hash: u64, mark: u32) -> (u32, u32) {
        let mut at = (hash ^ (hash >> 32)) as usize & self.mask;
        loop {
            let Some(slot) = self.slots.get_mut(at) else {
                return (1, mark); // the mask keeps `at` inside
            };
            if slot.1 == 0 {
                *slot = (hash, 1, mark);
                return (1, mark);
            }
            if slot.0 == hash {
                slot.1 += 1;
                return (slot.1, slot.2);
            }
            at = (at + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests;

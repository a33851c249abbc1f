//! Owns training of byte-level BPE (Sennrich et al. 2016) from counted words, merge for merge as the `tokenizers`
//! crate does it, with 64-bit counts; it must not see texts whole.

use std::collections::{BTreeMap, BinaryHeap};

use super::{PieceMap, key, split, visible};

/// Words with how often they occur. Memory is that of the distinct words.
#[derive(Debug, Default)]
pub(crate) struct WordCounts(PieceMap<Box<[u8]>, u64>);

impl WordCounts {
    /// Counts the pieces of a text.
    pub(crate) fn add(&mut self, text: &str) {
        split(text, |piece| match self.0.get_mut(piece.as_bytes()) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(piece.as_bytes().into(), 1);
            }
        });
    }

    /// The counts of both.
    pub(crate) fn merge(self, other: Self) -> Self {
        let (mut all, few) = if self.0.len() < other.0.len() {
            (other, self)
        } else {
            (self, other)
        };
        for (word, count) in few.0 {
            *all.0.entry(word).or_default() += count;
        }
        all
    }
}

/// A trained model in the form of a tokenizer file.
#[derive(Debug, Default)]
pub(crate) struct Trained {
    /// Tokens in id order.
    pub tokens: Vec<String>,
    /// Merges in rank order.
    pub merges: Vec<(String, String)>,
}

/// A pair that may be merged: ordered by count, of equals the smaller ids first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: i64,
    pair: std::cmp::Reverse<(u32, u32)>,
    words: Vec<u32>,
}

/// Trains up to `size` tokens; pairs seen less than `least` times are not merged.
pub(crate) fn train(counts: &WordCounts, size: usize, special: &[String], least: i64) -> Trained {
    let mut trained = Trained {
        tokens: special.to_vec(),
        merges: Vec::new(),
    };
    // The alphabet in order of its visible characters.
    let alphabet: BTreeMap<char, u8> = (0..=255).map(|byte| (visible(byte), byte)).collect();
    let mut ids = vec![0; 256];
    for (character, byte) in alphabet {
        if let Some(id) = ids.get_mut(usize::from(byte)) {
            *id = trained.tokens.len() as u32;
        }
        trained.tokens.push(character.to_string());
    }
    let mut known: PieceMap<Box<[u8]>, u32> = (0..)
        .zip(&trained.tokens)
        .map(|(id, token)| (token.as_bytes().into(), id))
        .collect();
    let mut words: Vec<(Vec<u32>, i64)> = Vec::with_capacity(counts.0.len());
    for (word, count) in &counts.0 {
        let symbols = word
            .iter()
            .filter_map(|byte| ids.get(usize::from(*byte)).copied())
            .collect();
        words.push((symbols, *count as i64));
    }
    let mut pairs: PieceMap<u64, i64> = PieceMap::default();
    let mut touched: PieceMap<u64, Vec<u32>> = PieceMap::default();
    for (number, (symbols, count)) in (0..).zip(&words) {
        for pair in symbols.windows(2) {
            if let &[left, right] = pair {
                *pairs.entry(key(left, right)).or_default() += count;
                touch(&mut touched, key(left, right), number);
            }
        }
    }
    let mut queue = BinaryHeap::with_capacity(touched.len());
    enqueue(&mut queue, &mut touched, &pairs);
    while trained.tokens.len() < size {
        let Some(mut top) = queue.pop() else { break };
        let (left, right) = top.pair.0;
        let count = pairs.get(&key(left, right)).copied().unwrap_or(0);
        if top.count != count {
            top.count = count;
            queue.push(top);
            continue;
        }
        if count < least.max(1) {
            break;
        }
        let name = |id: u32| trained.tokens.get(id as usize).cloned().unwrap_or_default();
        let (first, second) = (name(left), name(right));
        let token = format!("{first}{second}");
        // Another pair may have made the same token before.
        let id = *known.entry(token.as_bytes().into()).or_insert_with(|| {
            trained.tokens.push(token);
            trained.tokens.len() as u32 - 1
        });
        trained.merges.push((first, second));
        for number in top.words {
            let Some((symbols, count)) = words.get_mut(number as usize) else {
                continue;
            };
            merge(symbols, (left, right), id, |pair, change| {
                *pairs.entry(pair).or_default() += change * *count;
                if change > 0 {
                    touch(&mut touched, pair, number);
                }
            });
        }
        enqueue(&mut queue, &mut touched, &pairs);
    }
    trained
}

/// Notes a word once; words come one after another.
fn touch(touched: &mut PieceMap<u64, Vec<u32>>, pair: u64, word: u32) {
    let words = touched.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

fn enqueue(
    queue: &mut BinaryHeap<Candidate>,
    touched: &mut PieceMap<u64, Vec<u32>>,
    pairs: &PieceMap<u64, i64>,
) {
    for (pair, words) in touched.drain() {
        let count = pairs.get(&pair).copied().unwrap_or(0);
        if count > 0 {
            let pair = std::cmp::Reverse(((pair >> 32) as u32, pair as u32));
            queue.push(Candidate { count, pair, words });
        }
    }
}

/// Merges a pair in a word and tells how the counts of neighbouring pairs change.
fn merge(
    symbols: &mut Vec<u32>,
    (left, right): (u32, u32),
    id: u32,
    mut change: impl FnMut(u64, i64),
) {
    let (mut from, mut to) = (0usize, 0usize);
    while let Some(&symbol) = symbols.get(from) {
        let mut written = symbol;
        if symbol == left && symbols.get(from + 1) == Some(&right) {
            if let Some(&before) = to.checked_sub(1).and_then(|at| symbols.get(at)) {
                change(key(before, left), -1);
                change(key(before, id), 1);
            }
            if let Some(&after) = symbols.get(from + 2) {
                change(key(right, after), -1);
                change(key(id, after), 1);
            }
            written = id;
            from += 1;
        }
        if let Some(slot) = symbols.get_mut(to) {
            *slot = written;
        }
        from += 1;
        to += 1;
    }
    symbols.truncate(to);
}

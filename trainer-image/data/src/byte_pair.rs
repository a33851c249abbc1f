//! Owns our own byte-level BPE: GPT-2's splitting rule, encoding and training, with the ids and merges of the
//! `tokenizers` crate (the reference in the tests) several times faster. It must not read or write files.

mod split;
mod train;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde_json::Value;
use tokenizers::Tokenizer;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) use split::split;
pub(crate) use train::{Trained, WordCounts, train};

/// Pieces above this length are merged with a heap, shorter ones by scanning.
const SCAN: usize = 48;
/// Longest piece and number of pieces that a cache remembers: about 40 MB.
const CACHE_PIECE: usize = 48;
const CACHE_PIECES: usize = 1 << 18;

/// Hashes the bytes of a key at once.
#[derive(Clone, Copy, Default)]
pub(crate) struct PieceHasher(u64);

impl Hasher for PieceHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
    fn write_usize(&mut self, _: usize) {
        // The length prefix of a slice: a map of single slices needs none.
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 32;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

pub(crate) type PieceMap<K, V> = HashMap<K, V, BuildHasherDefault<PieceHasher>>;

/// A pair of ids as one key.
fn key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

/// The visible character by which GPT-2 writes a byte.
pub(crate) fn visible(byte: u8) -> char {
    let shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if shown(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|other| !shown(*other)).count() as u32;
    char::from_u32(256 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// An encoder.
#[derive(Clone, Debug)]
pub(crate) struct BytePair {
    bytes: Vec<u32>,
    /// Rank and result of every merge.
    merges: PieceMap<u64, (u32, u32)>,
}

/// Ids of pieces that were seen before; one per thread.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    places: PieceMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
    symbols: Vec<u32>,
    ranks: Vec<u32>,
}

impl BytePair {
    /// Takes over a tokenizer; `None` when it is anything but plain byte-level BPE with GPT-2's splitting rule.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let json: Value = serde_json::from_str(&tokenizer.to_string(false).ok()?).ok()?;
        let model = json.get("model")?;
        let off = |name: &str| match model.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        let before = json.get("pre_tokenizer")?;
        let flag = |name: &str| before.get(name).and_then(Value::as_bool);
        let plain = model.get("type")?.as_str()? == "BPE"
            && ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"].into_iter().all(off)
            && json.get("normalizer").is_none_or(Value::is_null)
            && before.get("type")?.as_str()? == "ByteLevel"
            && flag("add_prefix_space") == Some(false)
            && flag("use_regex") != Some(false)
            // Added tokens that are not special are found in plain text too.
            && json.get("added_tokens").and_then(Value::as_array).is_none_or(|tokens| {
                tokens.iter().all(|token| token.get("special").and_then(Value::as_bool) == Some(true))
            });
        if !plain {
            return None;
        }
        let vocabulary = model.get("vocab")?.as_object()?;
        let id = |token: &str| {
            vocabulary
                .get(token)
                .and_then(Value::as_u64)
                .and_then(|id| u32::try_from(id).ok())
        };
        let bytes = (0..=255)
            .map(|byte| id(visible(byte).encode_utf8(&mut [0; 4])))
            .collect::<Option<Vec<_>>>()?;
        let mut merges = PieceMap::default();
        for (rank, merge) in model.get("merges")?.as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?),
            };
            merges.insert(
                key(id(left)?, id(right)?),
                (rank as u32, id(&format!("{left}{right}"))?),
            );
        }
        Some(Self { bytes, merges })
    }

    /// Appends the ids of a text; special tokens in it are plain text.
    pub(crate) fn encode(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        split(text, |piece| {
            let bytes = piece.as_bytes();
            if let Some(&(start, end)) = cache.places.get(bytes) {
                ids.extend_from_slice(
                    cache
                        .ids
                        .get(start as usize..end as usize)
                        .unwrap_or_default(),
                );
                return;
            }
            self.merge(bytes, &mut cache.symbols, &mut cache.ranks);
            ids.extend_from_slice(&cache.symbols);
            if bytes.len() <= CACHE_PIECE && cache.places.len() < CACHE_PIECES {
                let start = cache.ids.len() as u32;
                cache.ids.extend_from_slice(&cache.symbols);
                cache
                    .places
                    .insert(bytes.into(), (start, cache.ids.len() as u32));
            }
        });
    }

    fn merge(&self, bytes: &[u8], symbols: &mut Vec<u32>, ranks: &mut Vec<u32>) {
        symbols.clear();
        symbols.extend(
            bytes
                .iter()
                .filter_map(|byte| self.bytes.get(usize::from(*byte))),
        );
        if symbols.len() > SCAN {
            self.merge_heap(symbols)
        } else {
            self.merge_scan(symbols, ranks)
        }
    }

    fn rank(&self, symbols: &[u32], at: usize) -> u32 {
        match symbols.get(at..at + 2) {
            Some(&[left, right]) => self
                .merges
                .get(&key(left, right))
                .map_or(u32::MAX, |(rank, _)| *rank),
            _ => u32::MAX,
        }
    }

    /// The lowest rank first, of equals the leftmost.
    fn merge_scan(&self, symbols: &mut Vec<u32>, ranks: &mut Vec<u32>) {
        ranks.clear();
        ranks.extend((0..symbols.len().saturating_sub(1)).map(|at| self.rank(symbols, at)));
        while let Some((at, &rank)) = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank) {
            let merged = match symbols.get(at..at + 2) {
                Some(&[left, right]) if rank < u32::MAX => self.merges.get(&key(left, right)),
                _ => None,
            };
            let Some((_, merged)) = merged else { break };
            symbols.remove(at + 1);
            ranks.remove(at);
            if let Some(symbol) = symbols.get_mut(at) {
                *symbol = *merged;
            }
            for near in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                let rank = self.rank(symbols, near);
                if let Some(slot) = ranks.get_mut(near) {
                    *slot = rank;
                }
            }
        }
    }

    /// The same in O(n log n), for long pieces: one character repeated, base64, Chinese prose.
    fn merge_heap(&self, symbols: &mut Vec<u32>) {
        const GONE: u32 = u32::MAX;
        let count = symbols.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let pair = |symbols: &[u32], left: usize, right: usize| -> Option<(u32, u32)> {
            let (left, right) = (*symbols.get(left)?, *symbols.get(right)?);
            self.merges.get(&key(left, right)).copied()
        };
        for at in 0..count {
            if let Some((rank, merged)) = pair(symbols, at, at + 1) {
                heap.push(Reverse((rank, at, merged)));
            }
        }
        while let Some(Reverse((_, at, merged))) = heap.pop() {
            let Some(&right) = next.get(at) else { continue };
            if symbols.get(at) == Some(&GONE)
                || pair(symbols, at, right).map(|(_, id)| id) != Some(merged)
            {
                continue;
            }
            let after = next.get(right).copied().unwrap_or(count);
            if let (Some(symbol), Some(link)) = (symbols.get_mut(at), next.get_mut(at)) {
                (*symbol, *link) = (merged, after);
            }
            if let Some(symbol) = symbols.get_mut(right) {
                *symbol = GONE;
            }
            if let Some(link) = previous.get_mut(after) {
                *link = at;
            }
            let before = previous.get(at).copied().unwrap_or(usize::MAX);
            for (left, right) in [(before, at), (at, after)] {
                if let Some((rank, merged)) = pair(symbols, left, right) {
                    heap.push(Reverse((rank, left, merged)));
                }
            }
        }
        symbols.retain(|symbol| *symbol != GONE);
    }
}

#[cfg(test)]
mod tests;

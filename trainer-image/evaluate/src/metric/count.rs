//! Owns counting of n-grams by exact identity (no hashing away of differences); it must not know what a token is.

/// Numbers distinct keys 0, 1, 2, ... in order of appearance. Open addressing with linear probing; `clear` is
/// O(1), so one table serves a whole corpus.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    era: u32,
    length: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    era: u32,
    id: u32,
}

impl Table {
    pub fn new() -> Self {
        Self {
            slots: vec![Slot::default(); 1024],
            era: 1,
            length: 0,
        }
    }

    pub fn clear(&mut self) {
        self.length = 0;
        self.era = self.era.wrapping_add(1);
        if self.era == 0 {
            self.slots.fill(Slot::default());
            self.era = 1;
        }
    }

    /// Distinct keys seen since the last `clear`.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    fn start(&self, key: u64) -> usize {
        // Fibonacci hashing: the high bits of the product are well mixed.
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    /// The number of `key`; a new one when it was not seen.
    pub fn number(&mut self, key: u64) -> u32 {
        if (self.length as usize) * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = self.start(key);
        loop {
            let Some(slot) = self.slots.get_mut(at) else {
                return 0;
            };
            if slot.era != self.era {
                *slot = Slot {
                    key,
                    era: self.era,
                    id: self.length,
                };
                self.length += 1;
                return slot.id;
            }
            if slot.key == key {
                return slot.id;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let bigger = vec![Slot::default(); self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, bigger);
        let mask = self.slots.len() - 1;
        for slot in old.into_iter().filter(|slot| slot.era == self.era) {
            let mut at = self.start(slot.key);
            while self
                .slots
                .get(at)
                .is_some_and(|other| other.era == self.era)
            {
                at = (at + 1) & mask;
            }
            if let Some(free) = self.slots.get_mut(at) {
                *free = slot;
            }
        }
    }
}

/// Numbers the n-grams of growing order: an n-gram is its (n-1)-gram's number and its last token's.
#[derive(Debug)]
pub(crate) struct Grams {
    table: Table,
    counts: Vec<u32>,
    best: Vec<u32>,
}

impl Grams {
    pub fn new() -> Self {
        Self {
            table: Table::new(),
            counts: Vec::new(),
            best: Vec::new(),
        }
    }

    /// Starts the next order.
    pub fn clear(&mut self) {
        self.table.clear();
    }

    /// Replaces the (n-1)-gram numbers in `grams` (one for each start) by n-gram numbers, where `last` are the
    /// token numbers at the n-grams' ends. `grams` gets as many entries as there are n-grams.
    pub fn extend(&mut self, grams: &mut Vec<u32>, last: &[u32]) {
        grams.truncate(last.len());
        for (gram, token) in grams.iter_mut().zip(last) {
            *gram = self
                .table
                .number(u64::from(*gram) << 32 | u64::from(*token));
        }
    }

    /// Sum over n-grams of min(hypothesis count, best reference count), where a reference's count enters as the
    /// maximum over references.
    pub fn matches(&mut self, hypothesis: &[u32], references: &[&[u32]]) -> u64 {
        self.best.clear();
        self.best.resize(self.table.length(), 0);
        for reference in references {
            self.counts.clear();
            self.counts.resize(self.table.length(), 0);
            for gram in *reference {
                if let (Some(count), Some(best)) = (
                    self.counts.get_mut(*gram as usize),
                    self.best.get_mut(*gram as usize),
                ) {
                    *count += 1;
                    *best = (*best).max(*count);
                }
            }
        }
        let mut matched = 0;
        for gram in hypothesis {
            if let Some(left) = self.best.get_mut(*gram as usize).filter(|left| **left > 0) {
                *left -= 1;
                matched += 1;
            }
        }
        matched
    }
}

/// Token numbers within one segment, by text.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary<'a> {
    numbers: std::collections::HashMap<&'a str, u32, std::hash::BuildHasherDefault<Fx>>,
}

impl<'a> Vocabulary<'a> {
    pub fn number(&mut self, token: &'a str) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(token).or_insert(next)
    }
}

/// A fast hash for short keys; a map compares keys, so collisions cost time only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fx(u64);

impl std::hash::Hasher for Fx {
    fn finish(&self) -> u64 {
        self.0.rotate_left(26) // the good bits of a product are the high ones, a map takes the low ones
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word))
                .wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_numbers_while_the_table_grows_and_forgets() {
        let mut table = Table::new();
        for round in 0..3u64 {
            table.clear();
            for key in 0..5000u64 {
                assert_eq!(table.number(key * 7 + round), key as u32);
            }
            for key in (0..5000u64).rev() {
                assert_eq!(table.number(key * 7 + round), key as u32);
            }
        }
    }

    #[test]
    fn matches_clip_at_the_best_reference() {
        let mut grams = Grams::new();
        let mut hypothesis = vec![0; 7];
        grams.extend(&mut hypothesis, &[1, 1, 1, 1, 1, 1, 1]);
        let (mut first, mut second) = (vec![0; 2], vec![0; 3]);
        grams.extend(&mut first, &[1, 1]);
        grams.extend(&mut second, &[1, 2, 3]);
        assert_eq!(grams.matches(&hypothesis, &[&first, &second]), 2);
    }
}

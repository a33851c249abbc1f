//! Owns the key-value cache: which blocks of positions are free and what the used ones hold. It
//! must not know about requests; a sequence is a list of block numbers here.

use std::ops::Range;

/// Positions per block.
pub const BLOCK: usize = 16;

/// Which blocks are free. Blocks are handed out for a whole sequence at once, so a sequence that
/// has started always finishes.
#[derive(Debug)]
pub struct Allocator {
    free: Vec<u32>,
    total: usize,
}

impl Allocator {
    /// `blocks` free blocks.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        let total = blocks.min(u32::MAX as usize);
        Self {
            free: (0..total as u32).rev().collect(),
            total,
        }
    }

    /// Blocks needed for `positions` positions.
    #[must_use]
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(BLOCK)
    }

    /// Takes `blocks` blocks, or none when fewer are free.
    pub fn take(&mut self, blocks: usize) -> Option<Vec<u32>> {
        let from = self.free.len().checked_sub(blocks)?;
        Some(self.free.split_off(from))
    }

    /// Gives blocks back.
    pub fn give(&mut self, blocks: Vec<u32>) {
        self.free.extend(blocks);
    }

    /// All blocks.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }
}

/// Keys and values of all layers in FP32, laid out [layer][block][key-value head][position in block][head width],
/// so that attention reads one head's positions in a row.
#[derive(Debug)]
pub struct Store {
    heads: usize,
    width: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Store {
    /// Zeroed room; the system commits its pages on first use.
    #[must_use]
    pub fn new(layers: usize, blocks: usize, heads: usize, width: usize) -> Self {
        let room = || {
            (0..layers)
                .map(|_| vec![0.0; blocks * BLOCK * heads * width])
                .collect()
        };
        Self {
            heads,
            width,
            keys: room(),
            values: room(),
        }
    }

    /// Where the first `count` positions of `head` in `block` lie.
    fn range(&self, block: u32, head: usize, count: usize) -> Range<usize> {
        let start = (block as usize * self.heads + head) * BLOCK * self.width;
        start..start + count * self.width
    }

    /// Writes key and value ([heads, width] each) of one position.
    pub fn write(
        &mut self,
        layer: usize,
        table: &[u32],
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let Some(block) = table.get(position / BLOCK) else {
            return;
        };
        let heads = key
            .chunks_exact(self.width)
            .zip(value.chunks_exact(self.width));
        for (head, (key, value)) in heads.enumerate() {
            let start = self.range(*block, head, 0).start + position % BLOCK * self.width;
            let range = start..start + self.width;
            if let Some(target) = self
                .keys
                .get_mut(layer)
                .and_then(|layer| layer.get_mut(range.clone()))
            {
                target.copy_from_slice(key);
            }
            if let Some(target) = self
                .values
                .get_mut(layer)
                .and_then(|layer| layer.get_mut(range))
            {
                target.copy_from_slice(value);
            }
        }
    }

    /// Keys and values of one head for these positions, block by block, each [count, width].
    pub fn blocks<'a>(
        &'a self,
        layer: usize,
        table: &'a [u32],
        head: usize,
        positions: Range<usize>,
    ) -> impl Iterator<Item = (&'a [f32], &'a [f32])> + 'a {
        let keys = self.keys.get(layer).map(Vec::as_slice).unwrap_or_default();
        let values = self
            .values
            .get(layer)
            .map(Vec::as_slice)
            .unwrap_or_default();
        table
            .iter()
            .take(Allocator::needed(positions.end))
            .enumerate()
            .skip(positions.start / BLOCK)
            .map(move |(index, block)| {
                let range = self.range(*block, head, BLOCK.min(positions.end - index * BLOCK));
                let before = positions.start.saturating_sub(index * BLOCK) * self.width;
                let range = range.start + before..range.end;
                (
                    keys.get(range.clone()).unwrap_or_default(),
                    values.get(range).unwrap_or_default(),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_whole_or_not_at_all_and_come_back() {
        let mut allocator = Allocator::new(4);
        assert_eq!(Allocator::needed(17), 2);
        let first = allocator.take(3).unwrap();
        assert_eq!(allocator.take(2), None);
        assert_eq!(allocator.used(), 3);
        allocator.give(first);
        let mut all = allocator.take(4).unwrap();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
        assert_eq!((allocator.used(), allocator.total()), (4, 4));
    }

    #[test]
    fn positions_are_read_back_in_order_across_blocks() {
        let mut store = Store::new(2, 3, 2, 4);
        let table = [2, 0];
        for position in 0..18 {
            let at = |base: f32| {
                (0..8)
                    .map(|i| base + position as f32 * 10.0 + i as f32)
                    .collect::<Vec<_>>()
            };
            store.write(1, &table, position, &at(0.0), &at(0.5));
        }
        let parts: Vec<_> = store.blocks(1, &table, 1, 0..18).collect();
        assert_eq!((parts[0].0.len(), parts[1].0.len()), (16 * 4, 2 * 4));
        assert_eq!(parts[1].0[4..], [174.0, 175.0, 176.0, 177.0]);
        assert_eq!(parts[0].1[..4], [4.5, 5.5, 6.5, 7.5]);
        let parts: Vec<_> = store.blocks(1, &table, 1, 17..18).collect();
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].0, [174.0, 175.0, 176.0, 177.0]);
        assert!(
            store
                .blocks(0, &table, 1, 0..18)
                .all(|(keys, _)| keys.iter().all(|k| *k == 0.0))
        );
    }
}

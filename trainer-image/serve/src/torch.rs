//! Owns the forward pass of a served model where libtorch computes: on a GPU. It must not know about requests.
//!
//! The pass itself is bessemer-model's. A sequence's result may differ in its last bits with its company, since the
//! order of a GPU's sums depends on the number of rows; the CPU's engine promises more.

use crate::cache::BLOCK;
use crate::engine;
use crate::network::{Row, Shape};
use bessemer_model::{Cache, Error, Model, Segment};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Share of a GPU's free memory that keys and values may take; the rest is for what a step computes.
const CACHE_SHARE: f64 = 0.75;

/// A model in libtorch with keys and values of the sequences that run.
#[derive(Debug)]
pub struct Torch {
    model: Model,
    /// By the first block of a sequence's table, which no other running sequence has.
    caches: BTreeMap<u32, Cache>,
    vocabulary: usize,
    ends: Vec<u32>,
}

impl Torch {
    /// `model` where it lies; `ends` are the ids that end a text. Computes one token, so that the first request does
    /// not wait for libraries to be loaded and a GPU that cannot compute is noticed before the server is ready.
    ///
    /// # Errors
    /// libtorch's words for a pass that fails.
    pub fn new(model: Model, ends: Vec<u32>) -> Result<Self, Error> {
        let mut all = Self {
            vocabulary: Shape::from(model.config()).vocabulary,
            model,
            caches: BTreeMap::new(),
            ends,
        };
        let row = Row {
            token: 0,
            position: 0,
            table: 0,
            logits: true,
        };
        all.compute(&[row], &[&[0]])?;
        Ok(all)
    }

    /// Bytes that keys and values may take beside the weights and what a step needs, where the device tells.
    #[must_use]
    pub fn room(&self) -> Option<usize> {
        let free = bessemer_torch::free_memory(self.model.device())?;
        Some((free as f64 * CACHE_SHARE) as usize)
    }

    /// Bytes of an element of the cache.
    #[must_use]
    pub fn element(&self) -> usize {
        self.model.compute().elt_size_in_bytes()
    }

    /// Bytes of weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        let weights = self.model.weights();
        weights.iter().map(|weight| bytes(&weight.tensor)).sum()
    }

    fn compute(&mut self, rows: &[Row], tables: &[&[u32]]) -> Result<Vec<f32>, Error> {
        // Memory of sequences that left is free for those that came.
        self.caches
            .retain(|block, _| tables.iter().any(|table| table.first() == Some(block)));
        let mut parts = Vec::new();
        for rows in rows.chunk_by(|one, next| one.table == next.table) {
            let Some(first) = rows.first() else { continue };
            let table = tables.get(first.table).copied().unwrap_or_default();
            let block = table.first().copied().unwrap_or_default();
            let position = first.position as i64;
            let held = self.caches.remove(&block);
            let cache = match held.filter(|cache| cache.length() == position) {
                _ if position == 0 => self.model.cache((table.len() * BLOCK) as i64),
                Some(cache) => cache,
                None => {
                    return Err(Error::Config {
                        field: "rows",
                        problem: format!(
                            "go on at position {position}, which no cache has reached"
                        ),
                    });
                }
            };
            parts.push((block, cache, rows.len() as i64));
        }
        let ids: Vec<i64> = rows.iter().map(|row| i64::from(row.token)).collect();
        let ids = Tensor::from_slice(&ids).to_device(self.model.device());
        let mut segments: Vec<Segment<'_>> = parts
            .iter_mut()
            .map(|(_, cache, tokens)| Segment {
                cache,
                tokens: *tokens,
            })
            .collect();
        let hidden = self.model.extend(&ids, &mut segments)?;
        self.caches
            .extend(parts.into_iter().map(|(block, cache, _)| (block, cache)));
        let wanted: Vec<i64> = (0..)
            .zip(rows)
            .filter_map(|(index, row)| row.logits.then_some(index))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = Tensor::from_slice(&wanted).to_device(self.model.device());
        let logits = tch::no_grad(|| {
            let hidden = hidden.f_index_select(0, &wanted)?;
            self.model
                .logits(&hidden)
                .f_to_kind(Kind::Float)?
                .f_view([-1])
        })?;
        Ok(Vec::try_from(logits)?)
    }
}

impl engine::Model for Torch {
    fn forward(
        &mut self,
        rows: &[Row],
        tables: &[&[u32]],
        beat: &(dyn Fn() + Sync),
    ) -> Result<Vec<f32>, Error> {
        let logits = self.compute(rows, tables);
        beat();
        logits
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn ends(&self) -> &[u32] {
        &self.ends
    }
}

#[cfg(test)]
mod tests;

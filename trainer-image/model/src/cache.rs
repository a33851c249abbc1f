//! Owns the keys and values of one sequence while it is served; it must not decide which sequences run.

use tch::{Device, Kind, Tensor};

use crate::{Config, Error};

/// Keys and values of one sequence, all layers. Room grows by doubling up to the model's context.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: Vec<Layer>,
    length: i64,
    limit: i64,
}

/// One layer: keys and values `[key_value_heads, room, head_size]`, the first `length` positions filled.
#[derive(Debug)]
pub(crate) struct Layer {
    pub keys: Tensor,
    pub values: Tensor,
}

impl Layer {
    fn room(&self) -> i64 {
        self.keys.size().get(1).copied().unwrap_or(0)
    }

    /// Writes `keys` and `values` `[key_value_heads, new, head_size]` at `start`.
    pub fn write(&mut self, start: i64, keys: &Tensor, values: &Tensor) {
        let new = keys.size().get(1).copied().unwrap_or(0);
        self.keys.narrow(1, start, new).copy_(keys);
        self.values.narrow(1, start, new).copy_(values);
    }
}

impl Cache {
    /// An empty cache with room for `room` tokens to begin with.
    pub(crate) fn new(config: &Config, room: i64, kind: Kind, device: Device) -> Self {
        let shape = [
            config.key_value_heads,
            room.clamp(1, config.context_length),
            config.head_size,
        ];
        let layers = (0..config.layers)
            .map(|_| Layer {
                keys: Tensor::zeros(shape, (kind, device)),
                values: Tensor::zeros(shape, (kind, device)),
            })
            .collect();
        Self {
            layers,
            length: 0,
            limit: config.context_length,
        }
    }

    /// Tokens held.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Tokens that still fit into the model's context.
    pub fn remaining(&self) -> i64 {
        self.limit - self.length
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> usize {
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.layers
            .iter()
            .map(|layer| size(&layer.keys) + size(&layer.values))
            .sum()
    }

    /// Forgets all tokens after the first `length`, so that a sequence can be replayed from there.
    pub fn truncate(&mut self, length: i64) {
        self.length = self.length.min(length.max(0));
    }

    /// Makes room for `new` more tokens.
    pub(crate) fn reserve(&mut self, new: i64) -> Result<(), Error> {
        let wanted = self.length + new;
        if wanted > self.limit {
            return Err(Error::Context {
                wanted,
                limit: self.limit,
            });
        }
        let room = self.layers.first().map_or(wanted, Layer::room);
        if wanted > room {
            let more = wanted.max(2 * room).min(self.limit) - room;
            for layer in &mut self.layers {
                layer.keys = layer.keys.constant_pad_nd([0, 0, 0, more]);
                layer.values = layer.values.constant_pad_nd([0, 0, 0, more]);
            }
        }
        Ok(())
    }

    pub(crate) fn advance(&mut self, new: i64) {
        self.length += new;
    }
}

/// New tokens of one sequence in a batched step: `tokens` of them follow what `cache` holds.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence's cache.
    pub cache: &'a mut Cache,
    /// How many new tokens, at least 1.
    pub tokens: i64,
}

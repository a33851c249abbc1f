//! Owns causal self-attention, over whole sequences for training and over caches for serving; it must not
//! own the residual stream.

use tch::{Device, Kind, Tensor};

use crate::cache::{Layer, Segment};
use crate::layer::{Linear, cast};

/// Query, key and value projections.
#[derive(Debug)]
pub(crate) enum Projection {
    /// One matrix `[hidden, 3 hidden]` (GPT-2).
    Fused(Linear),
    /// Three matrices (Llama).
    Split { q: Linear, k: Linear, v: Linear },
}

/// Attention of one block.
#[derive(Debug)]
pub(crate) struct Attention {
    pub projection: Projection,
    pub output: Linear,
    pub heads: i64,
    pub key_value_heads: i64,
    pub head_size: i64,
    /// Tokens looked back, the own one included; all when absent.
    pub window: Option<i64>,
    pub dropout: f64,
}

/// Rows of the rotary tables for each token of a step: cosine and sine `[tokens, 1, head_size]`, FP32.
#[derive(Debug)]
pub(crate) struct Rotation {
    cosine: Tensor,
    sine: Tensor,
}

/// Rotary tables (Su et al. 2021) in Hugging Face's layout: frequency i turns elements i and i + half.
#[derive(Debug)]
pub(crate) struct Rotary {
    cosine: Tensor,
    sine: Tensor,
}

impl Rotary {
    /// Tables `[context, head_size]`, computed in FP32 as Hugging Face does.
    pub fn new(context: i64, head_size: i64, base: f64, device: Device) -> Self {
        let options = (Kind::Float, device);
        let even =
            Tensor::arange_start_step(0, head_size, 2, (Kind::Int64, device)).to_kind(Kind::Float);
        let exponents = even / head_size as f64;
        let frequencies = Tensor::full_like(&exponents, base)
            .pow(&exponents)
            .reciprocal();
        let angles = Tensor::arange(context, options).outer(&frequencies);
        let angles = Tensor::cat(&[&angles, &angles], -1);
        Self {
            cosine: angles.cos(),
            sine: angles.sin(),
        }
    }

    /// The rows for `positions` `[tokens]`.
    pub fn at(&self, positions: &Tensor) -> Rotation {
        Rotation {
            cosine: self.cosine.index_select(0, positions).unsqueeze(1),
            sine: self.sine.index_select(0, positions).unsqueeze(1),
        }
    }
}

impl Rotation {
    /// Rotates `x` `[tokens, heads, head_size]`.
    fn apply(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let half = x.size().last().copied().unwrap_or(0) / 2;
        let turned = Tensor::cat(&[-x.narrow(-1, half, half), x.narrow(-1, 0, half)], -1);
        x * cast(&self.cosine, kind) + turned * cast(&self.sine, kind)
    }
}

/// Which tokens see which in training.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// Sequences in the step.
    pub sequences: i64,
    /// Tokens of each.
    pub length: i64,
    /// True where a query (row) may see a key (column), `[sequences, 1, length, length]`; absent is causal.
    pub mask: Option<Tensor>,
}

/// True where one of `new` tokens behind `held` others (row) may see a token (column): causal, and within `window`.
/// `[1, 1, new, held + new]`.
pub(crate) fn near(held: i64, new: i64, window: i64, device: Device) -> Tensor {
    Tensor::ones([new, held + new], (Kind::Bool, device))
        .tril(held)
        .triu(held + 1 - window)
        .view([1, 1, new, held + new])
}

impl Attention {
    /// Queries, keys and values `[tokens, their heads, head_size]` of `x` `[tokens, hidden]`.
    fn project(&self, x: &Tensor, rotation: Option<&Rotation>) -> (Tensor, Tensor, Tensor) {
        let heads = |y: &Tensor, count: i64| y.view([-1, count, self.head_size]);
        let (q, k, v) = match &self.projection {
            Projection::Fused(qkv) => {
                let y = qkv.forward(x);
                // Views of one tensor, which attention reads through their strides. One unbind rather than
                // three slices: its backward pass joins the gradients without three padded copies.
                let y = y.view([-1, 3, self.heads, self.head_size]);
                let mut parts = y.unbind(1).into_iter();
                let mut part = || parts.next().unwrap_or_else(|| y.select(1, 0));
                (part(), part(), part())
            }
            Projection::Split { q, k, v } => (
                heads(&q.forward(x), self.heads),
                heads(&k.forward(x), self.key_value_heads),
                heads(&v.forward(x), self.key_value_heads),
            ),
        };
        match rotation {
            Some(rotation) => (rotation.apply(&q), rotation.apply(&k), v),
            None => (q, k, v),
        }
    }

    /// Training: `x` `[sequences * length, hidden]`, every sequence from its first token.
    pub fn forward(
        &self,
        x: &Tensor,
        pattern: &Pattern,
        rotation: Option<&Rotation>,
        train: bool,
    ) -> Tensor {
        let (q, k, v) = self.project(x, rotation);
        let shaped = |t: &Tensor| {
            t.unflatten(0, [pattern.sequences, pattern.length])
                .transpose(1, 2)
        };
        let (q, k, v) = (
            shaped(&q),
            self.expand(&shaped(&k), 1),
            self.expand(&shaped(&v), 1),
        );
        let dropout = if train { self.dropout } else { 0.0 };
        let y = Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &v,
            pattern.mask.as_ref(),
            dropout,
            pattern.mask.is_none(),
            None,
            false,
        );
        self.output
            .forward(&y.transpose(1, 2).reshape([-1, self.heads * self.head_size]))
    }

    /// Repeats key or value heads (dimension `dim`) so that every query head has its own.
    fn expand(&self, tensor: &Tensor, dim: i64) -> Tensor {
        if self.heads == self.key_value_heads {
            tensor.shallow_clone()
        } else {
            tensor.repeat_interleave_self_int(self.heads / self.key_value_heads, dim, None)
        }
    }

    /// Serving: `x` `[all new tokens, hidden]`, the segments one after another. Writes the new keys and values
    /// to layer `index` of each cache. Needs room in the caches.
    pub fn extend(
        &self,
        x: &Tensor,
        segments: &mut [Segment<'_>],
        index: usize,
        rotation: Option<&Rotation>,
    ) -> Tensor {
        let (q, k, v) = self.project(x, rotation);
        let mut outputs = Vec::with_capacity(segments.len());
        let mut start = 0;
        for segment in segments {
            let (new, held) = (segment.tokens, segment.cache.length());
            let part = |t: &Tensor| t.narrow(0, start, new).transpose(0, 1);
            if let Some(layer) = segment.cache.layers.get_mut(index) {
                layer.write(held, &part(&k), &part(&v));
                outputs.push(self.attend(&part(&q), layer, held, new));
            }
            start += new;
        }
        self.output.forward(&Tensor::cat(&outputs, 0))
    }

    /// One sequence: `q` `[heads, new, head_size]` over the first `held + new` cached positions; the result is
    /// `[new, heads * head_size]`.
    fn attend(&self, q: &Tensor, layer: &Layer, held: i64, new: i64) -> Tensor {
        // What the first of the new tokens sees; the later ones see less of it.
        let window = self.window.unwrap_or(held + new);
        let first = (held + 1 - window).max(0);
        let held = held - first;
        let keys = layer.keys.narrow(1, first, held + new).unsqueeze(0);
        let values = layer.values.narrow(1, first, held + new).unsqueeze(0);
        let width = self.heads * self.head_size;
        if new == 1 {
            // One query per head: the query heads of a key head act as its queries, so nothing is repeated.
            let group = self.heads / self.key_value_heads;
            let q = q.reshape([1, self.key_value_heads, group, self.head_size]);
            let y = Tensor::scaled_dot_product_attention(
                &q,
                &keys,
                &values,
                None::<&Tensor>,
                0.0,
                false,
                None,
                false,
            );
            return y.reshape([1, width]);
        }
        let mask = (held > 0 || window < new).then(|| near(held, new, window, q.device()));
        let y = Tensor::scaled_dot_product_attention(
            &q.unsqueeze(0),
            &self.expand(&keys, 1),
            &self.expand(&values, 1),
            mask.as_ref(),
            0.0,
            mask.is_none(),
            None,
            false,
        );
        y.squeeze_dim(0).transpose(0, 1).reshape([new, width])
    }

    /// The linear layers with the adapter targets inside each: name, first output column, width.
    #[allow(clippy::type_complexity)] // reason: one private list, read in one place
    pub fn linears_mut(&mut self) -> Vec<(Vec<(&'static str, i64, i64)>, &mut Linear)> {
        let width = self.heads * self.head_size;
        let narrow = self.key_value_heads * self.head_size;
        let mut all = match &mut self.projection {
            Projection::Fused(qkv) => {
                vec![(
                    vec![
                        ("q", 0, width),
                        ("k", width, width),
                        ("v", 2 * width, width),
                    ],
                    qkv,
                )]
            }
            Projection::Split { q, k, v } => {
                vec![
                    (vec![("q", 0, width)], q),
                    (vec![("k", 0, narrow)], k),
                    (vec![("v", 0, narrow)], v),
                ]
            }
        };
        let (_, outputs) = self.output.shape();
        all.push((vec![("o", 0, outputs)], &mut self.output));
        all
    }

    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = match &self.projection {
            Projection::Fused(qkv) => vec![qkv],
            Projection::Split { q, k, v } => vec![q, k, v],
        };
        all.push(&self.output);
        all
    }
}

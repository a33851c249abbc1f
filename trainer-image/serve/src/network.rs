//! Owns the forward pass of a served model on the CPU: a batch of rows, each one token of some
//! sequence at some position, in one walk over the weights. It must not know about requests; rows
//! may come from any mixture of prefill and decode, and none influences another.
//!
//! The plain reference is bessemer-model's libtorch forward pass; a test compares them.

mod element;
mod matrix;
mod weight;

pub(crate) use element::exp;
pub use weight::LoadError;

use crate::cache::Store;
use crate::kernel::{self, Weights};
use bessemer_model::{Config, Family, Model};
use matrix::Matrix;
use rayon::prelude::*;
use weight::Source;

/// Shape of the model, in this engine's integers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Family.
    pub family: Family,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Positions the model was built for.
    pub context: usize,
    /// Positions that attention looks back, the own one included.
    pub window: usize,
}

impl From<&Config> for Shape {
    fn from(config: &Config) -> Self {
        // The configuration was validated: every size is at least 1.
        let size = |value: i64| usize::try_from(value).unwrap_or(0);
        Self {
            family: config.family,
            layers: size(config.layers),
            hidden: size(config.hidden_size),
            heads: size(config.heads),
            key_value_heads: size(config.key_value_heads),
            head_width: size(config.head_size),
            feed_forward: size(config.feed_forward_size),
            vocabulary: size(config.vocabulary_size),
            context: size(config.context_length),
            window: config.attention_window.map_or(usize::MAX, size),
        }
    }
}

/// One token to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub token: u32,
    /// Its position in the sequence.
    pub position: usize,
    /// Index of the sequence's block table.
    pub table: usize,
    /// Whether the logits that follow it are wanted.
    pub logits: bool,
}

/// Gain and, in the GPT-2 family, bias of a normalisation.
#[derive(Debug)]
struct Norm {
    family: Family,
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn take(weights: &mut Source, family: Family, name: &str) -> Result<Self, LoadError> {
        let bias = weights.optional_vector(&format!("{name}.bias"))?;
        Ok(Self {
            family,
            gain: weights.vector(&format!("{name}.weight"))?,
            bias,
        })
    }

    fn apply(&self, values: &[f32], epsilon: f32) -> Vec<f32> {
        match self.family {
            Family::Gpt2 => element::layer_norm(values, &self.gain, &self.bias, epsilon),
            Family::Llama => element::rms_norm(values, &self.gain, epsilon),
        }
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    /// Query, key and value rows, stacked.
    attention_in: Matrix,
    attention_out: Matrix,
    feed_norm: Norm,
    /// Gate and up rows stacked (Llama) or the one up matrix (GPT-2).
    feed_in: Matrix,
    feed_out: Matrix,
}

impl Layer {
    fn take(weights: &mut Source, family: Family, index: usize) -> Result<Self, LoadError> {
        match family {
            Family::Gpt2 => {
                let name = |part: &str| format!("transformer.h.{index}.{part}");
                let mut linear = |part: &str| {
                    let bias = weights.optional_vector(&format!("{}.bias", name(part)))?;
                    Ok::<_, LoadError>(
                        weights
                            .turned_matrix(&format!("{}.weight", name(part)))?
                            .with_bias(bias),
                    )
                };
                Ok(Self {
                    attention_in: linear("attn.c_attn")?,
                    attention_out: linear("attn.c_proj")?,
                    feed_in: linear("mlp.c_fc")?,
                    feed_out: linear("mlp.c_proj")?,
                    attention_norm: Norm::take(weights, family, &name("ln_1"))?,
                    feed_norm: Norm::take(weights, family, &name("ln_2"))?,
                })
            }
            Family::Llama => {
                let name = |part: &str| format!("model.layers.{index}.{part}");
                let mut stack = |parts: &[&str]| {
                    let parts = parts
                        .iter()
                        .map(|part| weights.matrix(&format!("{}.weight", name(part))));
                    Ok::<_, LoadError>(Matrix::stack(parts.collect::<Result<_, _>>()?))
                };
                Ok(Self {
                    attention_in: stack(&[
                        "self_attn.q_proj",
                        "self_attn.k_proj",
                        "self_attn.v_proj",
                    ])?,
                    attention_out: stack(&["self_attn.o_proj"])?,
                    feed_in: stack(&["mlp.gate_proj", "mlp.up_proj"])?,
                    feed_out: stack(&["mlp.down_proj"])?,
                    attention_norm: Norm::take(weights, family, &name("input_layernorm"))?,
                    feed_norm: Norm::take(weights, family, &name("post_attention_layernorm"))?,
                })
            }
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Network {
    shape: Shape,
    epsilon: f32,
    embedding: Matrix,
    /// Learned positions (GPT-2).
    positions: Option<Matrix>,
    layers: Vec<Layer>,
    norm: Norm,
    /// Output head unless tied.
    head: Option<Matrix>,
    /// cos and sin of every position's angles, [context, half a head] (Llama).
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Network {
    /// Copies the weights of `model` into the engine's form.
    ///
    /// # Errors
    /// When a weight is missing or libtorch cannot copy one.
    pub fn new(model: &Model) -> Result<Self, LoadError> {
        let config = model.config();
        let shape = Shape::from(config);
        let mut weights = Source::new(model);
        let (embedding, norm) = match config.family {
            Family::Gpt2 => ("transformer.wte.weight", "transformer.ln_f"),
            Family::Llama => ("model.embed_tokens.weight", "model.norm"),
        };
        let (cosines, sines) = rotations(&shape, config.rope_base as f32);
        Ok(Self {
            epsilon: config.norm_epsilon as f32,
            embedding: weights.matrix(embedding)?,
            positions: match config.family {
                Family::Gpt2 => Some(weights.matrix("transformer.wpe.weight")?),
                Family::Llama => None,
            },
            layers: (0..shape.layers)
                .map(|index| Layer::take(&mut weights, config.family, index))
                .collect::<Result<_, _>>()?,
            norm: Norm::take(&mut weights, config.family, norm)?,
            head: if config.tied_embeddings {
                None
            } else {
                Some(weights.matrix("lm_head.weight")?)
            },
            cosines,
            sines,
            shape,
        })
    }

    /// The model's shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of matrices in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            [
                &layer.attention_in,
                &layer.attention_out,
                &layer.feed_in,
                &layer.feed_out,
            ]
        });
        layers
            .chain([&self.embedding])
            .chain(&self.positions)
            .chain(&self.head)
            .map(Matrix::bytes)
            .sum()
    }

    /// Computes `rows` (those of one sequence in order of position), writes their keys and values
    /// into `cache` and returns the logits, [rows that want them, vocabulary]. `beat` is called
    /// after every layer: it is the sign of life between the starts of two steps.
    ///
    /// Runs on the rayon pool it is called in. Ids and positions beyond the model's are computed
    /// as zeros; the caller refuses such requests before.
    pub fn forward(
        &self,
        rows: &[Row],
        tables: &[&[u32]],
        cache: &mut Store,
        beat: &dyn Fn(),
    ) -> Vec<f32> {
        let epsilon = self.epsilon;
        let mut rows = rows.to_vec();
        let mut stream = self.embed(&rows);
        let last = self.layers.len().saturating_sub(1);
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = layer.attention_norm.apply(&stream, epsilon);
            let mut attention_in = layer.attention_in.apply(&normed);
            self.remember(index, &rows, tables, &mut attention_in, cache);
            if index == last {
                // Rows without logits are needed no further than their keys and values.
                stream = keep(&stream, &rows);
                attention_in = keep(&attention_in, &rows);
                rows.retain(|row| row.logits);
            }
            let mixed = self.attend(index, &rows, tables, &attention_in, cache);
            add(&mut stream, &layer.attention_out.apply(&mixed));
            let normed = layer.feed_norm.apply(&stream, epsilon);
            let mut wide = layer.feed_in.apply(&normed);
            match self.shape.family {
                Family::Gpt2 => element::gelu(&mut wide),
                Family::Llama => wide = element::gated_silu(&wide, self.shape.feed_forward),
            }
            add(&mut stream, &layer.feed_out.apply(&wide));
            beat();
        }
        let normed = self.norm.apply(&stream, epsilon);
        self.head.as_ref().unwrap_or(&self.embedding).apply(&normed)
    }

    fn embed(&self, rows: &[Row]) -> Vec<f32> {
        let mut stream = Vec::with_capacity(rows.len() * self.shape.hidden);
        for row in rows {
            let mut vector = self.embedding.row(row.token as usize);
            vector.resize(self.shape.hidden, 0.0);
            if let Some(positions) = &self.positions {
                add(&mut vector, &positions.row(row.position));
            }
            stream.extend(vector);
        }
        stream
    }

    /// Rotates queries and keys in place and stores keys and values.
    fn remember(
        &self,
        layer: usize,
        rows: &[Row],
        tables: &[&[u32]],
        attention_in: &mut [f32],
        cache: &mut Store,
    ) {
        let shape = &self.shape;
        let (queries, keys) = (
            shape.heads * shape.head_width,
            shape.key_value_heads * shape.head_width,
        );
        let half = shape.head_width / 2;
        for (row, vector) in rows
            .iter()
            .zip(attention_in.chunks_exact_mut(queries + 2 * keys))
        {
            let (rotated, value) = vector.split_at_mut(queries + keys);
            let angles = row.position * half..(row.position + 1) * half;
            if let (Some(cosines), Some(sines)) =
                (self.cosines.get(angles.clone()), self.sines.get(angles))
            {
                element::rotate(rotated, cosines, sines);
            }
            let (_, key) = rotated.split_at(queries);
            cache.write(
                layer,
                tables.get(row.table).copied().unwrap_or_default(),
                row.position,
                key,
                value,
            );
        }
    }

    /// Causal attention of every row over its own sequence: [rows, heads * head width].
    fn attend(
        &self,
        layer: usize,
        rows: &[Row],
        tables: &[&[u32]],
        attention_in: &[f32],
        cache: &Store,
    ) -> Vec<f32> {
        let shape = &self.shape;
        let (heads, width) = (shape.heads, shape.head_width);
        let group = heads / shape.key_value_heads;
        let stride = (heads + 2 * shape.key_value_heads) * width;
        let scale = 1.0 / (width as f32).sqrt();
        let mut output = vec![0.0; rows.len() * heads * width];
        output
            .par_chunks_exact_mut(width)
            .enumerate()
            .with_min_len(2)
            .for_each(|(task, output)| {
                let (index, head) = (task / heads, task % heads);
                let Some(row) = rows.get(index) else { return };
                let query = attention_in
                    .get(index * stride + head * width..index * stride + (head + 1) * width)
                    .unwrap_or_default();
                let table = tables.get(row.table).copied().unwrap_or_default();
                let seen = (row.position + 1).saturating_sub(shape.window)..row.position + 1;
                let mut scores = vec![0.0; seen.len()];
                let mut rest = scores.as_mut_slice();
                for (keys, _) in cache.blocks(layer, table, head / group, seen.clone()) {
                    let (part, after) = rest.split_at_mut(keys.len() / width);
                    kernel::project(Weights::Single(keys), width, query, part);
                    rest = after;
                }
                let sum = element::softmax_weights(&mut scores, scale);
                let mut rest = scores.as_slice();
                for (_, values) in cache.blocks(layer, table, head / group, seen) {
                    let (part, after) = rest.split_at(values.len() / width);
                    kernel::accumulate(part, values, output);
                    rest = after;
                }
                output.iter_mut().for_each(|value| *value /= sum);
            });
        output
    }
}

fn add(stream: &mut [f32], update: &[f32]) {
    stream
        .iter_mut()
        .zip(update)
        .for_each(|(value, update)| *value += update);
}

/// The rows of `values` that want logits.
fn keep(values: &[f32], rows: &[Row]) -> Vec<f32> {
    let width = values.len() / rows.len().max(1);
    let chunks = values.chunks_exact(width.max(1)).zip(rows);
    chunks
        .filter(|(_, row)| row.logits)
        .flat_map(|(chunk, _)| chunk.iter().copied())
        .collect()
}

/// Cosines and sines of rotary positions, [context, half a head], in FP32 as Hugging Face computes them.
fn rotations(shape: &Shape, base: f32) -> (Vec<f32>, Vec<f32>) {
    if shape.family != Family::Llama {
        return (Vec::new(), Vec::new());
    }
    let frequency = |pair: usize| 1.0 / base.powf((pair * 2) as f32 / shape.head_width as f32);
    let frequencies: Vec<f32> = (0..shape.head_width / 2).map(frequency).collect();
    let angles = (0..shape.context).flat_map(|position| {
        frequencies
            .iter()
            .map(move |frequency| position as f32 * frequency)
    });
    angles.map(|angle| (angle.cos(), angle.sin())).unzip()
}

#[cfg(test)]
pub(crate) mod tests;

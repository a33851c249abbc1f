//! Owns the forward pass of a served model on the CPU: a batch of rows, each one token of some
//! sequence at some position, in one walk over the weights. It must not know about requests; rows
//! may come from any mixture of prefill and decode, and none influences another.
//!
//! The plain reference is bessemer-model's libtorch forward pass; a test compares them.

mod architecture;
mod checkpoint;
mod element;
mod matrix;

pub use architecture::{Architecture, ArchitectureError, Position};
pub use checkpoint::CheckpointError;
pub(crate) use element::exp;

use crate::cache::Store;
use crate::kernel::{self, Weights};
use checkpoint::Checkpoint;
use matrix::Matrix;
use rayon::prelude::*;
use std::path::Path;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its shape is refused.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// Its weights are refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl LoadError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Architecture(error) => error.category(),
            Self::Checkpoint(error) => error.category(),
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
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Norm {
    fn apply(&self, values: &[f32], epsilon: f32) -> Vec<f32> {
        match &self.bias {
            Some(bias) => element::layer_norm(values, &self.gain, bias, epsilon),
            None => element::rms_norm(values, &self.gain, epsilon),
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

/// A loaded model.
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    embedding: Matrix,
    /// Learned positions (GPT-2).
    positions: Option<Matrix>,
    layers: Vec<Layer>,
    norm: Norm,
    /// Output head unless tied.
    head: Option<Matrix>,
    /// cos and sin of every position's angles, [context, half a head].
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Network {
    /// Loads a Hugging Face directory of the GPT-2 or Llama family.
    ///
    /// # Errors
    /// When files are missing, damaged, do not belong together or need what is not computed here.
    pub fn load(directory: &Path) -> Result<Self, LoadError> {
        let architecture = Architecture::read(directory)?;
        let mut weights = Checkpoint::read(directory)?;
        let network = match architecture.position {
            Position::Learned => Self::load_gpt2(architecture, &mut weights),
            Position::Rotary { base } => Self::load_llama(architecture, &mut weights, base),
        }?;
        Ok(network)
    }

    fn load_llama(shape: Architecture, weights: &mut Checkpoint, base: f32) -> Result<Self, CheckpointError> {
        let hidden = shape.hidden;
        let (queries, keys) = (shape.heads * shape.head_width, shape.key_value_heads * shape.head_width);
        let mut layers = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: Norm { gain: weights.vector(&name("input_layernorm"), hidden)?, bias: None },
                attention_in: Matrix::stack(vec![
                    weights.matrix(&name("self_attn.q_proj"), queries, hidden)?,
                    weights.matrix(&name("self_attn.k_proj"), keys, hidden)?,
                    weights.matrix(&name("self_attn.v_proj"), keys, hidden)?,
                ]),
                attention_out: weights.matrix(&name("self_attn.o_proj"), hidden, queries)?,
                feed_norm: Norm { gain: weights.vector(&name("post_attention_layernorm"), hidden)?, bias: None },
                feed_in: Matrix::stack(vec![
                    weights.matrix(&name("mlp.gate_proj"), shape.feed_forward, hidden)?,
                    weights.matrix(&name("mlp.up_proj"), shape.feed_forward, hidden)?,
                ]),
                feed_out: weights.matrix(&name("mlp.down_proj"), hidden, shape.feed_forward)?,
            });
        }
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for position in 0..shape.context {
            for pair in 0..shape.head_width / 2 {
                let frequency = 1.0 / base.powf((pair * 2) as f32 / shape.head_width as f32);
                let angle = position as f32 * frequency;
                cosines.push(angle.cos());
                sines.push(angle.sin());
            }
        }
        Ok(Self {
            embedding: weights.matrix("model.embed_tokens.weight", shape.vocabulary, hidden)?,
            positions: None,
            layers,
            norm: Norm { gain: weights.vector("model.norm.weight", hidden)?, bias: None },
            head: if shape.tied { None } else { Some(weights.matrix("lm_head.weight", shape.vocabulary, hidden)?) },
            cosines,
            sines,
            architecture: shape,
        })
    }

    fn load_gpt2(shape: Architecture, weights: &mut Checkpoint) -> Result<Self, CheckpointError> {
        let hidden = shape.hidden;
        // GPT-2 checkpoints exist with and without the prefix of the language-model wrapper.
        let prefix = if weights.has("transformer.wte.weight") { "transformer." } else { "" };
        fn norm(weights: &mut Checkpoint, name: &str, hidden: usize) -> Result<Norm, CheckpointError> {
            Ok(Norm {
                gain: weights.vector(&format!("{name}.weight"), hidden)?,
                bias: Some(weights.vector(&format!("{name}.bias"), hidden)?),
            })
        }
        fn linear(weights: &mut Checkpoint, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, CheckpointError> {
            let bias = weights.vector(&format!("{name}.bias"), outputs)?;
            Ok(weights.turned_matrix(&format!("{name}.weight"), outputs, inputs)?.with_bias(bias))
        }
        let mut layers = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            let name = |part: &str| format!("{prefix}h.{index}.{part}");
            layers.push(Layer {
                attention_norm: norm(weights, &name("ln_1"), hidden)?,
                attention_in: linear(weights, &name("attn.c_attn"), hidden * 3, hidden)?,
                attention_out: linear(weights, &name("attn.c_proj"), hidden, hidden)?,
                feed_norm: norm(weights, &name("ln_2"), hidden)?,
                feed_in: linear(weights, &name("mlp.c_fc"), shape.feed_forward, hidden)?,
                feed_out: linear(weights, &name("mlp.c_proj"), hidden, shape.feed_forward)?,
            });
        }
        Ok(Self {
            embedding: weights.matrix(&format!("{prefix}wte.weight"), shape.vocabulary, hidden)?,
            positions: Some(weights.matrix(&format!("{prefix}wpe.weight"), shape.context, hidden)?),
            layers,
            norm: norm(weights, &format!("{prefix}ln_f"), hidden)?,
            head: if shape.tied { None } else { Some(weights.matrix("lm_head.weight", shape.vocabulary, hidden)?) },
            cosines: Vec::new(),
            sines: Vec::new(),
            architecture: shape,
        })
    }

    /// The model's shape.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Bytes of matrices in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| [&layer.attention_in, &layer.attention_out, &layer.feed_in, &layer.feed_out]);
        layers.chain([&self.embedding]).chain(&self.positions).chain(&self.head).map(Matrix::bytes).sum()
    }

    /// Computes `rows` (those of one sequence in order of position), writes their keys and values
    /// into `cache` and returns the logits, [rows that want them, vocabulary]. `beat` is called
    /// after every layer: it is the sign of life between the starts of two steps.
    ///
    /// Runs on the rayon pool it is called in. Ids and positions beyond the model's are computed
    /// as zeros; the caller refuses such requests before.
    pub fn forward(&self, rows: &[Row], tables: &[&[u32]], cache: &mut Store, beat: &dyn Fn()) -> Vec<f32> {
        let epsilon = self.architecture.epsilon;
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
            match self.architecture.position {
                Position::Learned => element::gelu(&mut wide),
                Position::Rotary { .. } => wide = element::gated_silu(&wide, self.architecture.feed_forward),
            }
            add(&mut stream, &layer.feed_out.apply(&wide));
            beat();
        }
        let normed = self.norm.apply(&stream, epsilon);
        self.head.as_ref().unwrap_or(&self.embedding).apply(&normed)
    }

    fn embed(&self, rows: &[Row]) -> Vec<f32> {
        let mut stream = Vec::with_capacity(rows.len() * self.architecture.hidden);
        for row in rows {
            let mut vector = self.embedding.row(row.token as usize);
            vector.resize(self.architecture.hidden, 0.0);
            if let Some(positions) = &self.positions {
                add(&mut vector, &positions.row(row.position));
            }
            stream.extend(vector);
        }
        stream
    }

    /// Rotates queries and keys in place and stores keys and values.
    fn remember(&self, layer: usize, rows: &[Row], tables: &[&[u32]], attention_in: &mut [f32], cache: &mut Store) {
        let shape = &self.architecture;
        let (queries, keys) = (shape.heads * shape.head_width, shape.key_value_heads * shape.head_width);
        let half = shape.head_width / 2;
        for (row, vector) in rows.iter().zip(attention_in.chunks_exact_mut(queries + 2 * keys)) {
            let (rotated, value) = vector.split_at_mut(queries + keys);
            let angles = row.position * half..(row.position + 1) * half;
            if let (Some(cosines), Some(sines)) = (self.cosines.get(angles.clone()), self.sines.get(angles)) {
                element::rotate(rotated, cosines, sines);
            }
            let (_, key) = rotated.split_at(queries);
            cache.write(layer, tables.get(row.table).copied().unwrap_or_default(), row.position, key, value);
        }
    }

    /// Causal attention of every row over its own sequence: [rows, heads * head width].
    fn attend(&self, layer: usize, rows: &[Row], tables: &[&[u32]], attention_in: &[f32], cache: &Store) -> Vec<f32> {
        let shape = &self.architecture;
        let (heads, width) = (shape.heads, shape.head_width);
        let group = heads / shape.key_value_heads;
        let stride = (heads + 2 * shape.key_value_heads) * width;
        let scale = 1.0 / (width as f32).sqrt();
        let mut output = vec![0.0; rows.len() * heads * width];
        output.par_chunks_exact_mut(width).enumerate().with_min_len(2).for_each(|(task, output)| {
            let (index, head) = (task / heads, task % heads);
            let Some(row) = rows.get(index) else { return };
            let query = attention_in.get(index * stride + head * width..index * stride + (head + 1) * width).unwrap_or_default();
            let table = tables.get(row.table).copied().unwrap_or_default();
            let length = row.position + 1;
            let mut scores = vec![0.0; length];
            let mut rest = scores.as_mut_slice();
            for (keys, _) in cache.blocks(layer, table, head / group, length) {
                let (part, after) = rest.split_at_mut(keys.len() / width);
                kernel::project(Weights::Single(keys), width, query, part);
                rest = after;
            }
            let sum = element::softmax_weights(&mut scores, scale);
            let mut rest = scores.as_slice();
            for (_, values) in cache.blocks(layer, table, head / group, length) {
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
    stream.iter_mut().zip(update).for_each(|(value, update)| *value += update);
}

/// The rows of `values` that want logits.
fn keep(values: &[f32], rows: &[Row]) -> Vec<f32> {
    let width = values.len() / rows.len().max(1);
    let chunks = values.chunks_exact(width.max(1)).zip(rows);
    chunks.filter(|(_, row)| row.logits).flat_map(|(chunk, _)| chunk.iter().copied()).collect()
}

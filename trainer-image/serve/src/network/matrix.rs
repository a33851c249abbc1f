//! Owns weight matrices in memory and their multiplication by a batch of rows on the thread
//! pool. It must not decide what is multiplied by what.

use crate::kernel::{self, Weights};
use rayon::prelude::*;

/// Rows of the matrix that one task takes at least; a multiple of every tile of the kernel.
const MINIMUM_PART: usize = 16;

/// Elements that are moved by one thread at least.
const SMALL: usize = 32_768;

/// A row-major matrix (`rows` outputs, `width` inputs) with an optional bias per row.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    width: usize,
    elements: Elements,
    bias: Vec<f32>,
}

/// Elements in the type of the checkpoint, so that serving scores what training wrote.
#[derive(Debug)]
pub enum Elements {
    /// FP32.
    Single(Vec<f32>),
    /// BF16 bits.
    Brain(Vec<u16>),
}

impl Elements {
    /// FP32 values, kept as BF16 when that loses nothing: half the memory traffic for free.
    pub fn from_single(values: Vec<f32>) -> Self {
        if values.iter().all(|value| value.to_bits() & 0xFFFF == 0) {
            Self::Brain(
                values
                    .iter()
                    .map(|value| (value.to_bits() >> 16) as u16)
                    .collect(),
            )
        } else {
            Self::Single(values)
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Brain(values) => values.len(),
        }
    }

    /// The values widened to FP32.
    pub fn to_single(&self) -> Vec<f32> {
        match self {
            Self::Single(values) => values.clone(),
            Self::Brain(values) => values
                .iter()
                .map(|bits| f32::from_bits(u32::from(*bits) << 16))
                .collect(),
        }
    }
}

impl Matrix {
    /// A matrix of `rows` rows without bias. `elements` must hold a whole number of rows; what is
    /// left over is ignored, so the loader checks shapes first.
    pub fn new(rows: usize, elements: Elements) -> Self {
        let width = elements.len() / rows.max(1);
        Self {
            rows,
            width,
            elements,
            bias: Vec::new(),
        }
    }

    /// Adds a bias, one value per row.
    #[must_use]
    pub fn with_bias(mut self, bias: Vec<f32>) -> Self {
        self.bias = bias;
        self
    }

    /// Stacks matrices of one width on top of each other; one pass over the inputs then serves all.
    pub fn stack(parts: Vec<Self>) -> Self {
        let rows = parts.iter().map(|part| part.rows).sum();
        let bias = parts
            .iter()
            .flat_map(|part| part.bias.iter().copied())
            .collect();
        let brain = parts
            .iter()
            .all(|part| matches!(part.elements, Elements::Brain(_)));
        let elements = if brain {
            Elements::Brain(
                parts
                    .into_iter()
                    .flat_map(|part| match part.elements {
                        Elements::Brain(values) => values,
                        Elements::Single(_) => Vec::new(),
                    })
                    .collect(),
            )
        } else {
            Elements::Single(
                parts
                    .iter()
                    .flat_map(|part| part.elements.to_single())
                    .collect(),
            )
        };
        Self {
            bias,
            ..Self::new(rows, elements)
        }
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        match &self.elements {
            Elements::Single(values) => values.len() * 4,
            Elements::Brain(values) => values.len() * 2,
        }
    }

    /// Row `index` widened to FP32 (an embedding); empty when there is no such row.
    pub fn row(&self, index: usize) -> Vec<f32> {
        let range = index * self.width..(index + 1) * self.width;
        match &self.elements {
            Elements::Single(values) => values.get(range).map(<[f32]>::to_vec),
            Elements::Brain(values) => values.get(range).map(|bits| {
                bits.iter()
                    .map(|bits| f32::from_bits(u32::from(*bits) << 16))
                    .collect()
            }),
        }
        .unwrap_or_default()
    }

    fn part(&self, first: usize, rows: usize) -> Weights<'_> {
        let range = first * self.width..(first + rows) * self.width;
        match &self.elements {
            Elements::Single(values) => Weights::Single(values.get(range).unwrap_or_default()),
            Elements::Brain(values) => Weights::Brain(values.get(range).unwrap_or_default()),
        }
    }

    /// `inputs` [batch, width] to [batch, rows]. Runs on the rayon pool it is called in; the
    /// result does not depend on the number of its threads.
    pub fn apply(&self, inputs: &[f32]) -> Vec<f32> {
        let batch = inputs.len() / self.width.max(1);
        if batch == 0 {
            return Vec::new();
        }
        let threads = rayon::current_num_threads();
        let part = self
            .rows
            .div_ceil(threads * 2)
            .next_multiple_of(MINIMUM_PART);
        let mut transposed = vec![0.0; self.rows * batch];
        transposed
            .par_chunks_mut(part * batch)
            .enumerate()
            .for_each(|(index, output)| {
                kernel::project(
                    self.part(index * part, output.len() / batch),
                    self.width,
                    inputs,
                    output,
                );
            });
        let mut output = if batch == 1 {
            transposed
        } else {
            transpose(&transposed, self.rows, batch)
        };
        if !self.bias.is_empty() {
            for row in output.chunks_exact_mut(self.rows) {
                row.iter_mut()
                    .zip(&self.bias)
                    .for_each(|(value, bias)| *value += bias);
            }
        }
        output
    }
}

/// [rows, batch] to [batch, rows].
fn transpose(values: &[f32], rows: usize, batch: usize) -> Vec<f32> {
    let mut output = vec![0.0; values.len()];
    // Small ones are done sooner than a second thread wakes.
    output
        .par_chunks_exact_mut(rows)
        .with_min_len(SMALL.div_ceil(rows))
        .enumerate()
        .for_each(|(b, row)| {
            for (target, source) in row.iter_mut().zip(values.iter().skip(b).step_by(batch)) {
                *target = *source;
            }
        });
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_matrix_multiplies_like_its_parts() {
        let upper = Matrix::new(2, Elements::from_single(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
            .with_bias(vec![0.5, 0.25]);
        let lower = Matrix::new(1, Elements::from_single(vec![0.1, 0.2, 0.3])).with_bias(vec![1.0]);
        let inputs = [1.0, 0.0, 2.0, -1.0, 1.0, 0.5];
        let (top, bottom) = (upper.apply(&inputs), lower.apply(&inputs));
        let both = Matrix::stack(vec![upper, lower]);
        assert_eq!(both.rows, 3);
        assert_eq!(
            both.apply(&inputs),
            [top[0], top[1], bottom[0], top[2], top[3], bottom[1]]
        );
        assert_eq!(top[..2], [7.5, 16.25]);
        assert_eq!(both.row(1), [4.0, 5.0, 6.0]);
    }

    #[test]
    fn single_values_that_fit_are_kept_short() {
        assert!(matches!(
            Elements::from_single(vec![1.0, -0.5]),
            Elements::Brain(_)
        ));
        assert!(matches!(
            Elements::from_single(vec![1.0, 0.1]),
            Elements::Single(_)
        ));
        assert_eq!(
            Elements::from_single(vec![1.0, -0.5]).to_single(),
            [1.0, -0.5]
        );
    }
}

//! Owns the contract between training and whatever supplies sequences; it must not know files.

use tch::Tensor;

use crate::Error;

/// Sequences of token ids with their targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Inputs, one after another, `count * length`.
    pub tokens: Vec<i64>,
    /// What follows each input; [`bessemer_kernels::IGNORE`] counts nothing.
    pub targets: Vec<i64>,
    /// Sequences.
    pub count: usize,
    /// Tokens of each sequence, padding included.
    pub length: usize,
    /// Which sequences these are, for messages.
    pub name: String,
}

impl Rows {
    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets
            .iter()
            .filter(|&&target| target != bessemer_kernels::IGNORE)
            .count()
    }

    /// Inputs `[count, length]` and targets `[count * length]`.
    pub(crate) fn tensors(&self) -> Result<(Tensor, Tensor), Error> {
        let shape = [self.count as i64, self.length as i64];
        Ok((
            Tensor::from_slice(&self.tokens).f_view(shape)?,
            Tensor::from_slice(&self.targets),
        ))
    }
}

/// Supplier of sequences. What it gives is a pure function of the arguments, so that a resumed run sees what
/// an undisturbed one sees.
pub trait Batches {
    /// Sequences `first .. first + count` of the global batch of `step` (from 0).
    ///
    /// # Errors
    /// [`Error::Data`] or [`Error::File`] when they cannot be read.
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error>;

    /// Up to `count` sequences of the validation split from `first` on; empty past its end.
    ///
    /// # Errors
    /// As [`Batches::training`].
    fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error>;
}

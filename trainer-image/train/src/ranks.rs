//! Owns what data-parallel ranks tell each other: sums of numbers and gradients, and the state that rank 0 begins with.
//! Alone, all of it is nothing. It must not decide what is told.

use std::ops::Range;

use bessemer_protocol::task::Batch;
use bessemer_torch::distributed::Group;
use tch::{Device, Kind, Tensor};

use crate::Error;

/// Elements that travel together at most: small tensors share a message, and the copy of them stays small.
const BUCKET: usize = 16 << 20;

/// The processes that train one model, each on its share of every batch.
#[derive(Debug)]
pub struct Ranks {
    group: Option<Group>,
    device: Device,
}

impl Ranks {
    /// One process, which needs no group.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            group: None,
            device: Device::Cpu,
        }
    }

    /// The processes of a group.
    #[must_use]
    pub fn of(group: Group) -> Self {
        Self {
            group: Some(group),
            device: Device::Cpu,
        }
    }

    /// The same with the model of this one on `device`. A group sums on CPUs only.
    #[must_use]
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Where this one's model lies.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.group.as_ref().map_or(1, Group::size)
    }

    /// Number of this one, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, Group::rank)
    }

    /// Whether this is the one that writes checkpoints and results.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Leaves the others with a reason, which they tell in place of "lost".
    pub fn leave(&mut self, reason: &str) {
        if let Some(group) = self.group.take() {
            group.leave(reason);
        }
    }

    /// The sequences of a global batch that are this rank's.
    pub(crate) fn share(&self, batch: &Batch) -> Range<usize> {
        let length = batch.sequences as usize / self.count();
        let first = self.rank() * length;
        first..first + length
    }

    /// Sums over all ranks; every rank gets the same bits.
    pub(crate) fn sum<const N: usize>(&mut self, numbers: [f64; N]) -> Result<[f64; N], Error> {
        let Some(group) = &mut self.group else {
            return Ok(numbers);
        };
        let tensor = Tensor::from_slice(&numbers);
        group.sum(&tensor)?;
        let mut sums = [0.0; N];
        tensor.f_copy_data(&mut sums, N)?;
        Ok(sums)
    }

    /// Whether any rank says so.
    pub(crate) fn any(&mut self, here: bool) -> Result<bool, Error> {
        let [all] = self.sum([f64::from(u8::from(here))])?;
        Ok(all > 0.0)
    }

    /// Sums tensors over all ranks in place. All are on one device, of one kind, and in the same order everywhere.
    pub(crate) fn sum_all(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        self.exchange(tensors, |group, bucket| group.sum(bucket))
    }

    /// Overwrites tensors with those of rank 0.
    pub(crate) fn take_from_first(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        self.exchange(tensors, |group, bucket| group.broadcast(bucket, 0))
    }

    fn exchange(
        &mut self,
        tensors: &[Tensor],
        act: impl Fn(&mut Group, &Tensor) -> Result<(), bessemer_torch::distributed::Error>,
    ) -> Result<(), Error> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        for bucket in buckets(tensors) {
            let flat: Vec<Tensor> = bucket
                .iter()
                .map(|tensor| tensor.detach().f_reshape([-1]))
                .collect::<Result<_, _>>()?;
            let together = Tensor::f_cat(&flat, 0)?;
            act(group, &together)?;
            let mut at = 0;
            for tensor in bucket {
                let length = i64::try_from(tensor.numel()).unwrap_or(i64::MAX);
                let part = together.f_narrow(0, at, length)?.f_view_as(tensor)?;
                tensor.detach().f_copy_(&part)?;
                at += length;
            }
        }
        Ok(())
    }

    /// The text of rank 0.
    pub(crate) fn text_of_first(&mut self, own: &str) -> Result<String, Error> {
        let Some(group) = &mut self.group else {
            return Ok(own.to_owned());
        };
        let first = group.rank() == 0;
        let length = Tensor::from_slice(&[own.len() as i64]);
        group.broadcast(&length, 0)?;
        let bytes = if first {
            Tensor::from_slice(own.as_bytes())
        } else {
            Tensor::f_zeros([length.f_int64_value(&[0])?], (Kind::Uint8, Device::Cpu))?
        };
        group.broadcast(&bytes, 0)?;
        let bytes = Vec::<u8>::try_from(bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Runs of tensors of at most [`BUCKET`] elements together; a larger one goes alone.
fn buckets(tensors: &[Tensor]) -> impl Iterator<Item = &[Tensor]> {
    let mut filled = 0;
    let mut number = 0usize;
    let numbers: Vec<usize> = tensors
        .iter()
        .map(|tensor| {
            filled += tensor.numel();
            if filled > BUCKET {
                (filled, number) = (tensor.numel(), number + 1);
            }
            number
        })
        .collect();
    let mut rest = tensors;
    numbers
        .chunk_by(|a, b| a == b)
        .map(<[usize]>::len)
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(move |length| {
            let (bucket, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(bucket)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_tensor_once_in_order_and_stay_small() {
        let sizes = [5, BUCKET as i64 - 5, 1, 2 * BUCKET as i64, 3, 4];
        let tensors = sizes.map(|size| Tensor::zeros([size], (Kind::Uint8, Device::Cpu)));
        let found: Vec<Vec<i64>> = buckets(&tensors)
            .map(|bucket| bucket.iter().map(|tensor| tensor.size()[0]).collect())
            .collect();
        assert_eq!(
            found,
            [
                vec![sizes[0], sizes[1]],
                vec![sizes[2]],
                vec![sizes[3]],
                vec![sizes[4], sizes[5]]
            ]
        );
        assert_eq!(buckets(&[]).count(), 0);
    }
}

//! Owns the division into training and validation documents; it must not leave a split empty that could have one.

use std::path::Path;

use crate::error::DataError;
use crate::provenance::{Place, Provenance};
use crate::spool::{Spool, SpoolWriter};

/// The document of a split whose hash lies nearest to the other split.
#[derive(Clone, Copy, Debug)]
struct Nearest {
    unit: f64,
    place: Place,
    /// Copies that it has among the training documents.
    copies: u64,
}

/// Both splits while they grow.
pub(super) struct Division {
    train: SpoolWriter,
    validation: SpoolWriter,
    nearest_train: Option<Nearest>,
    nearest_validation: Option<Nearest>,
    /// Documents, copies not counted.
    kept: u64,
}

impl Division {
    pub(super) fn create(work: &Path) -> Result<Self, DataError> {
        Ok(Self {
            train: SpoolWriter::create(work.join("train.spool"))?,
            validation: SpoolWriter::create(work.join("validation.spool"))?,
            nearest_train: None,
            nearest_validation: None,
            kept: 0,
        })
    }

    /// Where the next document goes. A held-out document is scored once, whatever its weight.
    pub(super) fn place(&self, held_out: bool, copies: u64) -> Place {
        Place {
            held_out,
            first: if held_out {
                self.validation.documents
            } else {
                self.train.documents
            },
            copies: if held_out { 1 } else { copies },
        }
    }

    /// Adds a document at its place; `unit` is its hash.
    pub(super) fn push(
        &mut self,
        place: Place,
        copies: u64,
        unit: f64,
        text: &str,
    ) -> Result<(), DataError> {
        self.kept += 1;
        let this = Nearest {
            unit,
            place,
            copies,
        };
        if place.held_out {
            if self
                .nearest_validation
                .is_none_or(|nearest| unit > nearest.unit)
            {
                self.nearest_validation = Some(this);
            }
            return self.validation.push(text);
        }
        if self.nearest_train.is_none_or(|nearest| unit < nearest.unit) {
            self.nearest_train = Some(this);
        }
        for _ in 0..place.copies {
            self.train.push(text)?;
        }
        Ok(())
    }

    /// Both splits. Chance leaves a split of few documents empty: then the document goes over whose hash is nearest.
    pub(super) fn finish(
        self,
        hold_out: bool,
        provenance: &mut Provenance,
    ) -> Result<(Spool, Spool), DataError> {
        let (train, validation) = (self.train.finish()?, self.validation.finish()?);
        if train.documents == 0
            && let Some(Nearest { place, copies, .. }) = self.nearest_validation
        {
            let (validation, text) = validation.without(place)?;
            let to = Place {
                held_out: false,
                first: 0,
                copies,
            };
            provenance.moved(place, to);
            return Ok((train.refill(&text, copies)?, validation));
        }
        if hold_out
            && validation.documents == 0
            && self.kept >= 2
            && let Some(Nearest { place, .. }) = self.nearest_train
        {
            let (train, text) = train.without(place)?;
            let to = Place {
                held_out: true,
                first: 0,
                copies: 1,
            };
            provenance.moved(place, to);
            return Ok((train, validation.refill(&text, 1)?));
        }
        Ok((train, validation))
    }
}

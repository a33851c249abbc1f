//! Owns the index that tells which documents stem from which source, consent and data subject, so that an erasure finds
//! them; it must not hold text or a subject's key.

use std::io::Write;
use std::path::Path;

use bessemer_protocol::task::Source;
use serde_json::json;

use crate::document::Subject;
use crate::error::DataError;

/// Name of the index in a dataset's directory.
pub(crate) const PROVENANCE_FILE: &str = "provenance.jsonl";

/// Where a document lies: `copies` documents from number `first` (from 0) of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub held_out: bool,
    pub first: u64,
    pub copies: u64,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    source: usize,
    subject: Option<Subject>,
}

/// The index while it grows: one entry per document of a source that names a consent or subjects, and one more for
/// every other subject whose equal text was dropped as a duplicate.
#[derive(Debug, Default)]
pub(crate) struct Provenance(Vec<Entry>);

impl Provenance {
    pub(crate) fn add(
        &mut self,
        place: Place,
        number: usize,
        source: &Source,
        subject: Option<Subject>,
    ) {
        if source.consent.is_some() || subject.is_some() {
            self.0.push(Entry {
                place,
                source: number,
                subject,
            });
        }
    }

    /// The document at `from` is now at `to`, the only one of its split.
    pub(crate) fn moved(&mut self, from: Place, to: Place) {
        for entry in &mut self.0 {
            if entry.place == from {
                entry.place = to;
            } else if entry.place.held_out == from.held_out && entry.place.first > from.first {
                entry.place.first -= from.copies;
            }
        }
    }

    /// Writes the index, unless it is empty: one JSON object per line.
    pub(crate) fn write<'a>(
        &self,
        sources: impl Fn(usize) -> Option<&'a Source>,
        directory: &Path,
    ) -> Result<(), DataError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let path = directory.join(PROVENANCE_FILE);
        let failed = |error| DataError::io(&path, error);
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
        for entry in &self.0 {
            let source = sources(entry.source);
            let mut line = json!({
                "split": if entry.place.held_out { "validation" } else { "train" },
                "document": entry.place.first, "copies": entry.place.copies,
                "source": source.map(|source| &source.name),
            });
            let subject = entry.subject.map(|subject| subject.hex());
            let consent = source.and_then(|source| source.consent.clone());
            for (field, value) in [("consent", consent), ("subject", subject)] {
                if let (Some(value), Some(line)) = (value, line.as_object_mut()) {
                    line.insert(field.into(), value.into());
                }
            }
            writeln!(out, "{line}").map_err(failed)?;
        }
        out.flush().map_err(failed)
    }
}

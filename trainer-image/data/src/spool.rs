//! Owns the temporary file between two passes: documents of one split, one JSON string per line; it must not
//! outlive the run.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use crate::error::DataError;
use crate::provenance::Place;

/// Writes documents.
pub(crate) struct SpoolWriter {
    path: PathBuf,
    out: BufWriter<File>,
    pub documents: u64,
    pub bytes: u64,
}

impl SpoolWriter {
    pub(crate) fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(|error| DataError::io(&path, error))?;
        Ok(Self {
            path,
            out: BufWriter::with_capacity(1 << 18, file),
            documents: 0,
            bytes: 0,
        })
    }

    pub(crate) fn push(&mut self, text: &str) -> Result<(), DataError> {
        self.documents += 1;
        self.bytes += text.len() as u64;
        let written = serde_json::to_writer(&mut self.out, text).map_err(std::io::Error::from);
        written
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|error| DataError::io(&self.path, error))
    }

    pub(crate) fn finish(mut self) -> Result<Spool, DataError> {
        self.out
            .flush()
            .map_err(|error| DataError::io(&self.path, error))?;
        Ok(Spool {
            path: self.path,
            documents: self.documents,
            bytes: self.bytes,
        })
    }
}

/// A finished spool, read any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    pub documents: u64,
    pub bytes: u64,
}

impl Spool {
    /// The documents in order.
    pub(crate) fn iter(
        &self,
    ) -> Result<impl Iterator<Item = Result<String, DataError>> + use<>, DataError> {
        let path = self.path.clone();
        let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
        Ok(BufReader::with_capacity(1 << 18, file)
            .lines()
            .map(move |line| {
                let line = line.map_err(|error| DataError::io(&path, error))?;
                serde_json::from_str(&line).map_err(|error| DataError::io(&path, error.into()))
            }))
    }

    /// This spool less the documents of a place, and the text of the first of them.
    pub(crate) fn without(self, place: Place) -> Result<(Self, String), DataError> {
        let mut rest = SpoolWriter::create(self.path.with_extension("rest"))?;
        let mut taken = String::new();
        for (number, text) in (0..).zip(self.iter()?) {
            let text = text?;
            if (place.first..place.first + place.copies).contains(&number) {
                taken = text;
            } else {
                rest.push(&text)?;
            }
        }
        let rest = rest.finish()?;
        std::fs::rename(&rest.path, &self.path)
            .map_err(|error| DataError::io(&self.path, error))?;
        let rest = Self {
            path: self.path,
            ..rest
        };
        Ok((rest, taken))
    }

    /// This spool, which was empty, with copies of one document.
    pub(crate) fn refill(self, text: &str, copies: u64) -> Result<Self, DataError> {
        let mut writer = SpoolWriter::create(self.path)?;
        for _ in 0..copies {
            writer.push(text)?;
        }
        writer.finish()
    }
}

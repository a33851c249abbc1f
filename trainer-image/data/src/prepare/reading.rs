//! Owns the first pass: what stays of the sources, divided into the two splits. Files are read by one thread and judged
//! by all; what is kept, and under which number, is decided in the order of the files, so threads do not matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use bessemer_protocol::task::{Format, PrepareTask, Unicode};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::split::Division;
use super::{Control, PrepareStage, keeps_records};
use crate::dedup::{Seen, fingerprint};
use crate::document::Subject;
use crate::error::DataError;
use crate::extract::{self, Item, Raw, Reading};
use crate::filter::Filter;
use crate::licence;
use crate::provenance::Provenance;
use crate::source::LocalSource;
use crate::spool::Spool;

/// Bytes and pieces of a batch; a few batches are in memory at a time.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_PIECES: usize = 4096;

/// What the first pass counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub removed: BTreeMap<String, u64>,
    pub licenses: BTreeMap<String, u64>,
    pub consents: BTreeMap<String, u64>,
}

/// What the first pass leaves.
pub(super) struct Read {
    pub train: Spool,
    pub validation: Spool,
    pub provenance: Provenance,
    pub counts: Counts,
}

/// A file to read.
struct File {
    source: usize,
    path: PathBuf,
    /// What its Cargo package says.
    license: Option<String>,
}

/// Pieces of files, in order, each with the number of its file.
type Batch = Vec<(usize, Raw)>;

/// A piece after its judgement.
enum Judged {
    Empty,
    Removed(&'static str),
    Kept(Kept),
}

struct Kept {
    text: String,
    license: Option<String>,
    subject: Option<Subject>,
    fingerprint: u128,
}

pub(super) fn read(
    task: &PrepareTask,
    sources: &[LocalSource],
    work: &Path,
    control: &mut dyn Control,
) -> Result<Read, DataError> {
    // Refuses what the filters cannot do before anything is read.
    Filter::new(&task.clean)?;
    let mut files = Vec::new();
    let mut crates = licence::Crates::default();
    for (number, source) in sources.iter().enumerate() {
        for (_, path) in source.files()? {
            let license = crates.license(&source.root, &path);
            files.push(File {
                source: number,
                path,
                license,
            });
        }
    }
    let readings: Vec<_> = sources.iter().map(|local| reading(task, local)).collect();
    let total = files.len() as u64;
    control.progress(PrepareStage::Reading, 0, total);
    let judge = Judge {
        task,
        files: &files,
        readings: &readings,
        sources,
    };
    let mut merge = Merge {
        task,
        sources,
        counts: Counts::default(),
        seen: Seen::default(),
        division: Division::create(work)?,
        provenance: Provenance::default(),
    };
    std::thread::scope(|scope| {
        // The reader is two batches ahead at most, and ends when the receiver is gone.
        let (send, receive) = sync_channel(1);
        scope.spawn(|| read_files(&judge, send));
        for batch in receive {
            let batch = batch?;
            if control.cancelled() {
                return Err(DataError::Cancelled);
            }
            let done = batch.last().map_or(0, |(file, _)| *file as u64);
            let judged: Vec<_> = batch
                .into_par_iter()
                .map_init(
                    || Filter::new(&task.clean),
                    |filter, (file, raw)| judge.piece(filter, file, &raw),
                )
                .collect();
            for piece in judged {
                let (file, judged) = piece?;
                merge.take(file.source, judged)?;
            }
            control.progress(PrepareStage::Reading, done, total);
        }
        Ok(())
    })?;
    merge.finish()
}

fn reading<'a>(task: &PrepareTask, local: &'a LocalSource) -> Reading<'a> {
    let source = &local.source;
    let records = keeps_records(task.purpose);
    Reading {
        format: if records && source.format == Format::Auto {
            Format::Jsonl
        } else {
            source.format
        },
        text_field: source.text_field.as_deref(),
        subject_field: source.subject_field.as_deref(),
        records,
        purpose: task.purpose,
    }
}

/// Sends every piece of every file in order; an error comes after the pieces before it.
fn read_files(judge: &Judge<'_>, send: SyncSender<Result<Batch, DataError>>) {
    let mut batch = Batch::new();
    let mut bytes = 0;
    // What is sent in vain is not missed: the receiver has an error of its own.
    let gone = |_| DataError::Cancelled;
    let mut all = || {
        for (number, file) in judge.files.iter().enumerate() {
            let format = judge
                .readings
                .get(file.source)
                .map_or(Format::Auto, |reading| reading.format);
            extract::read_file(&file.path, format, &mut |raw| {
                bytes += raw.bytes();
                batch.push((number, raw));
                if bytes >= BATCH_BYTES || batch.len() >= BATCH_PIECES {
                    bytes = 0;
                    send.send(Ok(std::mem::take(&mut batch))).map_err(gone)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    };
    let ended: Result<(), DataError> = all();
    let _ = send.send(Ok(batch));
    if let Err(error) = ended {
        let _ = send.send(Err(error));
    }
}

/// What every thread needs to judge a piece.
struct Judge<'a> {
    task: &'a PrepareTask,
    sources: &'a [LocalSource],
    files: &'a [File],
    readings: &'a [Reading<'a>],
}

impl<'a> Judge<'a> {
    fn piece(
        &self,
        filter: &mut Result<Filter<'_>, DataError>,
        file: usize,
        raw: &Raw,
    ) -> Result<(&'a File, Judged), DataError> {
        let unknown = || DataError::Config {
            field: "sources",
            reason: "a piece of no file".into(),
        };
        let file = self.files.get(file).ok_or_else(unknown)?;
        let reading = self.readings.get(file.source).ok_or_else(unknown)?;
        let source = self.sources.get(file.source).ok_or_else(unknown)?;
        let document = match raw.parse(&file.path, reading)? {
            None => return Ok((file, Judged::Empty)),
            Some(Item::Removed(reason)) => return Ok((file, Judged::Removed(reason))),
            Some(Item::Document(document)) => document,
        };
        let license = document
            .license
            .or_else(|| file.license.clone())
            .or_else(|| source.source.license.clone());
        let text = normalise(self.task.clean.unicode, document.text);
        let refused = licence::refused(&self.task.licenses, license.as_deref()).or_else(|| {
            // The filters are about prose; a record's form was checked when it was read.
            let filter = filter.as_mut().ok().filter(|_| !reading.records)?;
            filter.refused(&text)
        });
        let judged = match refused {
            Some(reason) => Judged::Removed(reason),
            None => Judged::Kept(Kept {
                fingerprint: fingerprint(&text),
                text,
                license,
                subject: document.subject,
            }),
        };
        Ok((file, judged))
    }
}

/// Takes judged pieces in order.
struct Merge<'a> {
    task: &'a PrepareTask,
    sources: &'a [LocalSource],
    counts: Counts,
    seen: Seen,
    division: Division,
    provenance: Provenance,
}

impl Merge<'_> {
    fn take(&mut self, number: usize, judged: Judged) -> Result<(), DataError> {
        let kept = match judged {
            Judged::Empty => return Ok(()),
            Judged::Removed(reason) => {
                self.remove(reason);
                return Ok(());
            }
            Judged::Kept(kept) => kept,
        };
        let Some(source) = self.sources.get(number).map(|local| &local.source) else {
            return Ok(());
        };
        let split = &self.task.split;
        let copies = copies(source.weight, &kept.text, split.seed);
        let unit = unit(&kept.text, split.seed);
        let held_out = unit < split.validation;
        let place = (copies > 0).then(|| self.division.place(held_out, copies));
        if self.task.exact_deduplication
            && let Some(first) = self.seen.insert(kept.fingerprint, place)
        {
            self.remove("duplicate");
            if let Some(first) = first.filter(|_| kept.subject.is_some()) {
                // The text is this subject's too: its erasure must find the document that stays.
                self.provenance.add(first, number, source, kept.subject);
            }
            return Ok(());
        }
        let Some(place) = place else {
            self.remove("thinned");
            return Ok(());
        };
        let license = kept.license.unwrap_or_else(|| "unknown".into());
        *self.counts.licenses.entry(license).or_default() += 1;
        if let Some(consent) = &source.consent {
            *self.counts.consents.entry(consent.clone()).or_default() += 1;
        }
        self.provenance.add(place, number, source, kept.subject);
        self.division.push(place, copies, unit, &kept.text)
    }

    fn remove(&mut self, reason: &str) {
        *self.counts.removed.entry(reason.into()).or_default() += 1;
    }

    fn finish(mut self) -> Result<Read, DataError> {
        let (train, validation) = self
            .division
            .finish(self.task.split.validation > 0.0, &mut self.provenance)?;
        Ok(Read {
            train,
            validation,
            provenance: self.provenance,
            counts: self.counts,
        })
    }
}

fn normalise(form: Unicode, text: String) -> String {
    match form {
        Unicode::None => text,
        Unicode::Nfc if unicode_normalization::is_nfc(&text) => text,
        Unicode::Nfc => text.nfc().collect(),
        Unicode::Nfkc => text.nfkc().collect(),
    }
}

/// A number in [0, 1) that only the text and the seed decide, so that a split stays when documents are added.
fn unit(text: &str, seed: u64) -> f64 {
    (xxh3_64_with_seed(text.as_bytes(), seed) >> 11) as f64 / (1u64 << 53) as f64
}

/// How often a document appears: the weight's whole part, and one more for the fitting share of documents.
fn copies(weight: f64, text: &str, seed: u64) -> u64 {
    let extra = unit(text, seed ^ 0x5EED) < weight.fract();
    weight.trunc() as u64 + u64::from(extra)
}

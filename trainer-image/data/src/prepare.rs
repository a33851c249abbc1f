//! Owns the preparation of a dataset, pass after pass over bounded memory; it must not know where sources came from.

mod reading;
mod split;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bessemer_protocol::task::{PrepareTask, Purpose, TokenizerSource};
use serde::{Deserialize, Serialize};

use self::reading::Read;
use crate::error::DataError;
use crate::record;
use crate::shard::{DESCRIPTION_FILE, Description, SHARD_TOKENS, ShardWriter, Split};
use crate::source::LocalSource;
use crate::spool::Spool;
use crate::tokenizer;

/// Text encoded together, in bytes.
const ENCODE_BYTES: usize = 4 << 20;

/// Counts of a preparation, in the form of the Dataset's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Documents kept.
    pub documents: u64,
    /// Bytes of text kept.
    pub bytes: u64,
    /// Tokens of both splits; of records those of prompts, answers and messages, without what a chat template adds.
    pub tokens: u64,
    /// Tokens held out.
    pub validation_tokens: u64,
    /// Ids of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary_size: Option<u32>,
    /// Documents removed, per reason.
    pub removed: BTreeMap<String, u64>,
    /// Duplicates among them.
    pub duplicates: u64,
    /// Documents kept, per licence expression.
    pub licenses: BTreeMap<String, u64>,
    /// Documents kept, per basis of consent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consents: BTreeMap<String, u64>,
}

/// What a preparation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The directory to publish.
    pub directory: PathBuf,
    /// Counts.
    pub statistics: Statistics,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareStage {
    /// Reading and cleaning sources.
    Reading,
    /// Training a tokenizer.
    Tokenizer,
    /// Encoding documents.
    Encoding,
}

/// How the caller watches and stops a preparation.
pub trait Control {
    /// Told now and then; `done` of `total` files or documents of the stage.
    fn progress(&mut self, stage: PrepareStage, done: u64, total: u64);

    /// Asked now and then; true stops with [`DataError::Cancelled`].
    fn cancelled(&self) -> bool;
}

/// Prepares a dataset below `work` and returns the directory that holds it: `work/dataset`, complete or absent.
///
/// Files: `tokenizer.json`; for purpose Pretraining shards of both splits and `validation.jsonl` with the held-out
/// texts; for record purposes `train.jsonl` and `validation.jsonl`; `dataset.json`; `provenance.jsonl` where a source
/// names consent or subjects.
///
/// # Errors
/// [`DataError`]; nothing half-written stays under the final name.
pub fn prepare(
    task: &PrepareTask,
    sources: &[LocalSource],
    tokenizer_file: Option<&Path>,
    work: &Path,
    control: &mut dyn Control,
) -> Result<Prepared, DataError> {
    let building = work.join("building");
    let finished = work.join("dataset");
    for stale in [&building, &finished] {
        match std::fs::remove_dir_all(stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DataError::io(stale, error));
            }
            _ => {}
        }
    }
    std::fs::create_dir_all(&building).map_err(|error| DataError::io(&building, error))?;
    let built = build(task, sources, tokenizer_file, work, &building, control);
    for spool in [
        "train.spool",
        "validation.spool",
        "train.rest",
        "validation.rest",
    ] {
        // What cannot be removed now is overwritten by the next run.
        let _ = std::fs::remove_file(work.join(spool));
    }
    match built {
        Ok(statistics) => {
            std::fs::rename(&building, &finished)
                .map_err(|error| DataError::io(&finished, error))?;
            Ok(Prepared {
                directory: finished,
                statistics,
            })
        }
        Err(error) => {
            let _ = std::fs::remove_dir_all(&building);
            Err(error)
        }
    }
}

fn build(
    task: &PrepareTask,
    sources: &[LocalSource],
    tokenizer_file: Option<&Path>,
    work: &Path,
    out: &Path,
    control: &mut dyn Control,
) -> Result<Statistics, DataError> {
    let Read {
        train,
        validation,
        provenance,
        counts,
    } = reading::read(task, sources, work, control)?;
    let mut statistics = Statistics {
        documents: train.documents + validation.documents,
        bytes: train.bytes + validation.bytes,
        duplicates: counts.removed.get("duplicate").copied().unwrap_or_default(),
        removed: counts.removed,
        licenses: counts.licenses,
        consents: counts.consents,
        ..Statistics::default()
    };
    if train.documents == 0 {
        let removed = statistics
            .removed
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        return Err(DataError::NothingLeft {
            removed: removed.collect::<Vec<_>>().join(", "),
        });
    }
    provenance.write(|number| Some(&sources.get(number)?.source), out)?;
    let trained = match &task.tokenizer {
        None => None,
        Some(TokenizerSource::TrainBpe {
            vocabulary_size,
            special_tokens,
        }) => {
            control.progress(PrepareStage::Tokenizer, 0, train.documents);
            let trained = tokenizer::train(&train, *vocabulary_size, special_tokens)?;
            tokenizer::save(&trained, &out.join("tokenizer.json"))?;
            Some(trained)
        }
        Some(TokenizerSource::Input) => {
            let from = tokenizer_file.ok_or_else(|| DataError::Config {
                field: "tokenizer",
                reason: "the input with role Tokenizer is missing".into(),
            })?;
            let taken = tokenizer::open(from)?;
            let to = out.join("tokenizer.json");
            std::fs::copy(from, &to).map_err(|error| DataError::io(&to, error))?;
            Some(taken)
        }
    };
    let vocabulary_size = trained
        .as_ref()
        .map(|tokenizer| tokenizer.get_vocab_size(true) as u32);
    statistics.vocabulary_size = vocabulary_size;
    let mut description = Description {
        schema_version: 1,
        token_bytes: 0,
        vocabulary_size: vocabulary_size.unwrap_or_default(),
        train: Vec::new(),
        validation: Vec::new(),
    };
    let total = statistics.documents;
    let mut done = 0;
    let mut each = |documents: u64| {
        done += documents;
        control.progress(PrepareStage::Encoding, done, total);
        if control.cancelled() {
            Err(DataError::Cancelled)
        } else {
            Ok(())
        }
    };
    // Tokens of the training split and of the validation split.
    let mut tokens = [0, 0];
    if keeps_records(task.purpose) {
        write_lines(&train, &out.join("train.jsonl"), true)?;
        write_lines(&validation, &out.join("validation.jsonl"), true)?;
        if let Some(tokenizer) = &trained {
            for (spool, tokens) in [&train, &validation].into_iter().zip(&mut tokens) {
                let mut count = |ids: Vec<u32>| {
                    *tokens += ids.len() as u64;
                    Ok(())
                };
                encode(tokenizer, spool, record::texts, &mut count, &mut each)?;
            }
        }
    } else {
        write_lines(&validation, &out.join("validation.jsonl"), false)?;
        if let (Some(tokenizer), Some(vocabulary)) = (&trained, vocabulary_size) {
            let end = end_of_text(tokenizer)?;
            for (spool, split) in [(&train, Split::Train), (&validation, Split::Validation)] {
                let mut writer = ShardWriter::new(out, split, vocabulary, SHARD_TOKENS);
                description.token_bytes = writer.token_bytes();
                let mut push = |mut ids: Vec<u32>| {
                    ids.push(end);
                    writer.push(&ids)
                };
                encode(tokenizer, spool, |text| vec![text], &mut push, &mut each)?;
                match split {
                    Split::Train => description.train = writer.finish()?,
                    Split::Validation => description.validation = writer.finish()?,
                }
            }
        }
        let sum = |shards: &[crate::shard::Shard]| shards.iter().map(|shard| shard.tokens).sum();
        tokens = [sum(&description.train), sum(&description.validation)];
    }
    statistics.validation_tokens = tokens[1];
    statistics.tokens = tokens.iter().sum();
    let path = out.join(DESCRIPTION_FILE);
    let text = serde_json::to_string_pretty(&description)
        .map_err(|error| DataError::io(&path, error.into()))?;
    std::fs::write(&path, text).map_err(|error| DataError::io(&path, error))?;
    Ok(statistics)
}

/// Whether a purpose keeps records (conversations and the like) instead of token shards.
fn keeps_records(purpose: Purpose) -> bool {
    match purpose {
        Purpose::Pretraining | Purpose::Retrieval => false,
        Purpose::Instruction | Purpose::Preference | Purpose::Prompts | Purpose::Evaluation => true,
    }
}

/// Writes a spool as JSON lines: records as they are, texts as `{"text": ...}`.
fn write_lines(spool: &Spool, path: &Path, records: bool) -> Result<(), DataError> {
    use std::io::Write;
    let file = std::fs::File::create(path).map_err(|error| DataError::io(path, error))?;
    let mut out = std::io::BufWriter::new(file);
    for text in spool.iter()? {
        let text = text?;
        let line = if records {
            text
        } else {
            serde_json::json!({"text": text}).to_string()
        };
        writeln!(out, "{line}").map_err(|error| DataError::io(path, error))?;
    }
    out.flush().map_err(|error| DataError::io(path, error))
}

/// The id that ends every document.
fn end_of_text(tokenizer: &tokenizers::Tokenizer) -> Result<u32, DataError> {
    tokenizer
        .token_to_id(tokenizer::END_OF_TEXT)
        .ok_or_else(|| DataError::Config {
            field: "tokenizer",
            reason: format!(
                "it has no token {}; use one trained by a Dataset",
                tokenizer::END_OF_TEXT
            ),
        })
}

/// Second pass: the ids of each text of each document go to `take`; `each` is told of so many documents done.
fn encode(
    tokenizer: &tokenizers::Tokenizer,
    spool: &Spool,
    texts: impl Fn(String) -> Vec<String>,
    take: &mut dyn FnMut(Vec<u32>) -> Result<(), DataError>,
    each: &mut dyn FnMut(u64) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut encoder = tokenizer::Encoder::new(tokenizer);
    let (mut batch, mut bytes, mut documents) = (Vec::new(), 0, 0);
    let mut flush = |batch: &mut Vec<String>, documents: &mut u64| -> Result<(), DataError> {
        for ids in encoder.encode(std::mem::take(batch))? {
            take(ids)?;
        }
        each(std::mem::take(documents))
    };
    for text in spool.iter()? {
        let text = text?;
        bytes += text.len();
        documents += 1;
        batch.extend(texts(text));
        if bytes >= ENCODE_BYTES {
            flush(&mut batch, &mut documents)?;
            bytes = 0;
        }
    }
    flush(&mut batch, &mut documents)
}

//! Owns token shards: raw little-endian ids with an index of document ends, described and digested by
//! `dataset.json`; a reader never trusts a size or a byte it has not checked.
//!
//! `<split>-NNNNN.bin` holds u16 (vocabulary up to 65,536) or u32 ids without header, as nanoGPT's and datatrove's
//! files do; `<split>-NNNNN.bin.index` holds one u64 per document, the token offset of its end (datatrove's form).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::DataError;

/// Name of the description.
pub(crate) const DESCRIPTION_FILE: &str = "dataset.json";
/// Tokens of a shard at most.
pub(crate) const SHARD_TOKENS: u64 = 128 << 20;

/// Which part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Split {
    /// To train on.
    Train,
    /// Held out.
    Validation,
}

impl Split {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// File of ids.
    pub file: String,
    /// Ids.
    pub tokens: u64,
    /// Documents that end here.
    pub documents: u64,
    /// Hex SHA-256 of the file of ids.
    pub sha256: String,
}

/// Content of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// 1.
    pub schema_version: u32,
    /// Bytes of an id: 2 or 4; 0 when there are no shards.
    pub token_bytes: u8,
    /// Ids of the tokenizer; 0 when there is none.
    pub vocabulary_size: u32,
    /// Shards to train on.
    pub train: Vec<Shard>,
    /// Shards held out.
    pub validation: Vec<Shard>,
}

impl Description {
    /// Reads the description of a dataset's directory.
    ///
    /// # Errors
    /// `Corrupt` naming the file.
    pub fn read(directory: &Path) -> Result<Self, DataError> {
        let path = directory.join(DESCRIPTION_FILE);
        let text = std::fs::read(&path).map_err(|error| DataError::io(&path, error))?;
        let description: Self =
            serde_json::from_slice(&text).map_err(|error| DataError::Corrupt {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        if description.schema_version != 1 || ![0, 2, 4].contains(&description.token_bytes) {
            let reason = "its schemaVersion or tokenBytes is unknown".to_string();
            return Err(DataError::Corrupt { path, reason });
        }
        Ok(description)
    }

    /// Shards of a split.
    pub fn shards(&self, split: Split) -> &[Shard] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

/// Writes the shards of one split.
pub(crate) struct ShardWriter {
    directory: PathBuf,
    split: Split,
    token_bytes: u8,
    limit: u64,
    open: Option<OpenShard>,
    done: Vec<Shard>,
}

struct OpenShard {
    file: String,
    ids: BufWriter<File>,
    index: BufWriter<File>,
    hasher: Sha256,
    tokens: u64,
    documents: u64,
}

impl ShardWriter {
    pub(crate) fn new(directory: &Path, split: Split, vocabulary_size: u32, limit: u64) -> Self {
        let token_bytes = if vocabulary_size <= 1 << 16 { 2 } else { 4 };
        Self {
            directory: directory.into(),
            split,
            token_bytes,
            limit,
            open: None,
            done: Vec::new(),
        }
    }

    pub(crate) fn token_bytes(&self) -> u8 {
        self.token_bytes
    }

    /// Appends one document, its end-of-text token included. A document lies whole in one shard.
    pub(crate) fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        if self
            .open
            .as_ref()
            .is_some_and(|shard| shard.tokens > 0 && shard.tokens + ids.len() as u64 > self.limit)
        {
            self.close()?;
        }
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.create()?,
        };
        let mut bytes = Vec::with_capacity(ids.len() * usize::from(self.token_bytes));
        for id in ids {
            match self.token_bytes {
                2 => bytes.extend_from_slice(&(*id as u16).to_le_bytes()),
                _ => bytes.extend_from_slice(&id.to_le_bytes()),
            }
        }
        shard.hasher.update(&bytes);
        shard.tokens += ids.len() as u64;
        shard.documents += 1;
        let written = shard
            .ids
            .write_all(&bytes)
            .and_then(|()| shard.index.write_all(&shard.tokens.to_le_bytes()));
        written.map_err(|error| DataError::io(self.directory.join(&shard.file), error))?;
        self.open = Some(shard);
        Ok(())
    }

    fn create(&self) -> Result<OpenShard, DataError> {
        let file = format!("{}-{:05}.bin", self.split.name(), self.done.len());
        let create = |name: &str| {
            let path = self.directory.join(name);
            File::create(&path)
                .map_err(|error| DataError::io(&path, error))
                .map(BufWriter::new)
        };
        Ok(OpenShard {
            ids: create(&file)?,
            index: create(&format!("{file}.index"))?,
            file,
            hasher: Sha256::new(),
            tokens: 0,
            documents: 0,
        })
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(mut shard) = self.open.take() {
            let flushed = shard.ids.flush().and_then(|()| shard.index.flush());
            flushed.map_err(|error| DataError::io(self.directory.join(&shard.file), error))?;
            self.done.push(Shard {
                file: shard.file,
                tokens: shard.tokens,
                documents: shard.documents,
                sha256: hex::encode(shard.hasher.finalize()),
            });
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Vec<Shard>, DataError> {
        self.close()?;
        Ok(self.done)
    }
}

/// The tokens of one split as one stream over memory-mapped shards.
#[derive(Debug)]
pub struct TokenStream {
    shards: Vec<(u64, Mmap)>,
    token_bytes: usize,
    tokens: u64,
    vocabulary_size: u32,
}

impl TokenStream {
    /// Opens a split and verifies every shard's size and digest.
    ///
    /// # Errors
    /// `Corrupt` naming the shard.
    pub fn open(directory: &Path, split: Split) -> Result<Self, DataError> {
        let description = Description::read(directory)?;
        let token_bytes = usize::from(description.token_bytes);
        let mut shards = Vec::new();
        let mut tokens = 0;
        for shard in description.shards(split) {
            let path = directory.join(&shard.file);
            let corrupt = |reason: String| DataError::Corrupt {
                path: path.clone(),
                reason,
            };
            let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
            // SAFETY: an artefact's files are immutable once they have their name; nobody truncates them.
            #[allow(unsafe_code)]
            let map = unsafe { Mmap::map(&file) }.map_err(|error| DataError::io(&path, error))?;
            if map.len() as u64 != shard.tokens * token_bytes as u64 {
                return Err(corrupt(format!(
                    "it has {} bytes, {DESCRIPTION_FILE} says {} tokens",
                    map.len(),
                    shard.tokens
                )));
            }
            let digest = hex::encode(Sha256::digest(&map));
            if digest != shard.sha256 {
                return Err(corrupt(format!(
                    "its SHA-256 is {digest}, {DESCRIPTION_FILE} says {}",
                    shard.sha256
                )));
            }
            tokens += shard.tokens;
            shards.push((tokens, map));
        }
        Ok(Self {
            shards,
            token_bytes,
            tokens,
            vocabulary_size: description.vocabulary_size,
        })
    }

    /// Tokens in the stream.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Ids of the tokenizer.
    pub fn vocabulary_size(&self) -> u32 {
        self.vocabulary_size
    }

    /// Appends the ids of `start .. start + count`, as many as there are.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<i64>) {
        let mut at = start;
        let mut left = count;
        let first = self.shards.partition_point(|(end, _)| *end <= start);
        for (end, map) in self.shards.iter().skip(first) {
            if left == 0 {
                break;
            }
            let begin = end - (map.len() / self.token_bytes) as u64;
            let here = ((end - at) as usize).min(left);
            let from = (at - begin) as usize * self.token_bytes;
            let bytes = map
                .get(from..from + here * self.token_bytes)
                .unwrap_or_default();
            match self.token_bytes {
                2 => out.extend(
                    bytes
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|id| i64::from(u16::from_le_bytes(*id))),
                ),
                _ => out.extend(
                    bytes
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|id| i64::from(u32::from_le_bytes(*id))),
                ),
            }
            at += here as u64;
            left -= here;
        }
    }
}

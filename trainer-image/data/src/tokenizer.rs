//! Owns tokenizers: training byte-level BPE, files, encoding many documents; it must not read sources.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use crate::byte_pair::{self, BytePair, Cache, Trained, WordCounts};
use crate::error::DataError;
use crate::spool::Spool;

/// Separates documents and ends answers; id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Built-in special tokens in id order.
pub const SPECIAL_TOKENS: [&str; 4] = [END_OF_TEXT, "<|user|>", "<|assistant|>", "<|end|>"];

/// A pair that occurs once is noise, not a token.
const LEAST_FREQUENCY: i64 = 2;

fn failed(error: tokenizers::Error) -> DataError {
    DataError::Tokenizer(error.to_string())
}

/// Trains byte-level BPE (Sennrich et al. 2016 over bytes, GPT-2's pre-tokenizer) on a spool.
///
/// # Errors
/// `Config` when the vocabulary has no room for the 256 bytes and the special tokens.
pub(crate) fn train(
    spool: &Spool,
    vocabulary_size: u32,
    special: &[String],
) -> Result<Tokenizer, DataError> {
    train_texts(spool.iter()?, vocabulary_size, special)
}

/// Trains byte-level BPE on texts. Ids from 0: [`SPECIAL_TOKENS`], `special`, the 256 bytes, merges.
///
/// # Errors
/// `Config` when the vocabulary has no room for bytes and special tokens; those of the iterator.
pub fn train_texts(
    texts: impl Iterator<Item = Result<String, DataError>> + Send,
    vocabulary_size: u32,
    special: &[String],
) -> Result<Tokenizer, DataError> {
    let mut special_tokens: Vec<String> = SPECIAL_TOKENS.iter().map(ToString::to_string).collect();
    special_tokens.extend(
        special
            .iter()
            .filter(|token| !SPECIAL_TOKENS.contains(&token.as_str()))
            .cloned(),
    );
    let least = 256 + special_tokens.len();
    if (vocabulary_size as usize) < least {
        let reason = format!(
            "{vocabulary_size} is too small for 256 bytes and {} special tokens; give at least {least}",
            special_tokens.len()
        );
        return Err(DataError::Config {
            field: "tokenizer.train.vocabularySize",
            reason,
        });
    }
    // Sums do not depend on which thread counted what.
    let counts = texts
        .par_bridge()
        .try_fold(WordCounts::default, |mut counts, text| {
            counts.add(&text?);
            Ok::<_, DataError>(counts)
        })
        .try_reduce(WordCounts::default, |a, b| Ok(a.merge(b)))?;
    let trained = byte_pair::train(
        &counts,
        vocabulary_size as usize,
        &special_tokens,
        LEAST_FREQUENCY,
    );
    assemble(trained, &special_tokens)
}

/// A tokenizer in Hugging Face's form.
pub(crate) fn assemble(trained: Trained, special: &[String]) -> Result<Tokenizer, DataError> {
    let vocabulary: tokenizers::models::bpe::Vocab = trained.tokens.into_iter().zip(0..).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, trained.merges)
        .build()
        .map_err(failed)?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .map_err(failed)?;
    let special = special
        .iter()
        .map(|token| AddedToken::from(token.as_str(), true));
    tokenizer.add_special_tokens(special).map_err(failed)?;
    Ok(tokenizer.into())
}

/// Opens a tokenizer file.
///
/// # Errors
/// `Corrupt` naming the file.
pub(crate) fn open(path: &Path) -> Result<Tokenizer, DataError> {
    Tokenizer::from_file(path).map_err(|error| DataError::Corrupt {
        path: path.into(),
        reason: error.to_string(),
    })
}

/// Writes a tokenizer file.
///
/// # Errors
/// Those of the file system.
pub(crate) fn save(tokenizer: &Tokenizer, path: &Path) -> Result<(), DataError> {
    let text = tokenizer.to_string(false).map_err(failed)?;
    std::fs::write(path, text).map_err(|error| DataError::io(path, error))
}

/// Encodes documents on all cores; plain byte-level BPE by our own encoder, everything else by the `tokenizers`
/// crate. Special tokens that stand in a text are encoded as text: only the pipeline itself sets them.
pub struct Encoder {
    tokenizer: Tokenizer,
    fast: Option<BytePair>,
    caches: Vec<Cache>,
}

impl Encoder {
    /// Takes a tokenizer over; its settings of special tokens do not matter.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self::with_threads(tokenizer, rayon::current_num_threads())
    }

    /// The same on so many threads, at least one.
    pub fn with_threads(tokenizer: &Tokenizer, threads: usize) -> Self {
        let mut tokenizer = tokenizer.clone();
        tokenizer.set_encode_special_tokens(true);
        let caches = (0..threads.max(1)).map(|_| Cache::default()).collect();
        Self {
            fast: BytePair::of(&tokenizer),
            tokenizer,
            caches,
        }
    }

    /// Ids of each text, in order, whatever the threads.
    ///
    /// # Errors
    /// `Tokenizer`.
    pub fn encode(&mut self, texts: Vec<String>) -> Result<Vec<Vec<u32>>, DataError> {
        let Some(fast) = &self.fast else {
            let encodings = self
                .tokenizer
                .encode_batch_fast(texts, false)
                .map_err(failed)?;
            return Ok(encodings
                .into_iter()
                .map(|encoding| encoding.get_ids().to_vec())
                .collect());
        };
        let mut all: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| Vec::with_capacity(text.len() / 3))
            .collect();
        // Runs of texts of about the same size, one per thread.
        let share = texts.iter().map(String::len).sum::<usize>() / self.caches.len().max(1) + 1;
        let (mut texts, mut ids) = (texts.as_slice(), all.as_mut_slice());
        std::thread::scope(|scope| {
            let last = self.caches.len().saturating_sub(1);
            for (number, cache) in self.caches.iter_mut().enumerate() {
                let mut bytes = 0;
                let run = texts.iter().take_while(|text| {
                    let begins = bytes < share || number == last;
                    bytes += text.len();
                    begins
                });
                let run = run.count();
                let (mine, rest) = texts.split_at(run);
                texts = rest;
                let (out, rest) = std::mem::take(&mut ids).split_at_mut(run);
                ids = rest;
                scope.spawn(move || {
                    for (text, ids) in mine.iter().zip(out) {
                        fast.encode(text, cache, ids);
                    }
                });
            }
        });
        Ok(all)
    }
}

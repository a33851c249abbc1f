//! Owns training and applying byte-level BPE through the `tokenizers` crate; it must not read sources.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use crate::error::DataError;
use crate::spool::Spool;

/// Separates documents and ends answers; id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Built-in special tokens in id order.
pub const SPECIAL_TOKENS: [&str; 4] = [END_OF_TEXT, "<|user|>", "<|assistant|>", "<|end|>"];

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
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocabulary_size as usize)
        .min_frequency(2)
        .special_tokens(
            special_tokens
                .iter()
                .map(|token| AddedToken::from(token.as_str(), true))
                .collect(),
        )
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .map_err(failed)?;
    // The trainer takes plain text: an error of the spool ends the iteration and is raised afterwards.
    let mut broken = None;
    let documents = spool
        .iter()?
        .map_while(|line| line.map_err(|error| broken = Some(error)).ok());
    tokenizer.train(&mut trainer, documents).map_err(failed)?;
    if let Some(error) = broken {
        return Err(error);
    }
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

/// Ids of each text, in order.
///
/// # Errors
/// `Tokenizer`.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    texts: Vec<String>,
) -> Result<Vec<Vec<u32>>, DataError> {
    let encodings = tokenizer.encode_batch_fast(texts, false).map_err(failed)?;
    Ok(encodings
        .into_iter()
        .map(|encoding| encoding.get_ids().to_vec())
        .collect())
}

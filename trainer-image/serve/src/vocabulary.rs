//! Owns the served model's tokenizer: text to ids, ids to bytes. It must not decide which text is
//! encoded with which special tokens.

use tokenizers::{DecoderWrapper, Tokenizer};

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// Tokens cannot be turned into bytes.
    #[error(
        "the tokenizer's decoder is not byte-level or SentencePiece; its tokens cannot be streamed as text"
    )]
    Decoder,
    /// A text could not be encoded.
    #[error("the text cannot be encoded: {message}")]
    Encode {
        /// The tokenizer library's reason.
        message: String,
    },
}

impl VocabularyError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Decoder => "TokenizerUnsupported",
            Self::Encode { .. } => "TextNotEncodable",
        }
    }
}

/// One token as a client may see it.
#[derive(Clone, Debug, Default)]
struct Entry {
    bytes: Vec<u8>,
    special: bool,
}

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
enum Style {
    /// GPT-2: every character of a token stands for a byte.
    Bytes,
    /// SentencePiece: U+2581 is a space, <0x0A> is a byte.
    Pieces,
}

impl Vocabulary {
    /// Takes over the tokenizer of a model directory.
    ///
    /// # Errors
    /// When it is of a kind whose tokens have no bytes.
    pub fn new(mut tokenizer: Tokenizer) -> Result<Self, VocabularyError> {
        // A file may ask for padding and truncation (both for training); a prompt is taken as it is.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        let decoder = tokenizer
            .get_decoder()
            .and_then(|decoder| serde_json::to_string(decoder).ok());
        let style = match (tokenizer.get_decoder(), decoder) {
            (Some(DecoderWrapper::ByteLevel(_)), _) => Style::Bytes,
            (_, Some(json)) if json.contains("ByteLevel") => Style::Bytes,
            (_, Some(json)) if json.contains("ByteFallback") || json.contains("Metaspace") => {
                Style::Pieces
            }
            _ => return Err(VocabularyError::Decoder),
        };
        let added = tokenizer.get_added_tokens_decoder();
        let size = tokenizer
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |last| *last as usize + 1);
        let mut entries = vec![Entry::default(); size];
        for (token, id) in tokenizer.get_vocab(true) {
            let Some(entry) = entries.get_mut(id as usize) else {
                continue;
            };
            let found = added.get(&id);
            entry.special = found.is_some_and(|added| added.special);
            entry.bytes = if found.is_some() {
                token.into_bytes()
            } else {
                bytes(&token, style)
            };
        }
        Ok(Self { tokenizer, entries })
    }

    /// Ids of `text`; `special` adds what the tokenizer puts around a text, such as a begin token.
    /// Names of special tokens inside `text` become those tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, VocabularyError> {
        let encoding = self.tokenizer.encode_fast(text, special);
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| VocabularyError::Encode {
                message: error.to_string(),
            })
    }

    /// Bytes that `id` adds to a text; special tokens add none.
    #[must_use]
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.entries
            .get(id as usize)
            .filter(|entry| !entry.special)
            .map(|entry| entry.bytes.as_slice())
            .unwrap_or_default()
    }

    /// Bytes of `id`, for a special token those of its name.
    #[must_use]
    pub fn name_bytes(&self, id: u32) -> &[u8] {
        self.entries
            .get(id as usize)
            .map(|entry| entry.bytes.as_slice())
            .unwrap_or_default()
    }

    /// How `id` is written in lists of log-probabilities: its text, or OpenAI's `bytes:\xe2\x82`
    /// where it is only part of a character.
    #[must_use]
    pub fn name(&self, id: u32) -> String {
        let bytes = self.name_bytes(id);
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() => text.to_owned(),
            Ok(_) => format!("<{id}>"),
            Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| {
                format!("{name}\\x{byte:02x}")
            }),
        }
    }
}

fn bytes(token: &str, style: Style) -> Vec<u8> {
    match style {
        Style::Bytes => token.chars().flat_map(byte_level).collect(),
        Style::Pieces => {
            let byte = token
                .strip_prefix("<0x")
                .and_then(|hex| hex.strip_suffix('>'));
            match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            }
        }
    }
}

/// The byte that a character of a byte-level token stands for: printable Latin-1 stands for
/// itself, the others were moved to U+0100 and up in order (GPT-2's table). Characters outside the
/// table stand for their own UTF-8.
fn byte_level(character: char) -> Vec<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = character as u32;
    if let Ok(byte) = u8::try_from(code)
        && printable(&byte)
    {
        return vec![byte];
    }
    let moved = (0..=255_u8)
        .filter(|byte| !printable(byte))
        .nth(code.wrapping_sub(256) as usize);
    moved.map_or_else(|| character.to_string().into_bytes(), |byte| vec![byte])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_table_covers_every_byte_once() {
        let printable = (0x21..=0x7E).chain(0xA1..=0xAC).chain(0xAE..=0xFF);
        let moved = 256..256 + 68;
        let mut all: Vec<u8> = printable
            .chain(moved)
            .flat_map(|code| byte_level(char::from_u32(code).unwrap()))
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes("Ġa", Style::Bytes), b" a");
        assert_eq!(bytes("Ċ", Style::Bytes), b"\n");
    }

    #[test]
    fn pieces_name_bytes_and_spaces() {
        assert_eq!(bytes("<0x0A>", Style::Pieces), b"\n");
        assert_eq!(bytes("\u{2581}the", Style::Pieces), b" the");
        assert_eq!(bytes("<0xZZ>", Style::Pieces), b"<0xZZ>");
    }
}

//! Owns the language filter; it must not translate codes of its own.

use bessemer_protocol::task::Language as Wanted;

use crate::error::DataError;

/// Beginning of a document that is looked at, in bytes: enough for any model of letter statistics.
const SAMPLE_BYTES: usize = 16 << 10;

/// The language that documents must have, by the trigram and alphabet models of the crate `whatlang`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Language {
    wanted: whatlang::Lang,
    min_score: f64,
}

impl Language {
    /// # Errors
    /// `Config` when the language is not known.
    pub(crate) fn new(wanted: &Wanted) -> Result<Self, DataError> {
        let known = whatlang::Lang::from_code(wanted.code.as_str());
        Ok(Self {
            wanted: known.ok_or_else(|| DataError::Config {
                field: "clean.language.code",
                reason: format!("`{}` is no language that can be told apart", wanted.code),
            })?,
            min_score: wanted.min_score,
        })
    }

    /// Whether the text is in the language; a text without letters is in none.
    pub(crate) fn is(&self, text: &str) -> bool {
        let end = text.floor_char_boundary(SAMPLE_BYTES);
        let found = text.get(..end).and_then(whatlang::detect);
        found.is_some_and(|found| {
            found.lang() == self.wanted && found.confidence() >= self.min_score
        })
    }
}

#[cfg(test)]
mod tests;

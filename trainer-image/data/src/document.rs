//! Owns the document that flows through preparation; it must stay small enough to be one unit of memory.

use sha2::{Digest, Sha256};

/// Longest document that is read whole, in bytes; what is longer is removed with the reason `tooLong`.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// One document of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Text, or the record itself (one JSON object) for record datasets.
    pub text: String,
    /// SPDX expression, when known.
    pub license: Option<String>,
    /// The data subject, when the source names one.
    pub subject: Option<Subject>,
}

/// A data subject by the SHA-256 of its key. That is a pseudonym: who knows a key finds its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject([u8; 32]);

impl Subject {
    /// The subject with this key.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

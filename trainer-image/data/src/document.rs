//! Owns the document that flows through preparation; it must stay small enough to be one unit of memory.

/// Longest document that is read whole, in bytes; what is longer is removed with the reason `tooLong`.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// One document of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Text, or the record itself (one JSON object) for record datasets.
    pub text: String,
    /// SPDX expression, when known.
    pub license: Option<String>,
}

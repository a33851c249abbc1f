//! Owns how Python sees text where metrics depend on it (white space, stripping, digits of numbering); it must
//! not tokenize.

/// Whether Python's `str.isspace`, `split` and `rstrip` take `c` for white space: Unicode's White_Space and the
/// four information separators.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r' | '\u{1c}'..='\u{1f}') || (!c.is_ascii() && c.is_whitespace())
}

/// `text.split()` of Python.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `text.rstrip()` of Python.
pub(crate) fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

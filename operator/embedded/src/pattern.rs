//! Owns the matching of texts against patterns; must not know whose they are. Compiling one takes far longer than matching.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::RwLock;
use regex::Regex;

/// Patterns come from schemas and validation rules: few, and the same for every request.
static COMPILED: LazyLock<RwLock<HashMap<String, Option<Regex>>>> = LazyLock::new(RwLock::default);

/// Whether `text` matches `pattern`; nothing matches a pattern that is malformed.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    if let Some(known) = COMPILED.read().get(pattern) {
        return known.as_ref().is_some_and(|regex| regex.is_match(text));
    }
    let regex = Regex::new(pattern).ok();
    let matches = regex.as_ref().is_some_and(|regex| regex.is_match(text));
    COMPILED.write().insert(pattern.to_owned(), regex);
    matches
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn the_second_answer_is_the_first() {
        for _ in 0..2 {
            assert!(matches("^[a-z]+$", "abc"));
            assert!(!matches("^[a-z]+$", "a1"));
            assert!(!matches("(", "("));
        }
    }
}

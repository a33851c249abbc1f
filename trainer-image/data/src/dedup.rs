//! Owns exact deduplication: the first document in order stays; memory is 16 bytes and overhead per document.

use std::collections::HashSet;

use xxhash_rust::xxh3::Xxh3;

/// Hashes of the texts seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<u128>);

impl Seen {
    /// Whether this text was new. Compared are words: case and white space do not matter.
    pub(crate) fn insert(&mut self, text: &str) -> bool {
        self.0.insert(fingerprint(text))
    }
}

/// XXH3-128 over the lower-cased words joined by single spaces.
pub(crate) fn fingerprint(text: &str) -> u128 {
    let mut hasher = Xxh3::new();
    let mut buffer = [0; 4];
    for word in text.split_whitespace() {
        for c in word.chars().flat_map(char::to_lowercase) {
            hasher.update(c.encode_utf8(&mut buffer).as_bytes());
        }
        hasher.update(b" ");
    }
    hasher.digest128()
}

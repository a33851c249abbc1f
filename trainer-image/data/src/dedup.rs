//! Owns exact deduplication: the first document in order stays; memory is 40 bytes and overhead per document.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use xxhash_rust::xxh3::Xxh3;

use crate::provenance::Place;

/// Fingerprints of the texts seen so far, each with where the document lies that stays.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<u128, Option<Place>>);

impl Seen {
    /// The first document with this fingerprint, if there was one; else `place` is it from now on.
    pub(crate) fn insert(
        &mut self,
        fingerprint: u128,
        place: Option<Place>,
    ) -> Option<Option<Place>> {
        match self.0.entry(fingerprint) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(new) => {
                new.insert(place);
                None
            }
        }
    }
}

/// XXH3-128 over the lower-cased words joined by single spaces: case and white space do not matter.
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

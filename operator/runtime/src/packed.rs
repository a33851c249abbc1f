//! Owns the form in which objects are kept: JSON, compressed against others of its kind, which are much alike. It takes a
//! tenth of what Kubernetes' types take in memory. It must not know what an object means.

use std::marker::PhantomData;
use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No dictionary grows beyond this.
const DICTIONARY: usize = 16 << 10;

/// One object, read anew each time.
#[derive(Clone)]
pub struct Packed<K> {
    bytes: Arc<[u8]>,
    dictionary: Arc<[u8]>,
    kind: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned> Packed<K> {
    /// The object.
    pub fn unpack(&self) -> Arc<K> {
        let json = decompress_size_prepended_with_dict(&self.bytes, &self.dictionary);
        let object = json.map(|json| serde_json::from_slice(&json).ok());
        // Nobody else writes these bytes, and to go on without the object would be to take it for deleted.
        object
            .ok()
            .flatten()
            .unwrap_or_else(|| unreachable!("a kept object cannot be read: memory is damaged"))
    }
}

/// Packs the objects of one kind.
pub struct Packer {
    dictionary: Arc<[u8]>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            dictionary: Arc::new([]),
        }
    }
}

impl Packer {
    /// Packs `object`. What is unlike all before becomes part of the dictionary of those to come.
    pub fn pack<K: Serialize>(&mut self, object: &K) -> Packed<K> {
        // Types that came from JSON go back to it.
        let json = serde_json::to_vec(object).unwrap_or_default();
        let mut bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        if bytes.len() > json.len() / 4 && self.dictionary.len() + json.len() <= DICTIONARY {
            self.dictionary = [&*self.dictionary, &*json].concat().into();
            bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        }
        Packed {
            bytes: bytes.into(),
            dictionary: self.dictionary.clone(),
            kind: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn map(number: usize, data: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(format!("map-{number}"));
        map.metadata.labels = Some([("bessemer.dev/name".to_owned(), number.to_string())].into());
        map.data = Some([("config.json".to_owned(), data.to_owned())].into());
        map
    }

    #[test]
    fn an_object_is_read_as_it_was_whatever_came_before_and_after_it() {
        let mut packer = Packer::default();
        let long: String = (0..9000).map(|n| format!("{n},")).collect();
        let kept: Vec<_> = (0..200)
            .map(|n| match n % 3 {
                0 => map(n, "{\"steps\": 100}"),
                1 => map(n, &format!("{{\"seed\": {}, \"rate\": 0.1}}", n * 7919)),
                _ => map(n, &long),
            })
            .map(|map| (packer.pack(&map), map))
            .collect();
        for (packed, map) in &kept {
            assert_eq!(*packed.unpack(), *map);
        }
    }

    #[test]
    fn objects_that_are_alike_are_kept_small() {
        let mut packer = Packer::default();
        let text = "a recipe of some length, the same for all of them; ".repeat(20);
        let kept: Vec<_> = (0..100).map(|n| packer.pack(&map(n, &text))).collect();
        let small: usize = kept.iter().map(|packed| packed.bytes.len()).sum();
        let plain = kept.len() * serde_json::to_vec(&map(0, &text)).unwrap().len();
        assert!(small < plain / 5, "{small} of {plain} bytes");
        assert!(packer.dictionary.len() <= DICTIONARY);
    }
}

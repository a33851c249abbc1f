//! Owns the form in which objects are kept: JSON, compressed against others of its kind, which are much alike. It takes a
//! tenth of what Kubernetes' types take in memory. The version lies beside it, so that copies that say the same are the
//! same bytes. It must not know what an object means.

use std::marker::PhantomData;
use std::sync::Arc;

use bessemer_core::Object;
use kube::Resource;
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

/// No dictionary grows beyond this.
const DICTIONARY: usize = 16 << 10;

/// One object, read anew each time.
#[derive(Clone)]
pub struct Packed<K> {
    /// Its `resourceVersion`, 0 if it has none that is a number.
    pub version: u64,
    bytes: Arc<[u8]>,
    dictionary: Arc<[u8]>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Object> Packed<K> {
    /// The object.
    pub fn unpack(&self) -> Arc<K> {
        let json = decompress_size_prepended_with_dict(&self.bytes, &self.dictionary);
        // From text, as everywhere: how a type is read is in the binary once for each form that it is read from.
        let json = json.ok().and_then(|json| String::from_utf8(json).ok());
        let object = json.and_then(|json| serde_json::from_str::<K>(&json).ok());
        // Nobody else writes these bytes, and to go on without the object would be to take it for deleted.
        let mut object = object
            .unwrap_or_else(|| unreachable!("a kept object cannot be read: memory is damaged"));
        if self.version != 0 {
            object.meta_mut().resource_version = Some(self.version.to_string());
        }
        Arc::new(object)
    }

    /// Whether both say the same, whatever their versions. Of two that do, one may be told to be another; not the reverse.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes && Arc::ptr_eq(&self.dictionary, &other.dictionary)
    }
}

/// The version of `object` as a number, 0 if it has none.
pub fn version(object: &impl Resource) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
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
    pub fn pack<K: Object>(&mut self, object: &mut K) -> Packed<K> {
        let version = version(object);
        let beside = object.meta_mut().resource_version.take_if(|_| version != 0);
        // Types that came from JSON go back to it.
        let json = serde_json::to_vec(object).unwrap_or_default();
        if beside.is_some() {
            object.meta_mut().resource_version = beside;
        }
        let mut bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        if bytes.len() > json.len() / 4 && self.dictionary.len() + json.len() <= DICTIONARY {
            self.dictionary = [&*self.dictionary, &*json].concat().into();
            bytes = compress_prepend_size_with_dict(&json, &self.dictionary);
        }
        Packed {
            version,
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
            .map(|n| {
                let mut map = match n % 3 {
                    0 => map(n, "{\"steps\": 100}"),
                    1 => map(n, &format!("{{\"seed\": {}, \"rate\": 0.1}}", n * 7919)),
                    _ => map(n, &long),
                };
                // None, one of etcd's, one that is no number.
                let versions = [None, Some(n.to_string()), Some(format!("v{n}"))];
                map.metadata.resource_version = versions[n % 3].clone().filter(|v| v != "0");
                map
            })
            .map(|mut map| (packer.pack(&mut map), map))
            .collect();
        for (packed, map) in &kept {
            assert_eq!(*packed.unpack(), *map);
        }
    }

    #[test]
    fn objects_that_are_alike_are_kept_small() {
        let mut packer = Packer::default();
        let text = "a recipe of some length, the same for all of them; ".repeat(20);
        let kept: Vec<_> = (0..100).map(|n| packer.pack(&mut map(n, &text))).collect();
        let small: usize = kept.iter().map(|packed| packed.bytes.len()).sum();
        let plain = kept.len() * serde_json::to_vec(&map(0, &text)).unwrap().len();
        assert!(small < plain / 5, "{small} of {plain} bytes");
        assert!(packer.dictionary.len() <= DICTIONARY);
    }

    #[test]
    fn a_new_version_says_the_same_and_new_data_do_not() {
        let mut packer = Packer::default();
        let mut packed = |data: &str, version: &str| {
            let mut map = map(1, data);
            map.metadata.resource_version = Some(version.into());
            packer.pack(&mut map)
        };
        let first = packed("one", "1");
        assert!(first.says_the_same(&packed("one", "2")));
        assert!(!first.says_the_same(&packed("two", "3")));
    }
}

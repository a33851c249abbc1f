//! Owns where things are in the store; must not read or write.

use crate::error::StoreError;

/// Keys of one bucket below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bucket.
    pub bucket: String,
    /// Prefix without slashes at its ends; may be empty.
    pub prefix: String,
}

/// An object of Kubernetes as a directory of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Kind, in any case.
    pub kind: &'a str,
    /// Name.
    pub name: &'a str,
}

impl Layout {
    /// A layout of a bucket; slashes around the prefix are dropped.
    pub fn new(bucket: impl Into<String>, prefix: &str) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.trim_matches('/').into(),
        }
    }

    /// `<prefix>/<namespace>/<kind>/<name>`, without a slash at the end.
    pub fn object(&self, location: Location<'_>) -> String {
        let kind = location.kind.to_ascii_lowercase();
        let path = format!("{}/{kind}/{}", location.namespace, location.name);
        if self.prefix.is_empty() {
            path
        } else {
            format!("{}/{path}", self.prefix)
        }
    }

    /// Directory of an artefact.
    pub fn artefact(&self, location: Location<'_>, digest: &str) -> String {
        format!("{}/{digest}", self.object(location))
    }

    /// Key of a run pointer.
    pub fn run(&self, location: Location<'_>, run_key: &str) -> String {
        format!("{}/runs/{run_key}.json", self.object(location))
    }

    /// Directory of all checkpoints of a run.
    pub fn checkpoints(&self, location: Location<'_>, run_key: &str) -> String {
        format!("{}/checkpoints/{run_key}", self.object(location))
    }

    /// Directory of one checkpoint.
    pub fn checkpoint(&self, location: Location<'_>, run_key: &str, step: u64) -> String {
        format!("{}/{step:010}", self.checkpoints(location, run_key))
    }

    /// `s3://bucket/key`.
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// The key of a URI in this bucket.
    ///
    /// # Errors
    /// `BadUri` when it is none, or of another bucket.
    pub fn key_of(&self, uri: &str) -> Result<String, StoreError> {
        uri.strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(bucket, key)| *bucket == self.bucket && !key.is_empty())
            .map(|(_, key)| key.trim_end_matches('/').to_string())
            .ok_or_else(|| StoreError::BadUri { uri: uri.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_design() {
        let layout = Layout::new("bessemer", "/team/");
        let at = Location {
            namespace: "ns",
            kind: "PretrainJob",
            name: "base",
        };
        assert_eq!(layout.artefact(at, "abc"), "team/ns/pretrainjob/base/abc");
        assert_eq!(layout.run(at, "k"), "team/ns/pretrainjob/base/runs/k.json");
        assert_eq!(
            layout.checkpoint(at, "k", 12),
            "team/ns/pretrainjob/base/checkpoints/k/0000000012"
        );
        assert_eq!(layout.key_of("s3://bessemer/a/b/").unwrap(), "a/b");
        assert!(layout.key_of("s3://other/a").is_err() && layout.key_of("/a").is_err());
        assert_eq!(Layout::new("b", "").object(at), "ns/pretrainjob/base");
    }
}

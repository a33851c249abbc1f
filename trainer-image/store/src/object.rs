//! Owns the interface to an object store; must not know artefacts.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

/// What a listing tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Full key.
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// Outcome of a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was written.
    Written,
    /// An object with this key exists already; nothing was written.
    Exists,
}

/// An object store with the few operations that artefacts need. All are safe to repeat.
///
/// # Cancel safety
/// A dropped future leaves either no object or the whole object.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// The whole object.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn get(&self, key: &str) -> Result<Bytes, StoreError>;

    /// Streams the object into a local file, which is replaced.
    ///
    /// # Errors
    /// As [`Self::get`], and those of the file.
    async fn download(&self, key: &str, path: &Path) -> Result<(), StoreError>;

    /// Writes a small object, replacing one that exists.
    ///
    /// # Errors
    /// Those of the store.
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Writes a small object if the key is free (`If-None-Match: *`).
    ///
    /// # Errors
    /// Those of the store.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<PutOutcome, StoreError>;

    /// Writes a file, in parts where it is large.
    ///
    /// # Errors
    /// Those of the file and of the store.
    async fn upload(&self, key: &str, path: &Path) -> Result<(), StoreError>;

    /// All objects whose keys start with the prefix, in key order.
    ///
    /// # Errors
    /// Those of the store.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Removes an object; one that is absent is no error.
    ///
    /// # Errors
    /// Those of the store.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}

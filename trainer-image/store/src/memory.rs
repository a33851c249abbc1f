//! Owns a store in memory, for simulation and unit tests; it must behave as S3 does, conditions included.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::object::{ObjectMeta, ObjectStore, PutOutcome};

/// An object store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // A panic elsewhere cannot leave the map half changed: every change is one insert or remove.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All keys in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.objects()
            .get(key)
            .cloned()
            .ok_or_else(|| StoreError::NotFound { key: key.into() })
    }

    async fn download(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let body = self.get(key).await?;
        std::fs::write(path, &body).map_err(|source| StoreError::io(path, source))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.objects().insert(key.into(), body);
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<PutOutcome, StoreError> {
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(PutOutcome::Exists);
        }
        objects.insert(key.into(), body);
        Ok(PutOutcome::Written)
    }

    async fn upload(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let body = std::fs::read(path).map_err(|source| StoreError::io(path, source))?;
        self.put(key, body.into()).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        Ok(self
            .objects()
            .range(prefix.to_string()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, body)| ObjectMeta {
                key: key.clone(),
                size: body.len() as u64,
            })
            .collect())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }
}

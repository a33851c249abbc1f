//! Owns the durable store: one redb file in a directory, held by one process at a time.

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::{Image, Key, Storage, StorageError};

const OBJECTS: TableDefinition<(&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";

/// Objects in `<directory>/api.redb`.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    database: Database,
}

impl Disk {
    /// Opens or makes the store in `directory`.
    ///
    /// # Errors
    /// `InUse` when another process has it open; `Broken` otherwise.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let shown = directory.display().to_string();
        let broken = |message: String| StorageError::Broken {
            directory: shown.clone(),
            message,
        };
        std::fs::create_dir_all(directory).map_err(|e| broken(e.to_string()))?;
        let database =
            Database::create(directory.join("api.redb")).map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => StorageError::InUse {
                    directory: shown.clone(),
                },
                other => broken(other.to_string()),
            })?;
        Ok(Self {
            directory: directory.to_owned(),
            database,
        })
    }

    fn broken(&self, error: impl std::fmt::Display) -> StorageError {
        StorageError::Broken {
            directory: self.directory.display().to_string(),
            message: error.to_string(),
        }
    }

    fn read(&self) -> Result<Image, redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            // Make the tables on first use so that reading needs no special case.
            transaction.open_table(OBJECTS)?;
            transaction.open_table(META)?;
        }
        transaction.commit()?;
        let transaction = self.database.begin_read()?;
        let revision = transaction
            .open_table(META)?
            .get(REVISION)?
            .map_or(0, |v| v.value());
        let mut objects = Vec::new();
        for row in transaction.open_table(OBJECTS)?.iter()? {
            let (key, bytes) = row?;
            let (table, namespace, name) = key.value();
            let object = serde_json::from_slice(bytes.value())
                .map_err(|e| redb::Error::Corrupted(format!("{table}/{namespace}/{name}: {e}")))?;
            let key = Key {
                table: table.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            objects.push((key, object));
        }
        Ok(Image { revision, objects })
    }

    fn write(&self, revision: u64, key: &Key, object: Option<&Value>) -> Result<(), redb::Error> {
        let address = (
            key.table.as_str(),
            key.namespace.as_str(),
            key.name.as_str(),
        );
        let transaction = self.database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            match object {
                Some(object) => {
                    objects.insert(address, object.to_string().as_bytes())?;
                }
                None => {
                    objects.remove(address)?;
                }
            }
            transaction.open_table(META)?.insert(REVISION, revision)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Storage for Disk {
    fn load(&mut self) -> Result<Image, StorageError> {
        self.read().map_err(|e| self.broken(e))
    }

    fn commit(
        &mut self,
        revision: u64,
        key: &Key,
        object: Option<&Value>,
    ) -> Result<(), StorageError> {
        self.write(revision, key, object)
            .map_err(|e| self.broken(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_objects_and_refuses_a_second_opener() {
        let directory = tempfile::tempdir().unwrap();
        let key = Key {
            table: "configmaps".into(),
            namespace: "a".into(),
            name: "b".into(),
        };
        let mut disk = Disk::open(directory.path()).unwrap();
        assert_eq!(disk.load().unwrap().revision, 0);
        disk.commit(7, &key, Some(&json!({"x": 1}))).unwrap();
        let refused = Disk::open(directory.path()).unwrap_err();
        assert_eq!(refused.category(), "StorageInUse");
        assert!(
            refused.to_string().contains("in use by another process"),
            "{refused}"
        );
        drop(disk);
        let image = Disk::open(directory.path()).unwrap().load().unwrap();
        assert_eq!(
            (image.revision, image.objects),
            (7, vec![(key, json!({"x": 1}))])
        );
    }
}

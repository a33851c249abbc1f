//! Owns where objects are kept between commits; must not know what they mean.

mod disk;

pub use disk::Disk;

use serde_json::Value;

/// Address of an object: table, namespace ("" for cluster scope), name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Table, such as `deployments.apps`.
    pub table: String,
    /// Namespace, "" for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Image {
    /// The last resourceVersion given out.
    pub revision: u64,
    /// All objects.
    pub objects: Vec<(Key, Value)>,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process holds the directory.
    #[error(
        "{directory} is in use by another process: stop it (`bessemer local down`) or choose another directory"
    )]
    InUse {
        /// The directory.
        directory: String,
    },
    /// The file system or the file itself failed.
    #[error("{directory}: {message}: check free space and permissions of the directory")]
    Broken {
        /// The directory.
        directory: String,
        /// What the store said.
        message: String,
    },
}

impl StorageError {
    /// Stable word for logs and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "StorageInUse",
            Self::Broken { .. } => "StorageBroken",
        }
    }
}

/// Keeps committed objects. A commit that returns `Ok` survives SIGKILL for durable stores.
pub trait Storage: Send {
    /// Everything kept, read once at start.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&mut self) -> Result<Image, StorageError>;

    /// Sets (`Some`) or removes (`None`) one object and records `revision`.
    ///
    /// # Errors
    /// When nothing was changed durably.
    fn commit(
        &mut self,
        revision: u64,
        key: &Key,
        object: Option<&Value>,
    ) -> Result<(), StorageError>;
}

/// Keeps nothing beyond the process.
#[derive(Debug, Default)]
pub struct Memory;

impl Storage for Memory {
    fn load(&mut self) -> Result<Image, StorageError> {
        Ok(Image::default())
    }

    fn commit(&mut self, _: u64, _: &Key, _: Option<&Value>) -> Result<(), StorageError> {
        Ok(())
    }
}

//! Artefacts in an object store: immutable, content-addressed, verified by every reader.
//!
//! Owns the layout of keys, manifests and digests, and the clients of the store. It must not know what an
//! artefact means, nor talk to Kubernetes. Every commit is a conditional put, so two writers and a crash
//! between any two writes end in the same state.

mod checkpoint;
mod delete;
mod error;
mod fetch;
mod layout;
mod manifest;
mod memory;
mod object;
mod publish;
mod s3;

pub use checkpoint::{
    Checkpoint, latest_checkpoint, list_checkpoints, prune_checkpoints, publish_checkpoint,
};
pub use delete::delete_artefact;
pub use error::StoreError;
pub use fetch::{fetch, read_manifest, read_run, verify_file};
pub use layout::{Layout, Location};
pub use manifest::{Code, File, InputDigest, Manifest, RunPointer};
pub use memory::MemoryStore;
pub use object::{ObjectMeta, ObjectStore, PutOutcome};
pub use publish::{Draft, Published, describe_directory, publish};
pub use s3::{S3Keys, S3Settings, S3Store};

#[cfg(test)]
mod tests;

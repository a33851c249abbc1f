//! Owns the three patch languages of Kubernetes besides server-side apply; must not know storage.

pub mod go;
pub mod json;
pub mod merge;
pub mod strategic;

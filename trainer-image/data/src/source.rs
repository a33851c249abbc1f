//! Owns which files a source has; it must not read their content.

use std::path::{Path, PathBuf};

use bessemer_protocol::task::Source;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::error::DataError;

/// Include and exclude globs of a source.
#[derive(Clone, Debug)]
pub struct PathFilter {
    include: GlobSet,
    exclude: GlobSet,
}

impl PathFilter {
    /// Compiles a source's globs.
    ///
    /// # Errors
    /// `Config` naming the glob.
    pub fn new(source: &Source) -> Result<Self, DataError> {
        Ok(Self {
            include: globs("include", &source.include)?,
            exclude: globs("exclude", &source.exclude)?,
        })
    }

    /// Whether a path relative to the source's root is read.
    pub fn matches(&self, path: &str) -> bool {
        (self.include.is_empty() || self.include.is_match(path)) && !self.exclude.is_match(path)
    }
}

fn globs(field: &'static str, patterns: &[String]) -> Result<GlobSet, DataError> {
    let refuse = |error: globset::Error| DataError::Config {
        field,
        reason: error.to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(refuse)?);
    }
    set.build().map_err(refuse)
}

/// A source whose files are on this machine.
#[derive(Clone, Debug)]
pub struct LocalSource {
    /// What the task says of it.
    pub source: Source,
    /// Directory or single file.
    pub root: PathBuf,
}

impl LocalSource {
    /// The files to read, as (path relative to the root, absolute path), in path order.
    ///
    /// # Errors
    /// `EmptySource`, `Config`, those of the file system.
    pub fn files(&self) -> Result<Vec<(String, PathBuf)>, DataError> {
        let filter = PathFilter::new(&self.source)?;
        let mut files = Vec::new();
        if self.root.is_file() {
            let name = self
                .root
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            files.push((name, self.root.clone()));
        } else {
            for entry in walkdir::WalkDir::new(&self.root).follow_links(false) {
                let entry = entry.map_err(|error| {
                    let path = error.path().unwrap_or(&self.root).to_path_buf();
                    DataError::io(path, error.into())
                })?;
                if entry.file_type().is_file() {
                    let name = relative(&self.root, entry.path());
                    if filter.matches(&name) {
                        files.push((name, entry.into_path()));
                    }
                }
            }
        }
        if files.is_empty() {
            return Err(DataError::EmptySource {
                name: self.source.name.clone(),
            });
        }
        files.sort();
        Ok(files)
    }
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

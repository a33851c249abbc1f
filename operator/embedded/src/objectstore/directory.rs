//! Keys as files below a directory: owns paths, atomic commits and ordered listings, blocking.
//! It must not know HTTP, signatures or XML.
//!
//! A commit writes to `.tmp`, syncs the file, moves it into place and syncs the folders, so a
//! key is seen whole or not at all. Commits and deletions share one lock because deleting the
//! last key of a folder removes the folder that a concurrent commit may just have entered.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key cannot be a path.
    #[error(
        "key '{0}' is not allowed: parts must not be empty, '.' or '..', nor longer than 255 bytes"
    )]
    KeyInvalid(String),
    /// A key that is a folder of other keys, or lies below a key.
    #[error("key '{0}' is the folder of another key, or lies below one; choose another name")]
    KeyConflict(String),
    /// No such key.
    #[error("no key '{0}'")]
    NoSuchKey(String),
    /// No such bucket.
    #[error("no bucket '{0}'; create it first")]
    NoSuchBucket(String),
    /// No such multipart upload, or it names another key.
    #[error("no upload '{0}'")]
    NoSuchUpload(String),
    /// A part is missing, out of order or has another tag.
    #[error("part {0} is missing, out of order or was replaced; upload it again")]
    InvalidPart(i32),
    /// If-Match or If-None-Match did not hold.
    #[error("key '{0}' does not meet the request's condition")]
    PreconditionFailed(String),
    /// No space left.
    #[error("no space left in '{0}'; free some, or move the state directory")]
    NoSpace(PathBuf),
    /// Any other failure of the file system.
    #[error("cannot {what} '{path}': {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StoreError {
    /// The stable word for reasons and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::KeyInvalid(_) => "KeyInvalid",
            Self::KeyConflict(_) => "KeyConflict",
            Self::NoSuchKey(_) => "NoSuchKey",
            Self::NoSuchBucket(_) => "NoSuchBucket",
            Self::NoSuchUpload(_) => "NoSuchUpload",
            Self::InvalidPart(_) => "InvalidPart",
            Self::PreconditionFailed(_) => "PreconditionFailed",
            Self::NoSpace(_) => "NoSpace",
            Self::File { .. } => "FileSystem",
        }
    }

    /// Wraps an error of the file system, singling out a full disk.
    pub(super) fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            Self::NoSpace(path.to_path_buf())
        } else {
            Self::File {
                what,
                path: path.to_path_buf(),
                source,
            }
        }
    }
}

/// What a write asks of the key's present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: replace.
    None,
    /// If-None-Match: *.
    Absent,
    /// If-Match with a tag, or `*` as `None`.
    Present(Option<String>),
}

/// One stored key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Opaque tag; differs for every commit.
    pub tag: String,
    /// Time of the commit.
    pub modified: SystemTime,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Keys in byte order.
    pub entries: Vec<Entry>,
    /// Rolled-up prefixes in byte order.
    pub prefixes: Vec<String>,
    /// Where the next page begins (exclusive); absent on the last page.
    pub next: Option<String>,
}

/// The store over one directory.
pub struct Directory {
    root: PathBuf,
    commit: Mutex<()>,
    counter: AtomicU64,
}

const TEMPORARY: &str = ".tmp";

impl Directory {
    /// Opens or creates the store, and removes what unfinished writes left behind.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let temporary = root.join(TEMPORARY);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|e| StoreError::file("clean", &temporary, e))?;
        }
        fs::create_dir_all(&temporary).map_err(|e| StoreError::file("create", &temporary, e))?;
        Ok(Self {
            root: root.to_path_buf(),
            commit: Mutex::new(()),
            counter: AtomicU64::new(0),
        })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh path for an unfinished write, on the same file system as the keys.
    pub fn temporary(&self) -> PathBuf {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        self.root
            .join(TEMPORARY)
            .join(format!("{}-{n}", std::process::id()))
    }

    /// Creates a bucket; existing ones are left as they are.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        let path = self.root.join(checked(bucket)?);
        fs::create_dir_all(&path).map_err(|e| StoreError::file("create", &path, e))?;
        sync(&self.root)
    }

    /// The bucket's folder.
    ///
    /// # Errors
    /// When there is no such bucket.
    pub fn bucket(&self, bucket: &str) -> Result<PathBuf, StoreError> {
        let path = self.root.join(checked(bucket)?);
        if path.is_dir() {
            Ok(path)
        } else {
            Err(StoreError::NoSuchBucket(bucket.to_owned()))
        }
    }

    /// Names of all buckets, ordered.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn buckets(&self) -> Result<Vec<String>, StoreError> {
        Ok(children(&self.root)?
            .into_iter()
            .filter(|(name, folder)| *folder && !name.starts_with('.'))
            .map(|(name, _)| name)
            .collect())
    }

    fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, StoreError> {
        Ok(self.bucket(bucket)?.join(checked(key)?))
    }

    /// What is known of a key.
    ///
    /// # Errors
    /// `NoSuchKey`, `NoSuchBucket`, or the file system's error.
    pub fn entry(&self, bucket: &str, key: &str) -> Result<Entry, StoreError> {
        let path = self.path(bucket, key)?;
        match fs::metadata(&path) {
            Ok(data) if data.is_file() => Ok(entry(key, &data)),
            Ok(_) => Err(StoreError::NoSuchKey(key.to_owned())),
            Err(e) if absent(&e) => Err(StoreError::NoSuchKey(key.to_owned())),
            Err(e) => Err(StoreError::file("read", &path, e)),
        }
    }

    /// Opens a key; the returned file keeps its bytes even if the key is replaced meanwhile.
    ///
    /// # Errors
    /// As `entry`.
    pub fn open_key(&self, bucket: &str, key: &str) -> Result<(File, Entry), StoreError> {
        let path = self.path(bucket, key)?;
        let file = File::open(&path).map_err(|e| {
            if absent(&e) {
                StoreError::NoSuchKey(key.to_owned())
            } else {
                StoreError::file("open", &path, e)
            }
        })?;
        let data = file
            .metadata()
            .map_err(|e| StoreError::file("read", &path, e))?;
        if data.is_dir() {
            return Err(StoreError::NoSuchKey(key.to_owned()));
        }
        Ok((file, entry(key, &data)))
    }

    /// Moves the finished file `from` (synced by the caller) to `key` if `condition` holds.
    ///
    /// # Errors
    /// `PreconditionFailed` and the file system's; `from` is removed in every case.
    pub fn commit(
        &self,
        from: &Path,
        bucket: &str,
        key: &str,
        condition: &Condition,
    ) -> Result<Entry, StoreError> {
        let result = self.try_commit(from, bucket, key, condition);
        if result.is_err() {
            let _ = fs::remove_file(from);
        }
        result
    }

    fn try_commit(
        &self,
        from: &Path,
        bucket: &str,
        key: &str,
        condition: &Condition,
    ) -> Result<Entry, StoreError> {
        let base = self.bucket(bucket)?;
        let path = self.path(bucket, key)?;
        let guard = self.commit.lock();
        self.check(bucket, key, condition)?;
        let conflict = |e: io::Error, what, at: &Path| match e.kind() {
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists => StoreError::KeyConflict(key.to_owned()),
            _ => StoreError::file(what, at, e),
        };
        if path.is_dir() {
            return Err(StoreError::KeyConflict(key.to_owned()));
        }
        let mut created = Vec::new();
        if let Some(parent) = path.parent() {
            let mut missing = parent;
            while missing != base && !missing.exists() {
                created.push(missing.to_path_buf());
                let Some(above) = missing.parent() else { break };
                missing = above;
            }
            fs::create_dir_all(parent).map_err(|e| conflict(e, "create", parent))?;
        }
        fs::rename(from, &path).map_err(|e| conflict(e, "write", &path))?;
        let data = fs::metadata(&path).map_err(|e| StoreError::file("read", &path, e))?;
        drop(guard);
        for folder in path
            .parent()
            .into_iter()
            .chain(created.iter().filter_map(|c| c.parent()))
        {
            sync(folder)?;
        }
        Ok(entry(key, &data))
    }

    fn check(&self, bucket: &str, key: &str, condition: &Condition) -> Result<(), StoreError> {
        let holds = match (condition, self.entry(bucket, key)) {
            (Condition::None, _) => true,
            (Condition::Absent, Err(StoreError::NoSuchKey(_))) => true,
            (Condition::Absent, Ok(_)) => false,
            (Condition::Present(tag), Ok(found)) => tag.as_ref().is_none_or(|t| *t == found.tag),
            (Condition::Present(_), Err(StoreError::NoSuchKey(_))) => false,
            (_, Err(error)) => return Err(error),
        };
        if holds {
            Ok(())
        } else {
            Err(StoreError::PreconditionFailed(key.to_owned()))
        }
    }

    /// Removes a key and the folders it leaves empty; a missing key is no error.
    ///
    /// # Errors
    /// The file system's.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        let base = self.bucket(bucket)?;
        let path = self.path(bucket, key)?;
        let _guard = self.commit.lock();
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if absent(&e) || e.kind() == io::ErrorKind::IsADirectory => return Ok(()),
            Err(e) => return Err(StoreError::file("delete", &path, e)),
        }
        let mut folder = path.parent();
        while let Some(at) = folder.filter(|at| *at != base) {
            if fs::remove_dir(at).is_err() {
                break;
            }
            folder = at.parent();
        }
        folder.map_or(Ok(()), sync)
    }

    /// Lists keys with `prefix` after `after` in byte order, at most `limit` keys and prefixes.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, StoreError> {
        let base = self.bucket(bucket)?;
        let mut page = Page {
            prefix,
            delimiter,
            after: after.unwrap_or(""),
            limit,
            out: Listing::default(),
            last: String::new(),
        };
        page.walk(&base, "")?;
        Ok(page.out)
    }
}

struct Page<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    after: &'a str,
    limit: usize,
    out: Listing,
    last: String,
}

impl Page<'_> {
    /// Visits `folder` (whose keys begin with `stem`); false once the page is full.
    fn walk(&mut self, folder: &Path, stem: &str) -> Result<bool, StoreError> {
        let mut names: Vec<(String, bool)> = children(folder)?
            .into_iter()
            .map(|(name, is_folder)| {
                (
                    if is_folder {
                        format!("{stem}{name}/")
                    } else {
                        format!("{stem}{name}")
                    },
                    is_folder,
                )
            })
            .collect();
        names.sort();
        for (key, is_folder) in names {
            let relevant =
                key.starts_with(self.prefix) || (is_folder && self.prefix.starts_with(&key));
            let passed = key.as_str() <= self.after && !(is_folder && self.after.starts_with(&key));
            if !relevant || passed {
                continue;
            }
            let name = key
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or_default();
            let path = folder.join(name);
            let going_on = if is_folder {
                self.walk(&path, &key)?
            } else {
                self.visit(&path, &key)?
            };
            if !going_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn visit(&mut self, path: &Path, key: &str) -> Result<bool, StoreError> {
        let rest = key.strip_prefix(self.prefix).unwrap_or(key);
        let group = self.delimiter.filter(|d| !d.is_empty()).and_then(|d| {
            rest.find(d)
                .map(|at| format!("{}{}", self.prefix, &rest[..at + d.len()]))
        });
        if let Some(group) = &group
            && (self.out.prefixes.last() == Some(group) || self.after == group)
        {
            return Ok(true);
        }
        if self.out.entries.len() + self.out.prefixes.len() >= self.limit {
            self.out.next = Some(self.last.clone());
            return Ok(false);
        }
        if let Some(group) = group {
            self.last.clone_from(&group);
            self.out.prefixes.push(group);
            return Ok(true);
        }
        match fs::metadata(path) {
            Ok(data) => {
                self.last = key.to_owned();
                self.out.entries.push(entry(key, &data));
                Ok(true)
            }
            // Deleted since the folder was read.
            Err(e) if absent(&e) => Ok(true),
            Err(e) => Err(StoreError::file("read", path, e)),
        }
    }
}

fn children(folder: &Path) -> Result<Vec<(String, bool)>, StoreError> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(e) if absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::file("list", folder, e)),
    };
    let mut names = Vec::new();
    for child in read {
        let child = child.map_err(|e| StoreError::file("list", folder, e))?;
        let is_folder = child.file_type().is_ok_and(|t| t.is_dir());
        if let Ok(name) = child.file_name().into_string() {
            names.push((name, is_folder));
        }
    }
    names.sort();
    Ok(names)
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn entry(key: &str, data: &fs::Metadata) -> Entry {
    // The inode tells commits apart that fall into one tick of the file system's clock.
    let tag = format!(
        "{:x}-{:x}-{:x}-{:x}",
        data.mtime(),
        data.mtime_nsec(),
        data.ino(),
        data.size()
    );
    Entry {
        key: key.to_owned(),
        size: data.size(),
        tag,
        modified: data.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// Makes the names in a folder survive power loss.
pub(super) fn sync(folder: &Path) -> Result<(), StoreError> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Ok(()) => Ok(()),
        // Removed by a deletion since.
        Err(e) if absent(&e) => Ok(()),
        Err(e) => Err(StoreError::file("sync", folder, e)),
    }
}

fn checked(key: &str) -> Result<&str, StoreError> {
    let fine = key.len() <= 1024
        && !key.contains('\0')
        && key
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255);
    if fine {
        Ok(key)
    } else {
        Err(StoreError::KeyInvalid(key.to_owned()))
    }
}

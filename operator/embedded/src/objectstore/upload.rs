//! Multipart uploads: owns the parts of unfinished objects below `.uploads`.
//! It must not make anything visible before `complete`.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rand::Rng;

use super::directory::{Condition, Directory, Entry, StoreError};

const UPLOADS: &str = ".uploads";
const TARGET: &str = "target";

/// Uploads of one store.
pub struct Uploads {
    directory: Arc<Directory>,
}

impl Uploads {
    /// Uploads beside the keys of `directory`; they survive a restart.
    pub fn new(directory: Arc<Directory>) -> Self {
        Self { directory }
    }

    fn folder(&self, id: &str) -> Result<PathBuf, StoreError> {
        let fine = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        let path = self.directory.root().join(UPLOADS).join(id);
        if fine {
            Ok(path)
        } else {
            Err(StoreError::NoSuchUpload(id.to_owned()))
        }
    }

    /// Begins an upload and returns its id.
    pub fn create(&self, bucket: &str, key: &str) -> Result<String, StoreError> {
        self.directory.bucket(bucket)?;
        let id = hex::encode(rand::rng().random::<[u8; 16]>());
        let folder = self.folder(&id)?;
        fs::create_dir_all(&folder).map_err(|e| StoreError::file("create", &folder, e))?;
        let target = folder.join(TARGET);
        fs::write(&target, format!("{bucket}/{key}"))
            .map_err(|e| StoreError::file("write", &target, e))?;
        Ok(id)
    }

    fn opened(&self, bucket: &str, key: &str, id: &str) -> Result<PathBuf, StoreError> {
        let folder = self.folder(id)?;
        match fs::read_to_string(folder.join(TARGET)) {
            Ok(target) if target == format!("{bucket}/{key}") => Ok(folder),
            _ => Err(StoreError::NoSuchUpload(id.to_owned())),
        }
    }

    /// Keeps the finished file `from` as part `number`; returns the part's tag.
    pub fn part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: i32,
        from: PathBuf,
        tag: &str,
    ) -> Result<(), StoreError> {
        let folder = self.opened(bucket, key, id)?;
        let path = folder.join(part_name(number, tag));
        // A part uploaded again replaces the earlier one of that number.
        let earlier = part_names(&folder)?
            .into_iter()
            .filter(|(n, _)| *n == number);
        let earlier: Vec<_> = earlier.map(|(_, name)| folder.join(name)).collect();
        fs::rename(&from, &path).map_err(|e| StoreError::file("write", &path, e))?;
        for old in earlier.into_iter().filter(|old| *old != path) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Parts so far: number, tag, size.
    pub fn parts(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
    ) -> Result<Vec<(i32, String, u64)>, StoreError> {
        let folder = self.opened(bucket, key, id)?;
        let mut out = Vec::new();
        for (number, name) in part_names(&folder)? {
            let size = fs::metadata(folder.join(&name))
                .map(|d| d.len())
                .unwrap_or_default();
            let tag = name
                .split_once('-')
                .map(|(_, tag)| tag.to_owned())
                .unwrap_or_default();
            out.push((number, tag, size));
        }
        Ok(out)
    }

    /// Joins the named parts in order and commits them as the key.
    pub fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        parts: &[(i32, Option<String>)],
        condition: &Condition,
    ) -> Result<Entry, StoreError> {
        let folder = self.opened(bucket, key, id)?;
        let have = part_names(&folder)?;
        let whole = self.directory.temporary();
        let joined = join(&folder, &have, parts, &whole);
        if let Err(error) = joined {
            let _ = fs::remove_file(&whole);
            return Err(error);
        }
        let entry = self.directory.commit(&whole, bucket, key, condition)?;
        let _ = fs::remove_dir_all(&folder);
        Ok(entry)
    }

    /// Forgets an upload and its parts.
    pub fn abort(&self, bucket: &str, key: &str, id: &str) -> Result<(), StoreError> {
        let folder = self.opened(bucket, key, id)?;
        fs::remove_dir_all(&folder).map_err(|e| StoreError::file("delete", &folder, e))
    }
}

fn join(
    folder: &std::path::Path,
    have: &[(i32, String)],
    parts: &[(i32, Option<String>)],
    whole: &std::path::Path,
) -> Result<(), StoreError> {
    let mut out = File::create(whole).map_err(|e| StoreError::file("create", whole, e))?;
    let mut previous = 0;
    for (number, tag) in parts {
        let name = have
            .iter()
            .find(|(n, name)| {
                n == number
                    && tag
                        .as_ref()
                        .is_none_or(|t| name.ends_with(&format!("-{t}")))
            })
            .map(|(_, name)| name)
            .filter(|_| *number > previous)
            .ok_or(StoreError::InvalidPart(*number))?;
        previous = *number;
        let path = folder.join(name);
        let mut part = File::open(&path).map_err(|e| StoreError::file("open", &path, e))?;
        io::copy(&mut part, &mut out).map_err(|e| StoreError::file("write", whole, e))?;
    }
    if previous == 0 {
        return Err(StoreError::InvalidPart(1));
    }
    out.sync_all()
        .map_err(|e| StoreError::file("sync", whole, e))
}

fn part_name(number: i32, tag: &str) -> String {
    format!("{number:05}-{tag}")
}

fn part_names(folder: &std::path::Path) -> Result<Vec<(i32, String)>, StoreError> {
    let read = fs::read_dir(folder).map_err(|e| StoreError::file("list", folder, e))?;
    let mut names: Vec<(i32, String)> = read
        .filter_map(|child| child.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((name.split_once('-')?.0.parse().ok()?, name)))
        .collect();
    names.sort();
    Ok(names)
}

//! Owns API keys: the files of a mounted Secret and the check of a request against them. It must
//! not log or answer with a key.

use crate::fault::Fault;
use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long keys are used before the files are read again; a rotated Secret counts after that.
const FRESH: Duration = Duration::from_secs(2);

/// The keys that are accepted: every line of every file in a directory.
#[derive(Debug)]
pub struct Keys {
    directory: Option<PathBuf>,
    read: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Keys {
    /// Keys of `directory`; without one no key is accepted.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            read: Mutex::new(None),
        }
    }

    /// Checks the bearer token of a request.
    ///
    /// # Errors
    /// 401 when it is missing or unknown.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim)
            .ok_or_else(Fault::unauthorized)?;
        let mut read = self.read.lock();
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            *read = Some((Instant::now(), self.load()));
        }
        let known = read.iter().flat_map(|(_, keys)| keys);
        // Every key is compared in full, so time tells nothing about how much of one was right.
        let found = known.fold(false, |found, key| {
            equal(key.as_bytes(), given.as_bytes()) | found
        });
        if found {
            Ok(())
        } else {
            Err(Fault::unauthorized())
        }
    }

    /// Reads the files; `..data` and its like are the links of a mounted volume, not keys.
    fn load(&self) -> Vec<String> {
        let Some(directory) = &self.directory else {
            return Vec::new();
        };
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let files = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        let texts = files.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        texts
            .flat_map(|text| {
                text.lines()
                    .map(|line| line.trim().to_owned())
                    .collect::<Vec<_>>()
            })
            .filter(|key| !key.is_empty())
            .collect()
    }
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    let differing = left
        .iter()
        .zip(right)
        .fold(0, |bits, (a, b)| bits | (a ^ b));
    left.len() == right.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_files_open() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("team-a"), "secret-1\nsecret-2\n").unwrap();
        std::fs::write(directory.path().join(".hidden"), "secret-3").unwrap();
        let keys = Keys::new(Some(directory.path().to_owned()));
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            keys.check(&headers).map_err(|fault| fault.status.as_u16())
        };
        assert_eq!(check("Bearer secret-1"), Ok(()));
        assert_eq!(check("Bearer secret-2"), Ok(()));
        for wrong in [
            "Bearer secret-3",
            "Bearer secret-",
            "Bearer ",
            "secret-1",
            "Bearer secret-11",
        ] {
            assert_eq!(check(wrong), Err(401), "{wrong}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert!(Keys::new(None).check(&HeaderMap::new()).is_err());
    }
}

//! Logs of containers: owns the files (one per container run, lines in the CRI format
//! `TIME STREAM F TEXT`) and their reading. It must not run containers.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::log::{LogOptions, LogSource, LogStream};

/// Longest line kept whole, bytes; longer ones are cut into several.
const LINE: u64 = 16 * 1024;

/// Folder of a pod's logs.
pub fn folder(directory: &Path, uid: &str) -> PathBuf {
    directory.join("pods").join(uid).join("logs")
}

/// File of a container's run.
pub fn file(directory: &Path, uid: &str, container: &str, run: i32) -> PathBuf {
    folder(directory, uid).join(format!("{container}.{run}.log"))
}

/// Marks the log as complete, so that followers end.
pub fn finish(path: &Path) {
    let _ = File::create(path.with_extension("done"));
}

/// Copies a stream of lines into a log until it ends.
pub fn copy(from: impl Read, stream: &'static str, to: &Arc<Mutex<File>>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let entry = format!("{} {stream} F {text}\n", SystemClock.now());
        // A full disk costs log lines, not the container.
        let _ = to.lock().write_all(entry.as_bytes());
    }
}

/// The end of a log as a termination message: at most 80 lines and 2 KiB.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut kept: VecDeque<&str> = VecDeque::new();
    let mut size = 0;
    for line in text.lines().rev().take(80) {
        let line = line.splitn(4, ' ').nth(3).unwrap_or_default();
        size += line.len() + 1;
        if size > 2048 {
            break;
        }
        kept.push_front(line);
    }
    Vec::from(kept).join("\n")
}

/// Makes a pod's logs findable by name.
pub fn announce(directory: &Path, namespace: &str, name: &str, uid: &str) {
    let names = directory.join("names");
    let _ = fs::create_dir_all(&names);
    let _ = fs::write(names.join(format!("{namespace}_{name}")), uid);
}

/// Removes what `announce` wrote, unless a newer pod has the name.
pub fn withdraw(directory: &Path, namespace: &str, name: &str, uid: &str) {
    let path = directory.join("names").join(format!("{namespace}_{name}"));
    if fs::read_to_string(&path).is_ok_and(|known| known == uid) {
        let _ = fs::remove_file(path);
    }
}

/// Reads the logs below an agent's directory; works before and without the agent.
#[derive(Clone, Debug)]
pub struct Logs {
    directory: PathBuf,
}

impl Logs {
    /// Logs of the agent whose `Config::directory` this is.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn find(&self, namespace: &str, pod: &str, options: &LogOptions) -> Result<PathBuf, String> {
        let uid = fs::read_to_string(
            self.directory
                .join("names")
                .join(format!("{namespace}_{pod}")),
        )
        .map_err(|_| format!("pod {pod} has not started yet; its logs come once it does"))?;
        let read = fs::read_dir(folder(&self.directory, &uid))
            .map_err(|e| format!("logs of pod {pod}: {e}"))?;
        let mut runs: Vec<(String, i32, PathBuf)> = read
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let stem = path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned();
                let (container, run) = stem.rsplit_once('.')?;
                Some((container.to_owned(), run.parse().ok()?, path))
            })
            .filter(|(container, ..)| {
                options.container.is_empty() || *container == options.container
            })
            .collect();
        runs.sort_by_key(|(_, run, _)| *run);
        let back = usize::from(options.previous) + 1;
        let chosen = runs
            .len()
            .checked_sub(back)
            .and_then(|at| runs.into_iter().nth(at));
        chosen.map(|(.., path)| path).ok_or_else(|| {
            let container = &options.container;
            let which = if options.previous {
                "previous terminated container"
            } else {
                "container"
            };
            format!("{which} \"{container}\" in pod \"{pod}\" not found")
        })
    }
}

impl LogSource for Logs {
    fn open(&self, namespace: &str, pod: &str, options: &LogOptions) -> Result<LogStream, String> {
        let path = self.find(namespace, pod, options)?;
        let mut file = File::open(&path).map_err(|e| format!("log of pod {pod}: {e}"))?;
        if let Some(lines) = options.tail_lines {
            let start =
                start_of_tail(&path, lines).map_err(|e| format!("log of pod {pod}: {e}"))?;
            file.seek(SeekFrom::Start(start))
                .map_err(|e| format!("log of pod {pod}: {e}"))?;
        }
        let since = options.since_seconds.and_then(|seconds| {
            let back = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
            SystemClock.now().saturating_sub(back).ok()
        });
        let reader = Reader {
            lines: BufReader::new(file),
            partial: Vec::new(),
            path,
            since,
            options: options.clone(),
            left: options.limit_bytes.unwrap_or(u64::MAX),
        };
        Ok(Box::pin(futures::stream::unfold(
            reader,
            |mut reader| async move {
                let piece = reader.next().await?;
                Some((Ok(piece), reader))
            },
        )))
    }
}

fn start_of_tail(path: &Path, lines: u64) -> std::io::Result<u64> {
    let mut starts = VecDeque::new();
    let mut at = 0;
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let size = reader.read_until(b'\n', &mut line)?;
        if size == 0 {
            return Ok(starts.front().copied().unwrap_or(at));
        }
        starts.push_back(at);
        at += size as u64;
        if starts.len() as u64 > lines {
            starts.pop_front();
        }
    }
}

struct Reader {
    lines: BufReader<File>,
    partial: Vec<u8>,
    path: PathBuf,
    since: Option<Timestamp>,
    options: LogOptions,
    left: u64,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        while self.left > 0 {
            let done = self.path.with_extension("done").exists() || !self.path.exists();
            let mut out = Vec::new();
            while out.len() < 64 * 1024 {
                if self.lines.read_until(b'\n', &mut self.partial).ok()? == 0
                    || !self.partial.ends_with(b"\n")
                {
                    break;
                }
                let line = std::mem::take(&mut self.partial);
                self.keep(&String::from_utf8_lossy(&line), &mut out);
            }
            if !out.is_empty() {
                out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= out.len() as u64;
                return Some(out.into());
            }
            if done || !self.options.follow {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    fn keep(&self, line: &str, out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, ' ');
        let time = parts.next().unwrap_or_default();
        if self
            .since
            .is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|t| t < since))
        {
            return;
        }
        if self.options.timestamps {
            out.extend(time.as_bytes());
            out.push(b' ');
        }
        out.extend(parts.nth(2).unwrap_or("\n").as_bytes());
    }
}

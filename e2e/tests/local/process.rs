//! The processes of a plane, as /proc shows them: owns finding and killing them. It must not start any.

use std::path::Path;
use std::time::{Duration, Instant};

/// A process that works for a plane.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub words: Vec<String>,
}

impl Process {
    pub fn does(&self, commands: &[&str]) -> bool {
        self.words
            .iter()
            .any(|word| commands.contains(&word.as_str()))
    }

    /// SIGKILL, then gone or somebody's zombie.
    pub fn kill(&self) {
        kill(self.pid);
    }
}

pub fn kill(pid: u32) {
    let _ = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status();
    // The signal is on its way when `kill` returns.
    until(Duration::from_secs(10), || (!alive(pid)).then_some(()));
}

/// Every living process that was started with a path below `directory`.
pub fn of(directory: &Path) -> Vec<Process> {
    let marker = directory.display().to_string();
    let own = std::process::id();
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        // A zombie has no command line; one of a killed plane is its parent's to reap, not work that goes on.
        let command = read("cmdline");
        if pid == own || command.is_empty() {
            continue;
        }
        let (command, environment) = (text(&command), text(&read("environ")));
        if command.contains(&marker) || environment.contains(&marker) {
            let words = command.split('\0').map(str::to_owned).collect();
            all.push(Process { pid, words });
        }
    }
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `found` gives something, at most `patience`.
pub fn until<T>(patience: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return Some(found);
        }
        if started.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process runs; a zombie does not.
pub fn alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

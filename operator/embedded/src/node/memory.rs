//! Memory limits of containers: owns the control groups, where the system lets us make any.
//! It must not fail a pod when it does not: the node's Ready message says so.

use std::path::{Path, PathBuf};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A control group with a memory limit; removed when dropped.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    unified: bool,
}

fn root() -> Option<(PathBuf, bool)> {
    if Path::new(V2).join("cgroup.controllers").exists() {
        let path = Path::new(V2).join("bessemer");
        std::fs::create_dir_all(&path).ok()?;
        std::fs::write(Path::new(V2).join("cgroup.subtree_control"), "+memory").ok()?;
        std::fs::write(path.join("cgroup.subtree_control"), "+memory").ok()?;
        return Some((path, true));
    }
    let path = Path::new(V1).join("bessemer");
    std::fs::create_dir_all(&path).ok()?;
    path.join("memory.limit_in_bytes")
        .exists()
        .then_some((path, false))
}

/// What the node says about memory limits.
pub fn notice() -> &'static str {
    if root().is_some() {
        "agent is ready; memory limits are enforced by control groups"
    } else {
        "agent is ready; memory limits are not enforced: no control group can be made here"
    }
}

/// Memory of the machine in KiB.
pub fn machine_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

impl Group {
    /// A group of `bytes` named `name`, if the system allows it.
    pub fn new(name: &str, bytes: u64) -> Option<Self> {
        let (root, unified) = root()?;
        let path = root.join(name);
        std::fs::create_dir_all(&path).ok()?;
        let group = Self { path, unified };
        let file = if unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        std::fs::write(group.path.join(file), bytes.to_string()).ok()?;
        Some(group)
    }

    /// Puts a process into the group.
    pub fn add(&self, pid: u32) -> std::io::Result<()> {
        std::fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Whether the kernel killed a process of the group for its memory.
    pub fn out_of_memory(&self) -> bool {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = std::fs::read_to_string(self.path.join(file)).unwrap_or_default();
        text.lines()
            .filter_map(|l| l.strip_prefix("oom_kill "))
            .any(|n| n.trim() != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Bytes of a Kubernetes quantity such as `512Mi`, `1G` or `1e9`.
pub fn bytes(quantity: &str) -> Option<u64> {
    let split = quantity
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let factor: f64 = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "m" => 1e-3,
        _ => return quantity.parse::<f64>().ok().map(|n| n as u64),
    };
    number.parse::<f64>().ok().map(|n| (n * factor) as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("512Mi", 536_870_912),
            ("1G", 1_000_000_000),
            ("1.5Gi", 1_610_612_736),
            ("100", 100),
            ("1e9", 1_000_000_000),
        ] {
            assert_eq!(super::bytes(text), Some(expected), "{text}");
        }
        assert_eq!(super::bytes("much"), None);
    }
}

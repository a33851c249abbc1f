//! A disk that is full, at whatever moment of a run: small file systems of several sizes as the working directory.

use std::path::Path;
use std::process::Command;

use crate::run::{Chain, Made, Run, sources};
use crate::store::Store;

/// A file system in memory that ends with this value.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(place: &'a Path, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(place)
            .output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(place));
        }
        println!("skipped: no small file system can be mounted here: {mounted:?}");
        assert!(std::env::var_os("CI").is_none(), "CI is root");
        None
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_committed() {
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    let chain = Chain::new(&store, root.path(), "team");
    // Ends at ever later moments, until there is room enough.
    let cramped = |run: &Run| -> Option<Made> {
        let mut ends = 0;
        for kib in [4, 16, 48, 96, 192, 384, 768, 1536] {
            let disk = Small::mount(&run.work, kib)?;
            let ended = run.start(&[]).wait();
            drop(disk);
            if ended.code == Some(0) {
                break;
            }
            assert_eq!(ended.code, Some(78), "{kib} KiB: {ended:?}");
            let said = ended.said();
            assert!(
                said.starts_with("DiskFull") && said.contains("no space left"),
                "{kib} KiB: {said}"
            );
            assert!(chain.made(run).is_none(), "{kib} KiB: something was made");
            ends += 1;
        }
        assert!(ends > 1, "{} met a full disk {ends} times", run.name);
        run.move_on();
        Some(chain.finish(run))
    };
    let Some(docs) = cramped(&chain.docs()) else {
        return;
    };
    let pairs = cramped(&chain.pairs()).unwrap();
    let base = cramped(&chain.base(&docs)).unwrap();
    let chat = cramped(&chain.chat(&base, &pairs)).unwrap();
    cramped(&chain.eval(&chat, &base, &docs, &pairs)).unwrap();
}

//! A machine that lacks something: said in one sentence, with exit code 78, before anything is half begun.

use std::net::TcpListener;
use std::process::{Command, Output};

use bessemer_protocol::Termination;

use crate::plane::{Plane, binaries, text};
use crate::source::Source;

fn refused(output: &Output, sentence: &str) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(sentence), "{said}");
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_port_in_use_is_named() {
    let plane = Plane::new(&Source::new());
    for purpose in ["objects", "api", "progress"] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let file = plane.directory().join(format!("port.{purpose}"));
        std::fs::write(&file, port.to_string()).unwrap();
        let sentence = format!(
            "port {port} on 127.0.0.1 is in use; stop what uses it, or remove {}",
            file.display()
        );
        refused(&plane.run(&["up"]), &sentence);
        assert!(plane.processes().is_empty());
        std::fs::remove_file(&file).unwrap();
    }
    plane.ok(&["up"]);
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn too_little_disk_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(directory.path())
        .output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no small file system can be mounted here: {mounted:?}");
        return;
    }
    let output = Command::new(binaries().join("bessemer"))
        .args(["local", "--dir"])
        .arg(directory.path())
        .arg("up")
        .output();
    let unmounted = Command::new("umount").arg(directory.path()).status();
    refused(
        &output.unwrap(),
        "MB free, 500 MB are needed; free some or give another --dir",
    );
    assert!(unmounted.unwrap().success());
}

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_missing_libtorch_is_said_by_up_and_by_the_worker() {
    let plane = Plane::new(&Source::new());
    let mut up = plane.command(&["up"]);
    refused(
        &up.env_remove("LD_LIBRARY_PATH").output().unwrap(),
        "libtorch",
    );

    let log = plane.directory().join("termination");
    let worker = Command::new(binaries().join("bessemer-worker"))
        .args(["train", "--config", "/nowhere.json"])
        .env_remove("LD_LIBRARY_PATH")
        .env("BESSEMER_TERMINATION_LOG", &log)
        .output()
        .unwrap();
    refused(&worker, "the worker needs libtorch");
    let end = Termination::parse(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(end.category, "LibraryMissing");
    assert!(end.hint.contains("make setup"), "{}", end.hint);
}

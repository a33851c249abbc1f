//! Broken sources: each ends in a sentence that names the file, and nothing half-written stays.

use std::io::Write;
use std::path::{Path, PathBuf};

use bessemer_protocol::task::Purpose;
use flate2::{Compression, write::GzEncoder};

use super::*;

/// The error of a preparation over one broken directory.
fn refused(from: &Path) -> DataError {
    let work = tempfile::tempdir().unwrap();
    let error = prepare(
        &task(Purpose::Pretraining),
        &[local(from)],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap_err();
    assert_eq!(
        std::fs::read_dir(work.path()).unwrap().count(),
        0,
        "nothing stays after {error}"
    );
    error
}

#[test]
fn an_empty_source_is_named() {
    let from = tempfile::tempdir().unwrap();
    assert!(
        refused(from.path())
            .to_string()
            .contains("source a has no file")
    );
    std::fs::write(from.path().join("empty.txt"), "").unwrap();
    let error = refused(from.path());
    assert_eq!(error.category(), "NothingLeft");
    assert!(error.to_string().contains("1 tooShort"), "{error}");
}

#[test]
fn binary_junk_and_invalid_utf8_are_named_with_their_place() {
    let from = corpus();
    std::fs::write(from.path().join("junk.txt"), [b'a', 0, 1]).unwrap();
    let error = refused(from.path()).to_string();
    assert!(
        error.contains("junk.txt") && error.contains("NUL byte at offset 1"),
        "{error}"
    );
    std::fs::write(from.path().join("junk.txt"), [b'a', b'b', 0xff]).unwrap();
    let error = refused(from.path()).to_string();
    assert!(
        error.contains("junk.txt") && error.contains("invalid UTF-8 at byte 2"),
        "{error}"
    );
}

#[test]
fn a_truncated_archive_is_named() {
    let from = corpus();
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all("some text ".repeat(9999).as_bytes()).unwrap();
    let whole = out.finish().unwrap();
    std::fs::write(from.path().join("x.txt.gz"), &whole[..whole.len() / 2]).unwrap();
    let error = refused(from.path());
    assert_eq!(error.category(), "DamagedArchive");
    assert!(error.to_string().contains("x.txt.gz"));
    // The same for lines, and for an archive of other bytes.
    std::fs::rename(from.path().join("x.txt.gz"), from.path().join("x.jsonl.gz")).unwrap();
    assert!(matches!(
        refused(from.path()),
        DataError::Compressed { .. } | DataError::Record { .. }
    ));
    std::fs::write(from.path().join("x.jsonl.gz"), b"not gzip").unwrap();
    assert_eq!(refused(from.path()).category(), "DamagedArchive");
}

/// 200 MB without a line break; of a format with records that is one, with a good one `around` it on either side.
fn long_line(into: &Path, name: &str, around: bool) {
    let file = std::fs::File::create(into.join(name)).unwrap();
    let mut out: Box<dyn Write> = if name.ends_with(".gz") {
        Box::new(GzEncoder::new(file, Compression::fast()))
    } else {
        Box::new(std::io::BufWriter::new(file))
    };
    let records = name.contains(".jsonl");
    if records && around {
        out.write_all(b"{\"text\":\"before it\"}\n").unwrap();
    }
    if records {
        out.write_all(b"{\"text\":\"").unwrap();
    }
    for _ in 0..200 {
        out.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    if records {
        out.write_all(b"\"}\n").unwrap();
    }
    if records && around {
        out.write_all(b"{\"text\":\"behind it\"}\n").unwrap();
    }
    out.flush().unwrap();
}

const LONG: [&str; 4] = ["big.txt", "big.txt.gz", "big.jsonl", "big.jsonl.gz"];

#[test]
fn a_source_that_is_one_line_of_200_mb_is_refused() {
    for name in LONG {
        let from = tempfile::tempdir().unwrap();
        long_line(from.path(), name, false);
        let error = refused(from.path());
        assert_eq!(error.category(), "NothingLeft", "{name}: {error}");
        assert!(error.to_string().contains("1 tooLong"), "{name}: {error}");
    }
}

#[test]
fn a_line_of_200_mb_among_others_is_counted_and_passed_over() {
    for name in LONG {
        let (from, work) = (corpus(), tempfile::tempdir().unwrap());
        long_line(from.path(), name, true);
        let statistics = prepare(
            &task(Purpose::Pretraining),
            &[local(from.path())],
            None,
            work.path(),
            &mut Go,
        )
        .unwrap()
        .statistics;
        let counted = (statistics.documents, statistics.removed["tooLong"]);
        let kept = if name.contains(".jsonl") { 202 } else { 200 };
        assert_eq!(counted, (kept, 1), "{name}");
    }
}

/// In a process of its own, since the largest size is that of a whole process.
#[test]
fn a_line_of_200_mb_needs_no_memory_of_its_size() {
    const OWN: &str = "tests::broken::a_line_of_200_mb_among_others_is_counted_and_passed_over";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", OWN])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_memory(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(status.success());
    assert!((10 << 20..150 << 20).contains(&peak), "{peak} bytes");
}

/// Largest resident size of a process so far, in bytes; nothing when it has ended.
fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// Removes a file when the files are known and the first is about to be read.
struct Removing(PathBuf);

impl Control for Removing {
    fn progress(&mut self, stage: PrepareStage, done: u64, _: u64) {
        if stage == PrepareStage::Reading && done == 0 {
            std::fs::remove_file(self.0.join("150.txt")).unwrap();
        }
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_file_removed_during_reading_is_named() {
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    let mut control = Removing(from.path().into());
    let error = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut control,
    )
    .unwrap_err();
    assert_eq!(error.category(), "SourceVanished");
    assert!(error.to_string().contains("150.txt"));
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_said_plainly() {
    // /dev/full refuses every write with ENOSPC, as a full disk does.
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink("/dev/full", work.path().join("train.spool")).unwrap();
    let error = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap_err();
    assert_eq!(error.category(), "DiskFull");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(!work.path().join("dataset").exists() && !work.path().join("building").exists());
}

#[test]
fn records_that_are_none_are_named_with_their_line() {
    let from = tempfile::tempdir().unwrap();
    let work = tempfile::tempdir().unwrap();
    let mut task = task(Purpose::Instruction);
    task.tokenizer = None;
    for (line, reason) in [
        ("{\"prompt\":\"a\"}", "is no conversation"),
        (
            "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
            "is no conversation",
        ),
        ("[1]", "is no JSON object"),
        ("{\"prompt\":", "is no JSON object"),
    ] {
        std::fs::write(
            from.path().join("r.jsonl"),
            format!("{{\"prompt\":\"a\",\"response\":\"b\"}}\n{line}\n"),
        )
        .unwrap();
        let error = prepare(&task, &[local(from.path())], None, work.path(), &mut Go)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("r.jsonl line 2") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn a_flipped_byte_in_a_shard_or_tokenizer_is_named() {
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    let prepared = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap();
    let shard = prepared.directory.join("train-00000.bin");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    let error = TokenStream::open(&prepared.directory, Split::Train)
        .unwrap_err()
        .to_string();
    assert!(error.contains("train-00000.bin is damaged"), "{error}");
    std::fs::write(&shard, &bytes[..50]).unwrap();
    assert!(
        TokenStream::open(&prepared.directory, Split::Train)
            .unwrap_err()
            .to_string()
            .contains("50 bytes")
    );
    let file = prepared.directory.join("tokenizer.json");
    std::fs::write(&file, "{\"version\"").unwrap();
    let mut again = task(Purpose::Pretraining);
    again.tokenizer = Some(TokenizerSource::Input);
    let other = tempfile::tempdir().unwrap();
    let error = prepare(
        &again,
        &[local(from.path())],
        Some(&file),
        other.path(),
        &mut Go,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("tokenizer.json is damaged"), "{error}");
}

#[test]
fn a_vocabulary_without_room_for_the_bytes_is_refused() {
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    let mut small = task(Purpose::Pretraining);
    small.tokenizer = Some(TokenizerSource::TrainBpe {
        vocabulary_size: 100,
        special_tokens: vec![],
    });
    let error = prepare(&small, &[local(from.path())], None, work.path(), &mut Go)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at least 260"), "{error}");
}

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

#[test]
fn a_line_of_200_mb_is_passed_over_with_bounded_memory() {
    let from = corpus();
    let mut out =
        std::io::BufWriter::new(std::fs::File::create(from.path().join("big.jsonl")).unwrap());
    out.write_all(b"{\"text\":\"before it\"}\n{\"text\":\"")
        .unwrap();
    for _ in 0..200 {
        out.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    out.write_all(b"\"}\n{\"text\":\"behind it\"}\n").unwrap();
    out.flush().unwrap();
    let work = tempfile::tempdir().unwrap();
    let before = peak_memory();
    let statistics = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap()
    .statistics;
    assert_eq!(
        (statistics.documents, statistics.removed["tooLong"]),
        (202, 1)
    );
    // Other tests of this process run at the same time, so the bound is loose; the line alone would break it.
    assert!(
        peak_memory() - before < 190 << 20,
        "{} bytes",
        peak_memory() - before
    );
}

/// Largest resident size of this process so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
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

//! Whole preparations over small and broken sources, and the loader over their shards.

use std::collections::BTreeMap;
use std::path::Path;

use bessemer_protocol::task::{
    Clean, Format, Language, LicensePolicy, PrepareTask, Purpose, Repetition, Source,
    Split as SplitTask, TokenizerSource, Unicode,
};
use flate2::{Compression, write::GzEncoder};

use crate::*;

mod broken;
mod loader;
mod provenance;

/// A control that never stops.
pub(crate) struct Go;

impl Control for Go {
    fn progress(&mut self, _: PrepareStage, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

pub(crate) fn task(purpose: Purpose) -> PrepareTask {
    PrepareTask {
        purpose,
        sources: vec![],
        clean: Clean {
            unicode: Unicode::Nfc,
            min_characters: 5,
            max_characters: 1_000_000,
            language: None,
            repetition: None,
        },
        exact_deduplication: true,
        licenses: LicensePolicy::default(),
        tokenizer: Some(TokenizerSource::TrainBpe {
            vocabulary_size: 300,
            special_tokens: vec![],
        }),
        split: SplitTask {
            validation: 0.1,
            seed: 0,
        },
    }
}

pub(crate) fn local(root: &Path) -> LocalSource {
    let source = Source {
        name: "a".into(),
        uri: format!("file://{}", root.display()),
        endpoint: None,
        include: vec![],
        exclude: vec![],
        format: Format::Auto,
        text_field: None,
        license: None,
        consent: None,
        subject_field: None,
        own_keys: false,
        weight: 1.0,
    };
    LocalSource {
        source,
        root: root.into(),
    }
}

/// A directory with 200 different documents.
pub(crate) fn corpus() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for i in 0..200u64 {
        let words: Vec<String> = (0..20 + i % 30)
            .map(|w| format!("w{}", (w * 7919 + i * 104_729) % 997))
            .collect();
        std::fs::write(
            directory.path().join(format!("{i:03}.txt")),
            words.join(" "),
        )
        .unwrap();
    }
    directory
}

/// All files of a directory with their bytes.
pub(crate) fn bytes(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn shards_hold_every_document_and_decode_to_the_text() {
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    let prepared = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap();
    let statistics = &prepared.statistics;
    assert_eq!(
        (statistics.documents, statistics.vocabulary_size),
        (200, Some(300))
    );
    let tokenizer =
        tokenizers::Tokenizer::from_file(prepared.directory.join("tokenizer.json")).unwrap();
    let mut texts: Vec<String> = Vec::new();
    for split in [Split::Train, Split::Validation] {
        let stream = TokenStream::open(&prepared.directory, split).unwrap();
        let mut ids = Vec::new();
        stream.read(0, usize::MAX >> 1, &mut ids);
        assert_eq!(ids.len() as u64, stream.len());
        for document in ids.split(|id| *id == 0).filter(|ids| !ids.is_empty()) {
            let document: Vec<u32> = document.iter().map(|id| *id as u32).collect();
            texts.push(tokenizer.decode(&document, false).unwrap());
        }
    }
    texts.sort();
    let mut expected: Vec<String> = bytes(from.path())
        .into_values()
        .map(|text| String::from_utf8(text).unwrap())
        .collect();
    expected.sort();
    assert_eq!(texts, expected);
    assert_eq!(tokenizer.token_to_id("<|assistant|>"), Some(2));
}

#[test]
fn the_same_sources_give_the_same_bytes_and_added_ones_leave_the_split_alone() {
    let from = corpus();
    let run = || {
        let work = tempfile::tempdir().unwrap();
        let prepared = prepare(
            &task(Purpose::Pretraining),
            &[local(from.path())],
            None,
            work.path(),
            &mut Go,
        )
        .unwrap();
        (bytes(&prepared.directory), prepared.statistics)
    };
    let first = run();
    assert_eq!(first, run());
    let held_out = |files: &BTreeMap<String, Vec<u8>>| -> std::collections::BTreeSet<String> {
        String::from_utf8(files["validation.jsonl"].clone())
            .unwrap()
            .lines()
            .map(str::to_string)
            .collect()
    };
    let before = held_out(&first.0);
    assert!(before.len() > 5 && before.len() < 40, "{}", before.len());
    std::fs::write(
        from.path().join("000a.txt"),
        "a new document with new words",
    )
    .unwrap();
    assert!(held_out(&run().0).is_superset(&before));
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_one_would_take() {
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    std::fs::create_dir(work.path().join("building")).unwrap();
    std::fs::write(work.path().join("building/train-00007.bin"), b"half").unwrap();
    std::fs::write(work.path().join("train.spool"), b"half").unwrap();
    let prepared = prepare(
        &task(Purpose::Pretraining),
        &[local(from.path())],
        None,
        work.path(),
        &mut Go,
    )
    .unwrap();
    assert!(!bytes(&prepared.directory).contains_key("train-00007.bin"));
    assert_eq!(
        std::fs::read_dir(work.path()).unwrap().count(),
        1,
        "only the dataset stays"
    );
}

#[test]
fn reasons_are_counted() {
    let from = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(from.path().join(name), text).unwrap();
    for i in 0..30 {
        write(
            &format!("keep{i}.txt"),
            &format!("document number {i} about {}", i * 31),
        );
    }
    write("z-again.txt", "Document  number 7 about\n217");
    write("short.txt", "abc");
    write("loop.md", &"so good ".repeat(50));
    write(
        "page.html",
        "<html><head><title>x</title></head><body><p>A page of its own</p></body></html>",
    );
    write(
        "many.jsonl",
        "{\"text\":\"licensed text here\",\"license\":\"GPL-3.0-only\"}\n\n{\"text\":\"\"}\n{\"text\":\"free text over here\",\"license\":\"MIT\"}\n",
    );
    let mut task = task(Purpose::Pretraining);
    task.clean.repetition = Some(Repetition::Gopher);
    task.licenses.deny = vec!["GPL-3.0-only".into()];
    let work = tempfile::tempdir().unwrap();
    let statistics = prepare(&task, &[local(from.path())], None, work.path(), &mut Go)
        .unwrap()
        .statistics;
    let expected = [
        ("duplicate", 1),
        ("licenseDenied", 1),
        ("repeatedTopNgram", 1),
        ("tooShort", 1),
    ];
    assert_eq!(
        statistics.removed,
        expected.iter().map(|(k, v)| (k.to_string(), *v)).collect()
    );
    assert_eq!((statistics.documents, statistics.duplicates), (32, 1));
    assert_eq!(statistics.licenses["MIT"], 1);
}

#[test]
fn records_stay_records_and_compressed_ones_are_read() {
    let from = tempfile::tempdir().unwrap();
    let mut out = GzEncoder::new(
        std::fs::File::create(from.path().join("r.jsonl.gz")).unwrap(),
        Compression::fast(),
    );
    for i in 0..50 {
        use std::io::Write;
        writeln!(
            out,
            "{{\"response\":\"answer {i}\",\"prompt\":\"question {i}\",\"id\":{i}}}"
        )
        .unwrap();
    }
    out.finish().unwrap();
    let mut task = task(Purpose::Instruction);
    task.tokenizer = None;
    let work = tempfile::tempdir().unwrap();
    let prepared = prepare(&task, &[local(from.path())], None, work.path(), &mut Go).unwrap();
    let files = bytes(&prepared.directory);
    let lines = |name: &str| {
        String::from_utf8(files[name].clone())
            .unwrap()
            .lines()
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    let (train, validation) = (lines("train.jsonl"), lines("validation.jsonl"));
    assert_eq!(train.len() + validation.len(), 50);
    assert!(!validation.is_empty());
    let record: serde_json::Value = serde_json::from_str(&train[0]).unwrap();
    assert!(
        record["prompt"].is_string() && record["response"].is_string() && record["id"].is_u64()
    );
}

#[test]
fn the_tokens_of_records_are_those_of_their_texts() {
    let from = tempfile::tempdir().unwrap();
    let lines = [
        serde_json::json!({"prompt": "one two", "response": "three", "license": "MIT", "source": "four"}),
        serde_json::json!({"messages": [{"role": "user", "content": "five"}, {"role": "assistant", "content": "six"}]}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(from.path().join("r.jsonl"), text).unwrap();
    let work = tempfile::tempdir().unwrap();
    let mut task = task(Purpose::Instruction);
    let tokens = |task: &PrepareTask| {
        let made = prepare(task, &[local(from.path())], None, work.path(), &mut Go).unwrap();
        (made.statistics, made.directory)
    };
    let (made, directory) = tokens(&task);
    let file = directory.join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
    let count = |texts: &[&str]| -> u64 {
        let ids = texts.iter().map(|text| tokenizer.encode(*text, false));
        ids.map(|ids| ids.unwrap().len() as u64).sum()
    };
    let both = [count(&["one two", "three"]), count(&["five", "six"])];
    assert_eq!(made.tokens, both.iter().sum::<u64>());
    assert!(
        both.contains(&made.validation_tokens),
        "one of the two is held out: {made:?}"
    );
    task.tokenizer = None;
    let bare = tokens(&task).0;
    assert_eq!((bare.tokens, bare.vocabulary_size), (0, None));
    assert!(made.vocabulary_size.is_some());
}

#[test]
fn weights_repeat_and_thin() {
    let from = corpus();
    let tokens = |weight: f64| {
        let mut source = local(from.path());
        source.source.weight = weight;
        let work = tempfile::tempdir().unwrap();
        let statistics = prepare(
            &task(Purpose::Pretraining),
            &[source],
            None,
            work.path(),
            &mut Go,
        )
        .unwrap()
        .statistics;
        (
            statistics.documents,
            statistics
                .removed
                .get("thinned")
                .copied()
                .unwrap_or_default(),
        )
    };
    let (once, _) = tokens(1.0);
    let (twice, _) = tokens(2.0);
    let (half, thinned) = tokens(0.5);
    assert!(
        twice > once * 17 / 10 && twice < once * 2,
        "held-out documents are not repeated"
    );
    assert_eq!(half + thinned, once);
    assert!(half > once / 3 && half < once * 2 / 3);
}

//! Consent and subjects of documents, the division of few documents, and what threads must not change.

use serde_json::{Value, json};

use super::*;

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn write(path: &Path, records: &[Value]) {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(path, text).unwrap();
}

fn run(task: &PrepareTask, sources: &[LocalSource], work: &Path) -> Prepared {
    prepare(task, sources, None, work, &mut Go).unwrap()
}

fn records(root: &Path, name: &str, subject_field: Option<&str>) -> LocalSource {
    let mut source = local(root);
    source.source.name = name.into();
    source.source.format = Format::Jsonl;
    source.source.subject_field = subject_field.map(str::to_owned);
    source
}

#[test]
fn every_document_of_a_subject_is_found_by_its_hash_and_the_key_itself_is_nowhere() {
    let (from, other, work) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let mut all: Vec<Value> = (0..40)
        .map(|i| json!({"prompt": format!("question {i}"), "response": "answer", "mail": format!("user{}@example.org", i % 4)}))
        .collect();
    all.push(json!({"prompt": "who", "response": "nobody"}));
    all.push(json!({"prompt": "who", "response": "blank", "mail": " "}));
    // Equal to the first record, but of another subject.
    all.push(json!({"prompt": "question 0", "response": "answer", "mail": 17}));
    write(&from.path().join("a.jsonl"), &all);
    write(
        &other.path().join("b.jsonl"),
        &[json!({"prompt": "plain", "response": "text"})],
    );
    let mut first = records(from.path(), "mails", Some("mail"));
    first.source.consent = Some("contract".into());
    let mut task = task(Purpose::Instruction);
    task.tokenizer = None;
    let made = run(
        &task,
        &[first, records(other.path(), "plain", None)],
        work.path(),
    );
    assert_eq!(made.statistics.removed["noSubject"], 2);
    assert_eq!(made.statistics.duplicates, 1);
    assert_eq!(
        made.statistics.consents,
        BTreeMap::from([("contract".to_owned(), 40)])
    );
    for (_, bytes) in bytes(&made.directory) {
        assert!(!String::from_utf8(bytes).unwrap().contains("example.org"));
    }
    let index = lines(&made.directory.join("provenance.jsonl"));
    assert_eq!(
        index.len(),
        41,
        "the plain source has neither consent nor subjects"
    );
    let texts = |entry: &Value| {
        let file = format!("{}.jsonl", entry["split"].as_str().unwrap());
        lines(&made.directory.join(file))[entry["document"].as_u64().unwrap() as usize].clone()
    };
    let of = |key: &str| {
        let hash = Subject::of(key).hex();
        let found = index
            .iter()
            .filter(move |entry| entry["subject"] == json!(hash));
        let mut found: Vec<String> = found
            .map(|entry| texts(entry)["prompt"].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        found
    };
    let mut expected: Vec<String> = (0..10).map(|i| format!("question {}", i * 4 + 1)).collect();
    expected.sort();
    assert_eq!(of("user1@example.org"), expected);
    assert_eq!(
        of("17"),
        ["question 0"],
        "the duplicate's subject points to the document that stayed"
    );
    assert!(
        index
            .iter()
            .all(|entry| entry["consent"] == "contract" && entry["source"] == "mails")
    );
}

#[test]
fn other_languages_are_removed_and_counted() {
    let (from, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let english = "The committee will meet on Thursday to talk about the new bridge and the money that it needs";
    let german = "Der Ausschuss wird am Donnerstag über die neue Brücke und das nötige Geld sprechen, sagte der Bürgermeister";
    for i in 0..12 {
        let text = if i % 3 == 0 { german } else { english };
        std::fs::write(
            from.path().join(format!("{i}.txt")),
            format!("{text}, part {i}."),
        )
        .unwrap();
    }
    let mut task = task(Purpose::Pretraining);
    task.clean.language = Some(Language {
        code: "eng".into(),
        min_score: 0.5,
    });
    let made = run(&task, &[local(from.path())], work.path());
    assert_eq!(
        (
            made.statistics.documents,
            made.statistics.removed["language"]
        ),
        (8, 4)
    );
    task.clean.language = Some(Language {
        code: "xyz".into(),
        min_score: 0.5,
    });
    let error = prepare(&task, &[local(from.path())], None, work.path(), &mut Go).unwrap_err();
    assert_eq!(error.category(), "BadConfig");
}

/// Whatever chance decides, two documents give one each; a single one is trained on.
#[test]
fn few_documents_leave_no_split_empty() {
    for documents in [1usize, 2, 3, 5] {
        for (share, seed) in (0..24).map(|seed| ([0.01, 0.5][seed as usize % 2], seed)) {
            let (from, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let all: Vec<Value> = (0..documents)
                .map(
                    |i| json!({"prompt": format!("p{i}"), "response": "r", "who": format!("s{i}")}),
                )
                .collect();
            write(&from.path().join("a.jsonl"), &all);
            let mut source = records(from.path(), "a", Some("who"));
            source.source.weight = 2.0;
            let mut task = task(Purpose::Instruction);
            task.tokenizer = None;
            task.split.validation = share;
            task.split.seed = seed;
            let made = run(&task, &[source.clone()], work.path());
            let (train, validation) = (
                lines(&made.directory.join("train.jsonl")),
                lines(&made.directory.join("validation.jsonl")),
            );
            let at = format!("{documents} documents, share {share}, seed {seed}");
            assert!(!train.is_empty(), "{at}");
            assert_eq!(validation.is_empty(), documents == 1, "{at}");
            assert_eq!(train.len() + 2 * validation.len(), 2 * documents, "{at}");
            for entry in lines(&made.directory.join("provenance.jsonl")) {
                let split = if entry["split"] == "train" {
                    &train
                } else {
                    &validation
                };
                let first = entry["document"].as_u64().unwrap() as usize;
                for copy in 0..entry["copies"].as_u64().unwrap() as usize {
                    let text = split[first + copy]["prompt"].as_str().unwrap();
                    let subject = Subject::of(&text.replace('p', "s")).hex();
                    assert_eq!(entry["subject"], json!(subject), "{at}");
                }
            }
            let again = tempfile::tempdir().unwrap();
            assert_eq!(
                bytes(&run(&task, &[source], again.path()).directory),
                bytes(&made.directory)
            );
        }
    }
    let (from, work) = (corpus(), tempfile::tempdir().unwrap());
    let mut task = task(Purpose::Pretraining);
    task.split.validation = 0.0;
    let made = run(&task, &[local(from.path())], work.path());
    assert_eq!(
        made.statistics.validation_tokens, 0,
        "none is held out unasked"
    );
}

#[test]
fn threads_do_not_change_a_byte() {
    let from = corpus();
    let mails: Vec<Value> = (0..9000)
        .map(|i| json!({"text": format!("mail number {} about subject {}", i % 8000, i % 37), "from": i % 11}))
        .collect();
    write(&from.path().join("mails.jsonl"), &mails);
    let sources = [
        local(from.path()),
        records(&from.path().join("mails.jsonl"), "mails", Some("from")),
    ];
    let results: Vec<_> = [1, 2, 5]
        .map(|threads| {
            let work = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let made = pool.install(|| run(&task(Purpose::Pretraining), &sources, work.path()));
            (bytes(&made.directory), made.statistics)
        })
        .into_iter()
        .collect();
    assert!(results[0].1.duplicates > 1000);
    assert!(results.iter().all(|result| *result == results[0]));
}

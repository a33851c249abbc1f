//! What a person sees who watches a whole run with `kubectl get -w`: every column filled, percent never falling, Ready
//! never taken back.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use crate::plane::Plane;
use crate::process::until;
use crate::source::Source;

/// A row by its columns' names.
pub type Row = BTreeMap<String, String>;

const KINDS: [(&str, &[&str]); 5] = [
    ("datasets", &["docs", "pairs"]),
    ("pretrainjobs", &["base"]),
    ("finetunes", &["tuned"]),
    ("evaluations", &["scores"]),
    ("deployments.bessemer.dev", &["chat"]),
];

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn a_watched_run_has_no_blank_column_no_falling_percent_and_no_flapping_ready() {
    // Progress is told every 10 s: a model must take longer than that to show any.
    let manifests = include_str!("chain.yaml")
        .replace(
            "steps: 20, batchTokens: 512, learningRate: 0.003, warmupSteps: 2",
            "steps: 6000, batchTokens: 512",
        )
        .replace("everySteps: 5}", "everySteps: 1000}");
    let source = Source::with(&manifests);
    let plane = Plane::started(&source);
    let watched: Vec<_> = KINDS
        .iter()
        .map(|(kind, names)| {
            let file = plane.directory().join(format!("watch.{kind}"));
            let output = std::fs::File::create(&file).unwrap();
            let child = plane
                .kubectl(&["get", kind, "--watch"])
                .stdout(output)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            (*kind, *names, file, child)
        })
        .collect();
    plane.apply();
    for (kind, names, file, mut child) in watched {
        let ready = |row: &Row| row["READY"] == "True" && row["PROGRESS"] == "100%";
        let recorded = until(Duration::from_secs(30), || {
            let rows = rows(&std::fs::read_to_string(&file).unwrap()).ok()?;
            let done = names.iter().all(|name| {
                let last = rows.iter().rfind(|row| row["NAME"] == *name);
                last.is_some_and(ready)
            });
            done.then_some(rows)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        println!("kubectl get {kind} -w\n{text}");
        if let Err(blank) = rows(&text) {
            panic!("{kind}: {blank}\n{text}");
        }
        let recorded = recorded.unwrap_or_else(|| panic!("{kind} did not end ready:\n{text}"));
        for name in names {
            let own: Vec<&Row> = recorded.iter().filter(|row| row["NAME"] == *name).collect();
            assert!(
                own.len() > 2,
                "{kind}/{name}: too few rows to judge\n{text}"
            );
            let midway = |row: &&&Row| (1..100).contains(&percent(row)) && row["LOSS"] != "-";
            if kind == "pretrainjobs" {
                let seen = own.iter().filter(midway).count();
                assert!(seen > 0, "{kind}/{name}: no progress was seen\n{text}");
            }
            for pair in own.windows(2) {
                let fell = percent(pair[1]) < percent(pair[0]);
                assert!(!fell, "{kind}/{name}: percent fell\n{text}");
                let taken_back = pair[0]["READY"] == "True" && pair[1]["READY"] != "True";
                assert!(!taken_back, "{kind}/{name}: Ready was taken back\n{text}");
            }
        }
    }
}

/// The number at the front of `42% 3m10s`.
fn percent(row: &Row) -> u32 {
    let text = &row["PROGRESS"];
    let number = text.split('%').next().unwrap_or_default();
    number
        .parse()
        .unwrap_or_else(|_| panic!("no percent in {text:?}"))
}

/// The rows that kubectl printed, or which one has a blank column. Columns are at least three spaces apart, so a blank
/// one makes the row too short.
pub fn rows(text: &str) -> Result<Vec<Row>, String> {
    let cells = |line: &str| -> Vec<String> {
        let all = line.split("   ").map(str::trim).map(str::to_owned);
        all.filter(|cell| !cell.is_empty()).collect()
    };
    let mut lines = text.lines();
    let header = cells(lines.next().ok_or("nothing was printed")?);
    lines
        .map(|line| {
            let own = cells(line);
            let blank = |cell: &String| cell.starts_with('<');
            if own.len() != header.len() || own.iter().any(blank) {
                return Err(format!("a blank column among {header:?}: {line:?}"));
            }
            Ok(header.iter().cloned().zip(own).collect())
        })
        .collect()
}

#[test]
fn a_blank_column_is_seen() {
    let header = "NAME   READY   REASON     PROGRESS    LOSS   AGE\n";
    let full = format!("{header}base   False   Starting   42% 3m10s   -      1s\n");
    let found = rows(&full).unwrap();
    assert_eq!((found[0]["LOSS"].as_str(), percent(&found[0])), ("-", 42));
    assert!(
        rows(&format!(
            "{header}base   False   Starting   0%                 1s\n"
        ))
        .is_err()
    );
    assert!(
        rows(&format!(
            "{header}base                                          1s\n"
        ))
        .is_err()
    );
    assert!(
        rows(&format!(
            "{header}base   False   Starting   0%    <none>    1s\n"
        ))
        .is_err()
    );
}

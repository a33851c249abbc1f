//! The commands of `bessemer local` that look and delete, as a user calls them on a chain that is served.

use std::time::Duration;

use serde_json::Value;

use crate::plane::{Plane, text};
use crate::process::until;
use crate::source::Source;

/// In the order of the chain, as `get` lists them.
const OBJECTS: [&str; 6] = [
    "Dataset/docs",
    "Dataset/pairs",
    "PretrainJob/base",
    "FineTune/tuned",
    "Evaluation/scores",
    "Deployment/chat",
];

/// Waits for a Dataset that nobody applies.
const WAITING: &str = "
apiVersion: bessemer.dev/v1alpha1
kind: PretrainJob
metadata: {name: waiting}
spec:
  datasets: [{name: nowhere}]
  model: {family: Llama, layers: 1, heads: 2, hiddenSize: 32, feedForwardSize: 64, contextLength: 32}
  training: {steps: 1, batchTokens: 64, learningRate: 0.003}
";

#[test]
#[ignore = "needs the release binaries: make e2e"]
fn the_commands_show_a_served_chain_and_delete_it() {
    let source = Source::new();
    let plane = Plane::started(&source);
    let file = plane.directory().join("watch");
    let errors = plane.directory().join("watch.errors");
    let mut watch = plane
        .command(&["watch"])
        .stdout(std::fs::File::create(&file).unwrap())
        .stderr(std::fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    plane.apply();

    let table = listed(&plane);
    watched(&table, || std::fs::read_to_string(&file).unwrap());
    logged(&plane);
    described(&plane);
    traced(&plane, &source);
    explained(&plane);
    deleted(&plane);

    // A watch goes on until the API goes; then it says so.
    assert!(watch.try_wait().unwrap().is_none(), "the watch broke off");
    plane.ok(&["down"]);
    let status = until(Duration::from_secs(60), || watch.try_wait().unwrap());
    let _ = watch.kill();
    let _ = watch.wait();
    assert_eq!(status.and_then(|status| status.code()), Some(69));
    let said = std::fs::read_to_string(&errors).unwrap();
    assert!(said.contains("the API does not answer"), "{said}");
}

/// The cells of a row; a column begins where its title does, so a blank one is an empty cell.
fn cells(header: &str, row: &str) -> Vec<String> {
    let titles = ["OBJECT", "READY", "REASON", "PROGRESS", "ABOUT"];
    let mut starts: Vec<usize> = titles.iter().map(|t| header.find(t).unwrap()).collect();
    starts.push(row.len().max(header.len()));
    let cell = |pair: &[usize]| row.get(pair[0]..pair[1].min(row.len())).unwrap_or_default();
    starts.windows(2).map(|p| cell(p).trim().into()).collect()
}

/// `get` fills every column of every object; returns its table.
fn listed(plane: &Plane) -> String {
    let table = plane.ok(&["get"]);
    let (header, rows) = table.split_once('\n').unwrap();
    let rows: Vec<Vec<String>> = rows.lines().map(|row| cells(header, row)).collect();
    let objects: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(objects, OBJECTS, "{table}");
    for row in &rows {
        let reason = if row[0] == "Deployment/chat" {
            "Serving"
        } else {
            "Complete"
        };
        assert_eq!(row[1..4], ["True", reason, "100%"], "{table}");
        assert!(!row[4].is_empty() && row[4] != "-", "blank in\n{table}");
    }
    let served = &plane.digests()["Deployment/chat"];
    assert_eq!(rows[5][4], format!("100% {}", &served[..8]), "{table}");

    let one = plane.ok(&["get", "pj/base"]);
    let row = table.lines().find(|row| row.starts_with("PretrainJob/"));
    assert_eq!(one.lines().collect::<Vec<_>>(), [header, row.unwrap()]);
    assert_eq!(plane.ok(&["get", "pretrainjobs"]), one);
    let refused = plane.run(&["get", "nothing"]);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    table
}

/// The last row of each object in the watch is the one that `get` prints; the Deployment was seen before it was ready.
fn watched(table: &str, read: impl Fn() -> String) {
    let ended = |seen: &String| {
        OBJECTS.iter().all(|object| {
            let last = |text: &str| {
                text.lines()
                    .rfind(|row| row.starts_with(object))
                    .map(str::to_owned)
            };
            last(seen).is_some() && last(seen) == last(table)
        })
    };
    let seen = until(Duration::from_secs(30), || Some(read()).filter(ended));
    let seen = seen.unwrap_or_else(|| panic!("no end as in\n{table}:\n{}", read()));
    let header = seen.lines().next().unwrap();
    let rows: Vec<Vec<String>> = seen.lines().skip(1).map(|row| cells(header, row)).collect();
    let blank = |row: &&Vec<String>| row.iter().any(String::is_empty);
    assert_eq!(rows.iter().find(blank), None, "{seen}");
    let first = rows.iter().find(|row| row[0] == "Deployment/chat").unwrap();
    assert_ne!(first[1], "True", "{seen}");
}

fn logged(plane: &Plane) {
    let digests = plane.digests();
    for object in ["dset/docs", "pj/base", "ft/tuned", "eval/scores"] {
        let log = plane.ok(&["logs", object]);
        let last = log.lines().last().unwrap_or_default();
        let last: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{log}"));
        assert_eq!(last["message"], "result committed", "{object}: {log}");
        let made = digests.values().any(|digest| last["digest"] == **digest);
        assert!(made, "{object}: {log}");
    }
    let log = plane.ok(&["logs", "pj/base"]);
    let steps = log
        .lines()
        .filter(|line| line.contains(r#""message":"trained""#));
    assert!(steps.count() > 0, "no step in\n{log}");
    // The run has ended, so following ends too, with the same.
    assert_eq!(plane.ok(&["logs", "--follow", "pj/base"]), log);
}

fn described(plane: &Plane) {
    let said = plane.ok(&["describe", "pj/base"]);
    let (yaml, events) = said.split_once("\nEvents:\n").unwrap();
    let read: Value = serde_yaml::from_str(yaml).unwrap();
    let object = plane.json(&["get", "pj", "base"]);
    assert_eq!(read["metadata"]["uid"], object["metadata"]["uid"], "{said}");
    let (told, asked) = (&read["spec"]["model"], &object["spec"]["model"]);
    assert_eq!(told, asked, "{said}");
    let conditions = read["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    assert_eq!(ready.unwrap()["reason"], "Complete", "{said}");
    let digest = object["status"]["artifact"]["digest"].as_str().unwrap();
    let told = events.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&["Normal", "Complete"]) && words.last() == Some(&&digest[..12])
    });
    assert!(told, "no event of the end in\n{said}");
}

/// The whole tree of digests, from what is served down to the text.
fn traced(plane: &Plane, source: &Source) {
    let digests = plane.digests();
    let manifests = source.manifests();
    let data = manifests.parent().unwrap().display();
    let line =
        |depth: usize, object: &str| format!("{}{object} {}", "  ".repeat(depth), digests[object]);
    let tree = [
        line(0, "Deployment/chat"),
        line(1, "FineTune/tuned"),
        line(2, "PretrainJob/base"),
        line(3, "Dataset/docs"),
        format!("        source text file://{data}/text (licence -)"),
        line(2, "Dataset/pairs"),
        format!("      source items file://{data}/pairs (licence -)"),
        format!("{} (see above)", line(3, "Dataset/docs")),
    ];
    let said = plane.ok(&["lineage", "mdeploy/chat"]);
    assert_eq!(said.lines().collect::<Vec<_>>(), tree, "{said}");
}

fn explained(plane: &Plane) {
    assert_eq!(
        plane.ok(&["why", "mdeploy/chat"]),
        "Deployment/chat is ready\n"
    );
    let file = plane.directory().join("waiting.yaml");
    std::fs::write(&file, WAITING).unwrap();
    plane.ok(&["apply", "--no-wait", "-f", &file.display().to_string()]);
    plane.wait_for_reason("pj/waiting", "DependencyMissing");
    let reason =
        "DependencyMissing: spec.datasets[nowhere] names Dataset nowhere, which does not exist.";
    assert_eq!(
        plane.ok(&["why", "pj/waiting"]),
        format!(
            "PretrainJob/waiting is not ready (0%). {reason} Apply the named object.\n  \
             Dataset/nowhere does not exist; apply it\n"
        )
    );
    let refused = plane.run(&["logs", "pj/waiting"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(
        text(&refused).contains("PretrainJob/waiting has no pod"),
        "{}",
        text(&refused)
    );
    assert_eq!(
        plane.ok(&["delete", "pj/waiting"]),
        "PretrainJob/waiting deleted\n"
    );
}

fn deleted(plane: &Plane) {
    let serving = || {
        let all = plane.processes().into_iter();
        all.filter(|process| process.does(&["serve", "route"]))
            .count()
    };
    assert!(serving() > 1, "{:?}", plane.processes());
    let chat = ["delete", "mdeploy/chat"];
    assert_eq!(plane.ok(&chat), "Deployment/chat deleted\n");
    let gone = until(Duration::from_secs(60), || (serving() == 0).then_some(()));
    assert!(gone.is_some(), "{:?}", plane.processes());
    let table = plane.ok(&["get"]);
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(!table.contains("Deployment/"), "{table}");
    assert_eq!(plane.ok(&chat), "Deployment/chat was not there\n");

    let said = plane.ok(&["delete", "-f", &plane.manifests()]);
    let deleted = said.lines().filter(|line| line.ends_with(" deleted"));
    assert_eq!(deleted.count(), 5, "{said}");
    let table = plane.ok(&["get"]);
    assert_eq!(table.lines().count(), 1, "{table}");
}

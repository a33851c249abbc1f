//! Every way to fail ends with its exit code and a sentence that names the culprit.

use std::path::Path;

use serde_json::{Value, json};

use crate::run::{Chain, sources};
use crate::store::{Store, flip};

fn with<'a>(store: &'a Store, root: &Path) -> Chain<'a> {
    sources(root);
    Chain::new(store, root, "team")
}

#[test]
fn a_flipped_byte_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let (docs, pairs) = (chain.finish(&chain.docs()), chain.finish(&chain.pairs()));
    let base = chain.finish(&chain.base(&docs));
    let directory = store.path(&base.uri);
    for file in ["model.safetensors", "tokenizer.json"] {
        let good = std::fs::read(directory.join(file)).unwrap();
        flip(&directory.join(file));
        let run = chain.chat(&base, &pairs);
        let ended = run.start(&[]).wait();
        assert_eq!(ended.code, Some(66), "{ended:?}");
        assert!(ended.said().contains(file), "{}", ended.said());
        assert!(chain.made(&run).is_none());
        std::fs::write(directory.join(file), good).unwrap();
    }
    // A shard: the name is the dataset's own.
    let shard = std::fs::read_dir(store.path(&docs.uri))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let shard = shard
        .filter(|path| path.is_file() && !path.ends_with("manifest.json"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    flip(&shard);
    let mut run = chain.base(&docs);
    run = chain.run(
        "PretrainJob",
        "other",
        vec![docs.input("Dataset")],
        run.config["task"].clone(),
    );
    let ended = run.start(&[]).wait();
    assert_eq!(ended.code, Some(66), "{ended:?}");
    assert!(
        ended
            .said()
            .contains(shard.file_name().unwrap().to_str().unwrap()),
        "{}",
        ended.said()
    );
}

#[test]
fn a_loss_that_is_no_number_names_step_and_batch_and_keeps_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let docs = chain.finish(&chain.docs());
    let mut task = chain.base(&docs).config["task"].clone();
    task["optimizer"]["learningRate"] = json!(1e30);
    task["schedule"] =
        json!({"kind": "Constant", "warmupSteps": 0, "decaySteps": 0, "finalShare": 1.0});
    task["checkpoint"]["everySteps"] = json!(1);
    let run = chain.run("PretrainJob", "wild", vec![docs.input("Dataset")], task);
    let ended = run.start(&[]).wait();
    assert_eq!(ended.code, Some(65), "{ended:?}");
    let said = ended.said();
    assert!(
        said.starts_with("LossDiverged")
            && said.contains("at step")
            && said.contains("learning rate"),
        "{said}"
    );
    assert!(
        !store
            .checkpoints("team", "PretrainJob", "wild", &run.key)
            .is_empty(),
        "the last good checkpoint is kept: {}",
        ended.log
    );
    assert!(chain.made(&run).is_none());
}

#[test]
fn configurations_inputs_and_sources_that_cannot_be_are_said() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let refused =
        |mut run: crate::run::Run, change: &dyn Fn(&mut Value), code: i32, words: &[&str]| {
            change(&mut run.config);
            let ended = run.start(&[]).wait();
            assert_eq!(ended.code, Some(code), "{ended:?}");
            for word in words {
                assert!(ended.said().contains(word), "{word} in {}", ended.said());
            }
            assert!(chain.made(&run).is_none());
        };
    refused(
        chain.docs(),
        &|config| config["task"]["split"]["validation"] = json!("much"),
        64,
        &["task.split.validation"],
    );
    refused(
        chain.docs(),
        &|config| config["schemaVersion"] = json!(9),
        64,
        &["schemaVersion is 9"],
    );
    refused(
        chain.docs(),
        &|config| config["task"]["surprise"] = json!(9),
        64,
        &["surprise"],
    );
    refused(
        chain.docs(),
        &|config| config["task"]["sources"][0]["uri"] = json!("ftp://x"),
        64,
        &["task.sources[0]", "ftp://x"],
    );
    std::fs::create_dir(root.path().join("empty")).unwrap();
    let empty = format!("file://{}", root.path().join("empty").display());
    refused(
        chain.docs(),
        &|config| config["task"]["sources"][0]["uri"] = json!(empty),
        65,
        &["docs"],
    );
    refused(
        chain.docs(),
        &|config| config["storage"]["bucket"] = json!("nowhere"),
        78,
        &["nowhere"],
    );
    let missing = crate::run::Made {
        kind: "Dataset",
        name: "docs",
        digest: "a".repeat(64),
        uri: "s3://bessemer/team/ns/dataset/docs/gone".into(),
    };
    refused(
        chain.base(&missing),
        &|_| {},
        66,
        &["team/ns/dataset/docs/gone"],
    );
}

#[test]
fn a_store_that_is_away_means_try_again() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    // A port that nobody listens on: it was ours a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut run = chain.docs();
    run.config["storage"]["endpoint"] = json!(endpoint);
    let ended = run.start(&[("BESSEMER_PROGRESS_URL", &endpoint)]).wait();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(
        ended.said().starts_with("StorageUnavailable"),
        "{}",
        ended.said()
    );
}

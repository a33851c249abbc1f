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
    // The dataset's own files: a shard, and the tokenizer that others take over too.
    let own = store.path(&docs.uri);
    let (shard, tokenizer) = (own.join("train-00000.bin"), own.join("tokenizer.json"));
    // Each damage meets a run of its own: what an attempt has fetched and verified is kept for the next one.
    let trains = |name: &'static str| {
        let task = chain.base(&docs).config["task"].clone();
        chain.run("PretrainJob", name, vec![docs.input("Dataset")], task)
    };
    let (other, third) = (trains("other"), trains("third"));
    let mut encodes = chain.pairs().config["task"].clone();
    encodes["tokenizer"] = json!("Input");
    let encodes = chain.run("Dataset", "taken", vec![docs.input("Tokenizer")], encodes);
    let damages = [(shard, vec![&other]), (tokenizer, vec![&third, &encodes])];
    for (file, runs) in damages {
        let good = std::fs::read(&file).unwrap();
        flip(&file);
        let name = file.file_name().unwrap().to_str().unwrap();
        for run in &runs {
            let ended = run.start(&[]).wait();
            assert_eq!(ended.code, Some(66), "{ended:?}");
            assert!(ended.said().contains(name), "{}", ended.said());
            assert!(chain.made(run).is_none());
        }
        std::fs::write(&file, good).unwrap();
    }
    // Undamaged, the same runs succeed: it was the byte that was refused.
    for run in [&other, &third, &encodes] {
        chain.finish(run);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_said_before_anything_is_fetched() {
    if bessemer_torch::device(1).is_ok() {
        eprintln!("skipped: libtorch finds a GPU here");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let mut run = chain.docs();
    run.config["gpus"] = json!(1);
    let ended = run.start(&[]).wait();
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.said().starts_with("NoGpu: 1 GPU(s) are asked for"),
        "{}",
        ended.said()
    );
    assert!(chain.made(&run).is_none());
    // A server looks before it asks the store for the model.
    let task = json!({"command": "serve", "modelName": "chat", "maxConcurrency": 1, "maxQueue": 1, "drainSeconds": 1});
    let model = json!({"role": "Model", "kind": "FineTune", "name": "chat", "uri": "s3://artifacts/none", "digest": "0".repeat(64)});
    let mut server = chain.run("Deployment", "chat", vec![model], task);
    server.config["gpus"] = json!(1);
    let ended = server.start(&[]).wait();
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.said().starts_with("NoGpu"), "{}", ended.said());
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
fn lost_reports_of_progress_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let calm = chain.finish(&chain.docs());
    // One that takes connections and says nothing, one that is not there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_url, gone_url) = [&silent, &gone]
        .map(|listener| format!("http://{}", listener.local_addr().unwrap()))
        .into();
    drop(gone);
    for (prefix, url) in [("silent", &silent_url), ("gone", &gone_url)] {
        let other = Chain::new(&store, root.path(), prefix);
        let run = other.docs();
        let ended = run.start(&[("BESSEMER_PROGRESS_URL", url)]).wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // The silent one may still be waited for when the work is done.
        assert!(prefix == "silent" || ended.log.contains("progress not delivered"));
        assert_eq!(other.made(&run).unwrap().digest, calm.digest);
    }
}

#[test]
fn a_source_with_keys_of_its_own_is_read_with_them_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let foreign = Store::with_keys("foreign-key", "foreign-secret");
    let chain = with(&store, root.path());
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(root.path().join("docs"))
        .arg(foreign.path("docs"))
        .status()
        .unwrap();
    assert!(copied.success());
    let mut task = chain.docs().config["task"].clone();
    task["sources"][0]["uri"] = json!("s3://bessemer/docs");
    task["sources"][0]["ownKeys"] = json!(true);
    let run = chain.run("Dataset", "foreign", vec![], task);
    let id = ("BESSEMER_SOURCE_DOCS_AWS_ACCESS_KEY_ID", "foreign-key");
    let endpoint = (
        "BESSEMER_SOURCE_DOCS_AWS_ENDPOINT_URL",
        foreign.endpoint.as_str(),
    );
    let secret = |value| ("BESSEMER_SOURCE_DOCS_AWS_SECRET_ACCESS_KEY", value);
    let refused = |variables: &[(&str, &str)], words: &[&str]| {
        let ended = run.start(variables).wait();
        assert_eq!(ended.code, Some(78), "{ended:?}");
        for word in words {
            assert!(ended.said().contains(word), "{word} in {}", ended.said());
        }
        assert!(chain.made(&run).is_none());
    };
    refused(
        &[id, endpoint],
        &[
            "source docs has no AWS_SECRET_ACCESS_KEY",
            "credentialsSecretRef",
        ],
    );
    refused(
        &[id, endpoint, secret("")],
        &["source docs has no AWS_SECRET_ACCESS_KEY"],
    );
    refused(
        &[id, endpoint, secret("wrong")],
        &["StorageDenied", "task.sources[0]"],
    );
    let ended = run.start(&[id, endpoint, secret("foreign-secret")]).wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.log.contains("foreign-secret") && !ended.log.contains("foreign-key"));
    let made = chain.made(&run).unwrap();
    for entry in std::fs::read_dir(store.path(&made.uri)).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("foreign-"));
    }
    assert!(!run.config.to_string().contains("foreign-"));
}

#[test]
fn addresses_that_need_tls_are_refused_before_any_work() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start();
    let chain = with(&store, root.path());
    let run = chain.docs();
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "BESSEMER_PROGRESS_URL"] {
        let ended = run.start(&[(name, "https://collector.example.org")]).wait();
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.said().contains(name) && ended.said().contains("plain http"));
        assert!(chain.made(&run).is_none());
    }
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

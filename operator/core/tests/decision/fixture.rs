//! Owns the specs that tests start from.

use bessemer_api::Kind as KindName;
use bessemer_core::Key;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};

pub fn dataset(purpose: &str) -> Value {
    json!({
        "purpose": purpose,
        "sources": [{"name": "docs", "uri": "file:///usr/share/doc", "license": "MIT"}],
        "tokenizer": {"train": {"vocabularySize": 4096}}
    })
}

pub fn pretrain(datasets: &[&str]) -> Value {
    let datasets: Vec<Value> = datasets.iter().map(|name| json!({"name": name})).collect();
    json!({
        "datasets": datasets, "model": {"family": "Llama", "preset": "1M"},
        "training": {"steps": 100, "batchTokens": 4096}, "resources": {"cpu": "2", "memory": "2Gi"}
    })
}

pub fn tune(kind: &str, base: &str, dataset: &str) -> Value {
    json!({
        "baseRef": {"kind": kind, "name": base}, "datasetRef": {"name": dataset}, "supervised": {},
        "adapter": {"rank": 4, "targets": ["Query", "Value"]}, "training": {"epochs": 2}
    })
}

pub fn evaluation(kind: &str, model: &str, dataset: &str) -> Value {
    json!({
        "modelRef": {"kind": kind, "name": model},
        "suites": [{"name": "chat", "generation": {"datasetRef": {"name": dataset}}}]
    })
}

pub fn served(kind: &str, model: &str, evaluation: &str) -> Value {
    json!({
        "modelRef": {"kind": kind, "name": model},
        "gates": [{"evaluationRef": {"name": evaluation}, "expression": "results[\"chat\"][\"bleu\"].value > 0.5"}]
    })
}

/// Keys of the chain: text, pairs, base, chat, score, served.
pub struct Chain {
    pub text: Key,
    pub pairs: Key,
    pub base: Key,
    pub chat: Key,
    pub score: Key,
    pub served: Key,
}

/// The chain in one file.
pub fn chain(cluster: &mut Cluster) -> Chain {
    cluster.apply(
        KindName::Deployment,
        "served",
        served("FineTune", "chat", "score"),
    );
    cluster.apply(
        KindName::Evaluation,
        "score",
        evaluation("FineTune", "chat", "pairs"),
    );
    cluster.apply(
        KindName::FineTune,
        "chat",
        tune("PretrainJob", "base", "pairs"),
    );
    cluster.apply(KindName::PretrainJob, "base", pretrain(&["text"]));
    let mut pairs = dataset("Instruction");
    pairs["tokenizer"] = json!({"datasetRef": {"name": "text"}});
    cluster.apply(KindName::Dataset, "pairs", pairs);
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    Chain {
        text: key(KindName::Dataset, "text"),
        pairs: key(KindName::Dataset, "pairs"),
        base: key(KindName::PretrainJob, "base"),
        chat: key(KindName::FineTune, "chat"),
        score: key(KindName::Evaluation, "score"),
        served: key(KindName::Deployment, "served"),
    }
}

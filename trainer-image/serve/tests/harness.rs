//! The real lm-eval drives the server unchanged, and its numbers are libtorch's. `make parity` runs it with a Python that
//! has `lm_eval[api]==0.4.13` and `transformers`, which BESSEMER_PEER_PYTHON names.
#![cfg(test)]

mod fixture;

use fixture::{Disk, Start, ids};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tch::{Device, Kind, Tensor};

const CHOICE: &str = "task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: '{{question}}'
doc_to_choice: '{{choices}}'
doc_to_target: '{{label}}'
metric_list: [{metric: acc}]
";

const GENERATE: &str = "task: tiny_generate
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: '{{question}}'
doc_to_target: '{{question}}'
generation_kwargs: {until: ['zz', 'qq'], max_gen_toks: 12, do_sample: false, temperature: 0}
metric_list: [{metric: exact_match}]
";

fn samples(directory: &Path, task: &str) -> Vec<Value> {
    let prefix = format!("samples_{task}_");
    let inner = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir())
        .unwrap();
    let found = std::fs::read_dir(inner)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let text = std::fs::read_to_string(found.unwrap().path()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs lm-eval"]
async fn parity_lm_eval_scores_and_generates_over_http() {
    let Ok(python) = std::env::var("BESSEMER_PEER_PYTHON") else {
        println!("skipped: BESSEMER_PEER_PYTHON names no Python with lm-eval");
        return;
    };
    let disk = Disk::new(11);
    let server = Start::default().serve(&disk).await;
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data.jsonl");
    // Single-token choices are where other servers' answers are cut one token short.
    let records: Vec<Value> = (0..12)
        .map(|i| json!({"question": format!("Question {i}: which letter is it?"), "choices": ["A", "B", "C and more"], "label": i % 3}))
        .collect();
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(&data, lines.join("\n")).unwrap();
    for (name, task) in [("choice", CHOICE), ("generate", GENERATE)] {
        std::fs::write(
            work.path().join(format!("{name}.yaml")),
            task.replace("DATA", &data.display().to_string()),
        )
        .unwrap();
    }
    let arguments = format!(
        "model=tiny,base_url={}/v1/completions,tokenizer={},tokenizer_backend=huggingface,tokenized_requests=True,num_concurrent=1,max_length=255,seed=1234",
        server.url,
        disk.path().display()
    );
    let output = work.path().join("out");
    let mut command = Command::new(python);
    command.args([
        "-m",
        "lm_eval",
        "--model",
        "local-completions",
        "--model_args",
        &arguments,
        "--tasks",
        "tiny_choice,tiny_generate",
    ]);
    command
        .args(["--batch_size", "5", "--log_samples", "--include_path"])
        .arg(work.path())
        .arg("--output_path")
        .arg(&output);
    command
        .env_remove("LD_LIBRARY_PATH")
        .env("HF_HOME", work.path().join("hf"))
        .env("HF_HUB_OFFLINE", "1");
    let run = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");

    let model = disk.directory().load(None, None, Device::Cpu).unwrap();
    let mut distinct = std::collections::BTreeSet::new();
    let choices = samples(&output, "tiny_choice");
    assert_eq!(choices.len(), records.len());
    for sample in choices {
        let (document, answers) = (&sample["doc"], sample["filtered_resps"].as_array().unwrap());
        for (choice, answer) in document["choices"].as_array().unwrap().iter().zip(answers) {
            let context = ids(document["question"].as_str().unwrap());
            let whole: Vec<i64> = context
                .iter()
                .copied()
                .chain(ids(&format!(" {}", choice.as_str().unwrap())))
                .map(i64::from)
                .collect();
            let scores = model
                .forward(&Tensor::from_slice(&whole).unsqueeze(0))
                .unwrap()
                .squeeze_dim(0)
                .log_softmax(-1, Kind::Double);
            let expected: f64 = (context.len()..whole.len())
                .map(|at| scores.double_value(&[at as i64 - 1, whole[at]]))
                .sum();
            let found = answer[0]
                .as_f64()
                .or_else(|| answer[0].as_str()?.parse().ok())
                .unwrap();
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            distinct.insert(format!("{found:.6}"));
        }
    }
    assert!(
        distinct.len() > records.len(),
        "no choice may look like another for want of a token"
    );
    for sample in samples(&output, "tiny_generate") {
        let prompt = sample["doc"]["question"].as_str().unwrap();
        let body = json!({"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 12, "stop": ["zz", "qq"]});
        let direct = server.complete(body).await;
        assert_eq!(sample["resps"][0][0], direct["choices"][0]["text"]);
    }
}

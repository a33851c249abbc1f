//! The chain on a GPU, where there is one.

use serde_json::{Value, json};

use crate::run::{Chain, Made, Run, sources};
use crate::serve::ask;
use crate::store::Store;

#[test]
fn a_gpu_runs_the_chain_as_the_cpu_does() {
    if let Err(reason) = bessemer_torch::device(1) {
        eprintln!("skipped: {reason}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    sources(root.path());
    let store = Store::start();
    // Losses of base and tuned model, and what the suites measured.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut served = None;
    let mut measured = |prefix: &str, gpus: u32| {
        let chain = Chain::new(&store, root.path(), prefix);
        let finish = |mut run: Run| {
            run.config["gpus"] = json!(gpus);
            chain.finish(&run)
        };
        let statistics = |made: &Made| -> Value {
            let manifest = store.path(&made.uri).join("manifest.json");
            let manifest: Value =
                serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
            manifest["statistics"].clone()
        };
        let (docs, pairs) = (chain.finish(&chain.docs()), chain.finish(&chain.pairs()));
        let base = finish(chain.base(&docs));
        let chat = finish(chain.chat(&base, &pairs));
        let eval = finish(chain.eval(&chat, &base, &docs, &pairs));
        // The chat model of the CPUs, served by both: the same first token, as likely.
        let chat_of_cpus = served.get_or_insert(chat.clone());
        let mut run = chain.served(chat_of_cpus);
        run.config["gpus"] = json!(gpus);
        let mut server = run.start(&[]);
        let (_, answer) = runtime.block_on(ask(&mut server));
        server.terminate();
        assert_eq!(server.wait().code, Some(0));
        let first = answer["choices"][0]["logprobs"]["token_logprobs"][0].clone();
        (
            [&base, &chat, &eval].map(statistics),
            first.as_f64().unwrap(),
        )
    };
    let ((cpu, on_cpu), (gpu, on_gpu)) = (measured("cpu", 0), measured("gpu", 1));
    println!("{cpu:?}\n{gpu:?}");
    assert!((on_cpu - on_gpu).abs() < 0.05, "{on_cpu} {on_gpu}");
    for (one, other) in cpu.iter().zip(&gpu).take(2) {
        let loss = |statistics: &Value| statistics["losses"]["training"].as_f64().unwrap();
        assert!(
            (loss(one) - loss(other)).abs() < 0.05 * loss(one),
            "{one} {other}"
        );
    }
}

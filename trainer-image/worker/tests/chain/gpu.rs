//! The chain on a GPU, where there is one.

use serde_json::{Value, json};

use crate::run::{Chain, Made, Run, sources};
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
    let measured = |prefix: &str, gpus: u32| {
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
        [&base, &chat, &eval].map(statistics)
    };
    let (cpu, gpu) = (measured("cpu", 0), measured("gpu", 1));
    println!("{cpu:?}\n{gpu:?}");
    for (one, other) in cpu.iter().zip(&gpu).take(2) {
        let loss = |statistics: &Value| statistics["losses"]["training"].as_f64().unwrap();
        assert!(
            (loss(one) - loss(other)).abs() < 0.05 * loss(one),
            "{one} {other}"
        );
    }
}

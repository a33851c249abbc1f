//! Parity with Hugging Face transformers on committed models (golden/generate.py), and the way in and out.

use super::*;
use crate::{Segment, read_safetensors};

const GOLDEN: [&str; 4] = ["gpt2", "llama", "llama-tied", "mistral"];

fn golden(name: &str) -> Directory {
    Directory::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden")
            .join(name),
    )
}

fn expected(directory: &Directory) -> Value {
    directory.json("golden.json").unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

fn integers(value: &Value) -> Vec<i64> {
    numbers(value)
        .into_iter()
        .map(|number| number as i64)
        .collect()
}

#[test]
fn logits_equal_transformers() {
    for name in GOLDEN {
        let directory = golden(name);
        let model = directory.load(None, None, Device::Cpu).unwrap();
        let expected = expected(&directory);
        let tokens = Tensor::from_slice(&integers(&expected["ids"])).view([2, -1]);
        let logits = model.forward(&tokens).unwrap();
        let wanted = Tensor::from_slice(&numbers(&expected["logits"])).view_as(&logits);
        let difference = (logits.to_kind(Kind::Double) - wanted)
            .abs()
            .max()
            .double_value(&[]);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn greedy_decoding_over_a_cache_equals_transformers() {
    for name in GOLDEN {
        let directory = golden(name);
        let model = directory.load(None, None, Device::Cpu).unwrap();
        let expected = expected(&directory);
        let mut cache = model.cache(1);
        let mut tokens = integers(&expected["ids"][0]);
        let mut greedy = Vec::new();
        while greedy.len() < 8 {
            let mut segments = [Segment {
                cache: &mut cache,
                tokens: tokens.len() as i64,
            }];
            let hidden = model
                .extend(&Tensor::from_slice(&tokens), &mut segments)
                .unwrap();
            let last = hidden.narrow(0, tokens.len() as i64 - 1, 1);
            let next = model.logits(&last).argmax(-1, false).int64_value(&[0]);
            greedy.push(next);
            tokens = vec![next];
        }
        assert_eq!(greedy, integers(&expected["greedy"]), "{name}");
    }
}

#[test]
fn a_model_goes_out_and_in_bit_for_bit() {
    for name in GOLDEN {
        let (source, target) = (golden(name), tempfile::tempdir().unwrap());
        let model = source.load(None, None, Device::Cpu).unwrap();
        let out = Directory::new(target.path());
        out.save(&model, &[0, 5]).unwrap();
        let (before, after) = (
            read_safetensors(&source.path(WEIGHTS_FILE), Device::Cpu).unwrap(),
            read_safetensors(&out.path(WEIGHTS_FILE), Device::Cpu).unwrap(),
        );
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>()
        );
        for (name, tensor) in &before {
            assert!(tensor.equal(&after[name]), "{name}");
        }
        assert_eq!(out.config().unwrap(), model.config().clone());
        assert_eq!(out.ends().unwrap(), [0, 5]);
        let again = tempfile::tempdir().unwrap();
        Directory::new(again.path())
            .save(&out.load(None, None, Device::Cpu).unwrap(), &[0, 5])
            .unwrap();
        for file in [WEIGHTS_FILE, CONFIG_FILE, GENERATION_FILE] {
            let (first, second) = (
                std::fs::read(out.path(file)).unwrap(),
                std::fs::read(again.path().join(file)).unwrap(),
            );
            assert_eq!(first, second, "{file}");
        }
    }
}

#[test]
fn a_gpt2_without_biases_is_exported_with_zeros_and_comes_back() {
    let config = Config {
        bias: false,
        ..Config::gpt2(61, 2, 4, 32, 48)
    };
    let model = Model::new(config.clone(), 7, Kind::Float, Device::Cpu).unwrap();
    let target = tempfile::tempdir().unwrap();
    let directory = Directory::new(target.path());
    directory.save(&model, &[0]).unwrap();
    let tensors = read_safetensors(&directory.path(WEIGHTS_FILE), Device::Cpu).unwrap();
    // 12 per block, wte, wpe and the last norm: what GPT2LMHeadModel has.
    assert_eq!(tensors.len(), 2 * 12 + 4);
    assert_eq!(tensors["transformer.h.0.attn.c_attn.bias"].size(), [96]);
    let back = directory.load(None, None, Device::Cpu).unwrap();
    assert_eq!(back.config(), &config);
    let tokens = Tensor::from_slice(&[1i64, 2, 3]).view([1, 3]);
    assert!(
        back.forward(&tokens)
            .unwrap()
            .equal(&model.forward(&tokens).unwrap())
    );
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused_by_name() {
    let target = tempfile::tempdir().unwrap();
    let directory = Directory::new(target.path());
    let model = golden("llama").load(None, None, Device::Cpu).unwrap();
    directory.save(&model, &[0]).unwrap();
    let config = std::fs::read_to_string(directory.path(CONFIG_FILE)).unwrap();
    for (from, to, problem) in [
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "model.layers.2.input_layernorm.weight is missing",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "has no place",
        ),
        (
            "\"intermediate_size\": 40",
            "\"intermediate_size\": 41",
            "mlp.gate_proj.weight has shape",
        ),
    ] {
        assert!(config.contains(from));
        std::fs::write(directory.path(CONFIG_FILE), config.replace(from, to)).unwrap();
        let error = directory.load(None, None, Device::Cpu).unwrap_err();
        assert_eq!(error.category(), "ModelDamaged");
        assert!(
            error.to_string().contains(problem) && error.to_string().contains(WEIGHTS_FILE),
            "{error}"
        );
    }
    std::fs::write(directory.path(CONFIG_FILE), "{").unwrap();
    assert!(
        directory
            .config()
            .unwrap_err()
            .to_string()
            .contains(CONFIG_FILE)
    );
    std::fs::remove_file(directory.path(WEIGHTS_FILE)).unwrap();
    std::fs::write(directory.path(CONFIG_FILE), config).unwrap();
    assert!(
        directory
            .load(None, None, Device::Cpu)
            .unwrap_err()
            .to_string()
            .contains(WEIGHTS_FILE)
    );
}

#[test]
fn unmerged_adapters_are_not_exported() {
    let mut model = golden("llama").load(None, None, Device::Cpu).unwrap();
    model
        .adapt(
            &crate::AdapterSpec {
                rank: 1,
                alpha: 1.0,
                targets: vec!["q".to_owned()],
            },
            1,
        )
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    let error = Directory::new(target.path())
        .save(&model, &[0])
        .unwrap_err();
    assert_eq!(error.category(), "InvalidAdapter");
}

#[test]
fn the_chat_template_comes_with_the_tokenizer() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join(TOKENIZER_FILE), "{}").unwrap();
    let directory = Directory::new(to.path());
    directory
        .save_tokenizer(from.path(), "<|endoftext|>")
        .unwrap();
    let template = directory.chat_template().unwrap().unwrap();
    let text = template
        .render(&[crate::Message::new("user", "hi")], true)
        .unwrap();
    assert_eq!(text, "<|user|>hi<|end|><|assistant|>");
    let error = directory.tokenizer().unwrap_err();
    assert!(error.to_string().contains(TOKENIZER_FILE), "{error}");
    // A second copy takes over what is there.
    let next = tempfile::tempdir().unwrap();
    Directory::new(next.path())
        .save_tokenizer(to.path(), "other")
        .unwrap();
    assert_eq!(
        std::fs::read(to.path().join(TOKENIZER_CONFIG_FILE)).unwrap(),
        std::fs::read(next.path().join(TOKENIZER_CONFIG_FILE)).unwrap()
    );
}

/// Needs a Python with transformers, named by BESSEMER_PEER_PYTHON; `make parity` runs it.
#[test]
#[ignore = "needs transformers"]
fn parity_transformers_loads_what_we_export() {
    let Some(python) = std::env::var_os("BESSEMER_PEER_PYTHON") else {
        println!("skipped: BESSEMER_PEER_PYTHON names no Python with transformers");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/load.py");
    let llama = Config::llama(61, 2, (4, 2), 32, 48, 48);
    let tied = Config {
        tied_embeddings: true,
        rope_base: 700.0,
        ..llama.clone()
    };
    let gpt2 = Config::gpt2(61, 2, 4, 32, 48);
    let bare = Config {
        bias: false,
        ..gpt2.clone()
    };
    let mistral = Config {
        attention_window: Some(5),
        ..llama.clone()
    };
    for config in [llama, mistral, tied, gpt2, bare] {
        let target = tempfile::tempdir().unwrap();
        let model = Model::new(config.clone(), 5, Kind::Float, Device::Cpu).unwrap();
        tch::no_grad(|| {
            for parameter in model.weights() {
                let _ = parameter.tensor.shallow_clone().g_mul_scalar_(8.0);
            }
        });
        Directory::new(target.path()).save(&model, &[0]).unwrap();
        let output = std::process::Command::new(&python)
            .env_remove("LD_LIBRARY_PATH")
            .arg(&script)
            .arg(target.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let wanted: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tokens = Tensor::from_slice(&integers(&wanted["ids"])).unsqueeze(0);
        let logits = model.forward(&tokens).unwrap();
        let wanted = Tensor::from_slice(&numbers(&wanted["logits"])).view_as(&logits);
        let difference = (logits.to_kind(Kind::Double) - wanted)
            .abs()
            .max()
            .double_value(&[]);
        assert!(difference < 1e-4, "{config:?}: {difference}");
    }
}

//! Owns the translation between [`Config`] and Hugging Face's config.json; it must not touch files or tensors.

use serde_json::{Map, Value, json};

use crate::config::{Config, Family};

/// Reads config.json's content. The error is a sentence without the file's name.
pub(crate) fn parse(text: &str) -> Result<Config, String> {
    let root: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let config = match root.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => gpt2(&root)?,
        Some("llama") => llama(&root)?,
        Some("mistral") => Config {
            attention_window: match root.get("sliding_window") {
                None | Some(Value::Null) => None,
                Some(_) => Some(integer(&root, "sliding_window")?),
            },
            ..llama(&root)?
        },
        Some(other) => {
            return Err(format!(
                "model_type {other} is not supported; gpt2, llama and mistral are"
            ));
        }
        None => return Err("model_type is missing".to_owned()),
    };
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

fn integer(root: &Map<String, Value>, key: &str) -> Result<i64, String> {
    root.get(key)
        .and_then(Value::as_i64)
        .ok_or_else(|| format!("{key} is missing or no integer"))
}

fn integer_or(root: &Map<String, Value>, key: &str, default: i64) -> Result<i64, String> {
    match root.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(_) => integer(root, key),
    }
}

fn number_or(root: &Map<String, Value>, key: &str, default: f64) -> Result<f64, String> {
    match root.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{key} is no number")),
    }
}

fn truth_or(root: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    match root.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("{key} is neither true nor false")),
    }
}

/// Refuses a key whose value is another than the one that this code computes.
fn only(root: &Map<String, Value>, key: &str, supported: &Value) -> Result<(), String> {
    match root.get(key) {
        Some(value) if value != supported => {
            Err(format!("{key} {value} is not supported; {supported} is"))
        }
        _ => Ok(()),
    }
}

fn gpt2(root: &Map<String, Value>) -> Result<Config, String> {
    only(root, "activation_function", &json!("gelu_new"))?;
    only(root, "scale_attn_weights", &json!(true))?;
    only(root, "scale_attn_by_inverse_layer_idx", &json!(false))?;
    only(root, "add_cross_attention", &json!(false))?;
    let base = Config::gpt2(
        integer(root, "vocab_size")?,
        integer(root, "n_layer")?,
        integer(root, "n_head")?,
        integer(root, "n_embd")?,
        integer(root, "n_positions")?,
    );
    Ok(Config {
        feed_forward_size: integer_or(root, "n_inner", base.feed_forward_size)?,
        norm_epsilon: number_or(root, "layer_norm_epsilon", 1e-5)?,
        tied_embeddings: truth_or(root, "tie_word_embeddings", true)?,
        bias: truth_or(root, "bias", true)?,
        dropout: number_or(root, "resid_pdrop", 0.0)?,
        ..base
    })
}

fn llama(root: &Map<String, Value>) -> Result<Config, String> {
    only(root, "hidden_act", &json!("silu"))?;
    only(root, "attention_bias", &json!(false))?;
    only(root, "mlp_bias", &json!(false))?;
    only(root, "rope_scaling", &Value::Null)?;
    // transformers 5 keeps the base in rope_parameters, older versions in rope_theta.
    let rope_base = match root.get("rope_parameters") {
        Some(Value::Object(rope)) => {
            only(rope, "rope_type", &json!("default"))?;
            number_or(rope, "rope_theta", 10_000.0)?
        }
        _ => number_or(root, "rope_theta", 10_000.0)?,
    };
    let (heads, hidden) = (
        integer(root, "num_attention_heads")?,
        integer(root, "hidden_size")?,
    );
    let base = Config::llama(
        integer(root, "vocab_size")?,
        integer(root, "num_hidden_layers")?,
        (heads, integer_or(root, "num_key_value_heads", heads)?),
        hidden,
        integer(root, "intermediate_size")?,
        integer(root, "max_position_embeddings")?,
    );
    Ok(Config {
        head_size: integer_or(root, "head_dim", base.head_size)?,
        norm_epsilon: number_or(root, "rms_norm_eps", 1e-6)?,
        tied_embeddings: truth_or(root, "tie_word_embeddings", false)?,
        rope_base,
        ..base
    })
}

/// config.json for `config`, with the weights' type and the end-of-text id when there is one.
pub(crate) fn render(config: &Config, dtype: &str, end_of_text: Option<i64>) -> Value {
    let mut root = match config.family {
        Family::Gpt2 => json!({
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "n_positions": config.context_length,
            "n_ctx": config.context_length,
            "n_embd": config.hidden_size,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.feed_forward_size,
            "layer_norm_epsilon": config.norm_epsilon,
            "attn_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "scale_attn_weights": true,
            // Ours: the biases in the file are zero and were not trained.
            "bias": config.bias,
        }),
        Family::Llama => json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "intermediate_size": config.feed_forward_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_size,
            "max_position_embeddings": config.context_length,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_base,
            "rope_scaling": null,
            "attention_bias": false,
            "attention_dropout": config.dropout,
            "mlp_bias": false,
        }),
    };
    if let Value::Object(root) = &mut root {
        if let Some(window) = config.attention_window {
            root.insert("model_type".to_owned(), json!("mistral"));
            root.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
            root.insert("sliding_window".to_owned(), json!(window));
        }
        root.insert("vocab_size".to_owned(), json!(config.vocabulary_size));
        root.insert(
            "tie_word_embeddings".to_owned(),
            json!(config.tied_embeddings),
        );
        root.insert("torch_dtype".to_owned(), json!(dtype));
        root.insert("use_cache".to_owned(), json!(true));
        root.insert("bos_token_id".to_owned(), json!(end_of_text));
        root.insert("eos_token_id".to_owned(), json!(end_of_text));
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_comes_back_equal() {
        let llama = Config {
            rope_base: 500_000.0,
            ..Config::llama(320, 2, (4, 2), 32, 96, 64)
        };
        let gpt2 = Config {
            bias: false,
            dropout: 0.1,
            ..Config::gpt2(65, 2, 4, 32, 64)
        };
        let mistral = Config {
            attention_window: Some(16),
            ..llama.clone()
        };
        for config in [llama, mistral, gpt2] {
            let text = render(&config, "float32", Some(0)).to_string();
            let expected = Config {
                // Hugging Face's Llama has no residual dropout to keep it in.
                dropout: if config.family == Family::Llama {
                    0.0
                } else {
                    config.dropout
                },
                ..config
            };
            assert_eq!(parse(&text).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_its_key() {
        let base = render(&Config::llama(320, 2, (4, 2), 32, 96, 64), "float32", None);
        for (key, value) in [
            (
                "rope_scaling",
                json!({ "rope_type": "llama3", "factor": 8.0 }),
            ),
            ("attention_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("rope_parameters", json!({ "rope_type": "yarn" })),
            ("model_type", json!("mamba")),
            ("hidden_size", json!("wide")),
        ] {
            let mut root = base.clone();
            root[key] = value;
            let error = parse(&root.to_string()).unwrap_err();
            let named = if key == "rope_parameters" {
                "rope_type"
            } else {
                key
            };
            assert!(error.contains(named), "{key}: {error}");
        }
    }
}

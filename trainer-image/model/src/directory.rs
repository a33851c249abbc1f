//! Owns the Hugging Face directory of a model: which files it has and how they become a model and back; it
//! must not interpret tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::chat::ChatTemplate;
use crate::model::Model;
use crate::{Config, Error, hugging_face, weight};

/// Architecture.
pub const CONFIG_FILE: &str = "config.json";
/// Weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Tokenizer (tokenizers' own format).
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Special tokens and the chat template.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Defaults of generation: the ids that end an answer.
pub const GENERATION_FILE: &str = "generation_config.json";

/// The chat template of models made here: every message is `<|role|>`, content, `<|end|>`; the loss of tuning
/// lies on what follows `<|assistant|>`. Jinja, as `apply_chat_template` of Hugging Face renders it.
pub const CHAT_TEMPLATE: &str = "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}";

/// A Hugging Face model directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

fn damaged(path: PathBuf, problem: impl std::fmt::Display) -> Error {
    Error::Content {
        path,
        problem: problem.to_string(),
    }
}

impl Directory {
    /// The directory at `root`; nothing is read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        let path = self.path(name);
        std::fs::read_to_string(&path).map_err(Error::io(&path))
    }

    fn json(&self, name: &str) -> Result<Value, Error> {
        serde_json::from_str(&self.text(name)?).map_err(|error| damaged(self.path(name), error))
    }

    /// The architecture.
    ///
    /// # Errors
    /// [`Error::File`] when config.json is missing, [`Error::Content`] when it is damaged or asks for what is
    /// not supported.
    pub fn config(&self) -> Result<Config, Error> {
        hugging_face::parse(&self.text(CONFIG_FILE)?)
            .map_err(|problem| damaged(self.path(CONFIG_FILE), problem))
    }

    /// Reads the model to `device`. `weights` converts them (`None` keeps the file's kind); matrices are computed
    /// in `compute`, by default in the weights' kind. The weights are frozen.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Content`] naming the file: missing, truncated, flipped, a tensor missing, too
    /// many or of another shape than config.json says.
    pub fn load(
        &self,
        weights: Option<Kind>,
        compute: Option<Kind>,
        device: Device,
    ) -> Result<Model, Error> {
        let config = self.config()?;
        let path = self.path(WEIGHTS_FILE);
        let mut tensors = weight::read(&path, device)?;
        // The original GPT-2 files name tensors without the prefix and keep the causal masks as buffers.
        tensors.retain(|name, _| {
            !name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias")
        });
        let found = tensors.values().next().map_or(Kind::Float, Tensor::kind);
        let compute = compute.or(weights).unwrap_or(found);
        let (bias, tied) = (config.bias, config.tied_embeddings);
        let model = Model::build(config, compute, |name, shape, _| {
            let tensor = tensors
                .remove(name)
                .or_else(|| tensors.remove(name.trim_start_matches("transformer.")))
                .ok_or_else(|| damaged(path.clone(), format!("tensor {name} is missing")))?;
            if tensor.size() != shape {
                let problem = format!(
                    "tensor {name} has shape {:?}, config.json says {shape:?}",
                    tensor.size()
                );
                return Err(damaged(path.clone(), problem));
            }
            Ok(match weights {
                Some(kind) => tensor.to_kind(kind),
                None => tensor,
            })
        })?;
        let unread = tensors.iter().find(|(name, tensor)| {
            let zero_bias =
                !bias && name.ends_with(".bias") && !bool::try_from(tensor.any()).unwrap_or(true);
            let shared_head =
                tied && name.as_str() == "lm_head.weight" && tensor.equal(model.head());
            !(zero_bias || shared_head)
        });
        match unread {
            Some((name, _)) => Err(damaged(
                path.clone(),
                format!("tensor {name} has no place in the model"),
            )),
            None => Ok(model),
        }
    }

    /// Writes config.json, model.safetensors and generation_config.json. `ends` are the ids that end a text, the
    /// document separator first. Adapters must have been merged.
    ///
    /// # Errors
    /// [`Error::File`] when the directory cannot be written; [`Error::Adapter`] while adapters are not merged.
    pub fn save(&self, model: &Model, ends: &[i64]) -> Result<(), Error> {
        if !model.adapter_weights().is_empty() {
            return Err(Error::Adapter(
                "the model still has adapters; merge them before the export".to_owned(),
            ));
        }
        std::fs::create_dir_all(&self.root).map_err(Error::io(&self.root))?;
        let mut tensors = BTreeMap::new();
        for parameter in model.weights() {
            if !model.config().bias
                && model.config().family == crate::Family::Gpt2
                && let Some((name, width)) = zero_biases(&parameter.name, &parameter.tensor)
            {
                let zeros = Tensor::zeros([width], (parameter.tensor.kind(), Device::Cpu));
                tensors.insert(name, zeros);
            }
            tensors.insert(parameter.name, parameter.tensor);
        }
        let dtype = match model.head().kind() {
            Kind::BFloat16 => "bfloat16",
            Kind::Half => "float16",
            _ => "float32",
        };
        weight::write(&self.path(WEIGHTS_FILE), &tensors)?;
        self.write_json(
            CONFIG_FILE,
            &hugging_face::render(model.config(), dtype, ends.first().copied()),
        )?;
        self.write_json(
            GENERATION_FILE,
            &json!({ "bos_token_id": ends.first(), "eos_token_id": ends, "pad_token_id": ends.first() }),
        )
    }

    /// Copies tokenizer.json from `from` and writes tokenizer_config.json with the chat template; a
    /// tokenizer_config.json that `from` has is copied instead.
    ///
    /// # Errors
    /// [`Error::File`] naming the file.
    pub fn save_tokenizer(&self, from: &Path, end_of_text: &str) -> Result<(), Error> {
        std::fs::create_dir_all(&self.root).map_err(Error::io(&self.root))?;
        let file = from.join(TOKENIZER_FILE);
        std::fs::copy(&file, self.path(TOKENIZER_FILE)).map_err(Error::io(&file))?;
        let settings = from.join(TOKENIZER_CONFIG_FILE);
        if settings.exists() {
            std::fs::copy(&settings, self.path(TOKENIZER_CONFIG_FILE))
                .map_err(Error::io(&settings))?;
            return Ok(());
        }
        self.write_json(
            TOKENIZER_CONFIG_FILE,
            &json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.config().map(|config| config.context_length).ok(),
                "bos_token": end_of_text,
                "eos_token": end_of_text,
                "pad_token": end_of_text,
                "clean_up_tokenization_spaces": false,
                "chat_template": CHAT_TEMPLATE,
            }),
        )
    }

    fn write_json(&self, name: &str, value: &Value) -> Result<(), Error> {
        let path = self.path(name);
        let failed = Error::io(&path);
        let mut text = serde_json::to_string_pretty(value).map_err(|error| failed(error.into()))?;
        text.push('\n');
        let partial = path.with_extension("partial");
        std::fs::write(&partial, text).map_err(&failed)?;
        std::fs::rename(&partial, &path).map_err(&failed)
    }

    /// The ids that end a text: eos_token_id of generation_config.json, else of config.json, a number or a list.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Content`] when both files cannot be read.
    pub fn ends(&self) -> Result<Vec<i64>, Error> {
        let from = |root: &Value| match root.get("eos_token_id") {
            Some(Value::Number(id)) => id.as_i64().into_iter().collect(),
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
            _ => Vec::new(),
        };
        if self.path(GENERATION_FILE).exists() {
            let ends = from(&self.json(GENERATION_FILE)?);
            if !ends.is_empty() {
                return Ok(ends);
            }
        }
        Ok(from(&self.json(CONFIG_FILE)?))
    }

    /// The chat template in tokenizer_config.json, if there is one.
    ///
    /// # Errors
    /// [`Error::Content`] when the file is damaged, [`Error::Chat`] when the template cannot be parsed.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        if !self.path(TOKENIZER_CONFIG_FILE).exists() {
            return Ok(None);
        }
        let root = self.json(TOKENIZER_CONFIG_FILE)?;
        // A token is a string, or an object whose content is the string.
        let token = |key: &str| {
            let value = root.get(key);
            value
                .and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()))
                .unwrap_or_default()
        };
        match root.get("chat_template").and_then(Value::as_str) {
            Some(source) => {
                ChatTemplate::new(source, token("bos_token"), token("eos_token")).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Content`] naming tokenizer.json when it is missing or damaged.
    pub fn tokenizer(&self) -> Result<tokenizers::Tokenizer, Error> {
        let path = self.path(TOKENIZER_FILE);
        tokenizers::Tokenizer::from_file(&path).map_err(|error| damaged(path, error))
    }
}

/// Hugging Face's GPT-2 always has biases; for a model trained without, the file holds zeros.
fn zero_biases(name: &str, tensor: &Tensor) -> Option<(String, i64)> {
    let stem = name.strip_suffix(".weight")?;
    let has_bias = stem.contains(".ln_") || stem.contains(".attn.") || stem.contains(".mlp.");
    has_bias.then(|| {
        (
            format!("{stem}.bias"),
            tensor.size().last().copied().unwrap_or(0),
        )
    })
}

#[cfg(test)]
mod tests;

//! Owns the shape of a served model as `config.json` states it. It refuses whatever the forward
//! pass does not compute, instead of computing something else.

use serde::Deserialize;
use std::path::Path;

/// Why a model's shape is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source}; the model directory must be a Hugging Face export")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not the JSON of a known model.
    #[error("{path} is not understood: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A setting that is not computed here.
    #[error("config.json asks for {what}, which the native engine does not compute; serve this model with another engine")]
    Unsupported {
        /// The setting and its value.
        what: String,
    },
}

impl ArchitectureError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ModelUnreadable",
            Self::Parse { .. } => "ModelInvalid",
            Self::Unsupported { .. } => "ModelUnsupported",
        }
    }
}

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// A learned vector per position is added to the embedding (GPT-2).
    Learned,
    /// Queries and keys are rotated (RoPE, Su et al. 2021), halves as Hugging Face pairs them.
    Rotary {
        /// Base of the frequencies.
        base: f32,
    },
}

/// Shape of a decoder-only transformer of the GPT-2 or Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Positions; also tells the family: learned is GPT-2, rotary is Llama.
    pub position: Position,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Positions the model was built for.
    pub context: usize,
    /// Added to the variance in normalisation.
    pub epsilon: f32,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Ids that end a text.
    pub end_of_text: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct Gpt2 {
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_inner: Option<usize>,
    vocab_size: usize,
    n_positions: usize,
    layer_norm_epsilon: f32,
    activation_function: Option<String>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Ids>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
}

#[derive(Deserialize)]
struct Llama {
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

#[derive(Deserialize)]
struct Generation {
    eos_token_id: Option<Ids>,
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ArchitectureError> {
    let text = std::fs::read(path)
        .map_err(|source| ArchitectureError::Read { path: path.display().to_string(), source })?;
    serde_json::from_slice(&text)
        .map_err(|source| ArchitectureError::Parse { path: path.display().to_string(), source })
}

fn unsupported(what: impl Into<String>) -> ArchitectureError {
    ArchitectureError::Unsupported { what: what.into() }
}

impl Architecture {
    /// Reads `config.json` and, for the ids that end a text, `generation_config.json` of a model directory.
    ///
    /// # Errors
    /// When a file is missing or says something that is not computed.
    pub fn read(directory: &Path) -> Result<Self, ArchitectureError> {
        let path = directory.join("config.json");
        let kind: Kind = read(&path)?;
        let mut architecture = match kind.model_type.as_str() {
            "gpt2" => read::<Gpt2>(&path)?.resolve()?,
            "llama" => read::<Llama>(&path)?.resolve()?,
            other => return Err(unsupported(format!("model_type {other:?}"))),
        };
        let generation = directory.join("generation_config.json");
        if generation.exists() {
            let generation: Generation = read(&generation)?;
            for id in generation.eos_token_id.map(Ids::list).unwrap_or_default() {
                if !architecture.end_of_text.contains(&id) {
                    architecture.end_of_text.push(id);
                }
            }
        }
        architecture.check()
    }

    fn check(self) -> Result<Self, ArchitectureError> {
        let counts = [self.layers, self.hidden, self.heads, self.key_value_heads, self.head_width, self.vocabulary, self.context];
        if counts.contains(&0) {
            return Err(unsupported("a size of 0"));
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return Err(unsupported(format!("{} heads over {} key-value heads", self.heads, self.key_value_heads)));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(unsupported(format!("an odd head width of {}", self.head_width)));
        }
        Ok(self)
    }
}

impl Gpt2 {
    fn resolve(self) -> Result<Architecture, ArchitectureError> {
        let activation = self.activation_function.as_deref().unwrap_or("gelu_new");
        if activation != "gelu_new" && activation != "gelu_pytorch_tanh" {
            return Err(unsupported(format!("activation {activation:?}")));
        }
        if self.scale_attn_weights == Some(false) || self.scale_attn_by_inverse_layer_idx == Some(true) {
            return Err(unsupported("another scale of attention than 1/sqrt(head width)"));
        }
        Ok(Architecture {
            position: Position::Learned,
            layers: self.n_layer,
            hidden: self.n_embd,
            heads: self.n_head,
            key_value_heads: self.n_head,
            head_width: self.n_embd / self.n_head.max(1),
            feed_forward: self.n_inner.unwrap_or(self.n_embd * 4),
            vocabulary: self.vocab_size,
            context: self.n_positions,
            epsilon: self.layer_norm_epsilon,
            tied: self.tie_word_embeddings.unwrap_or(true),
            end_of_text: self.eos_token_id.map(Ids::list).unwrap_or_default(),
        })
    }
}

impl Llama {
    fn resolve(self) -> Result<Architecture, ArchitectureError> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        if activation != "silu" {
            return Err(unsupported(format!("activation {activation:?}")));
        }
        // Newer exports write the base into `rope_parameters` together with the type of scaling.
        for scaling in [&self.rope_scaling, &self.rope_parameters].into_iter().flatten() {
            let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(|kind| kind.as_str());
            if kind.is_some_and(|kind| kind != "default") {
                return Err(unsupported(format!("rope scaling {scaling}")));
            }
        }
        let nested = self.rope_parameters.as_ref().and_then(|rope| rope.get("rope_theta")).and_then(serde_json::Value::as_f64);
        Ok(Architecture {
            position: Position::Rotary { base: self.rope_theta.or(nested.map(|base| base as f32)).unwrap_or(10_000.0) },
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_width: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            feed_forward: self.intermediate_size,
            vocabulary: self.vocab_size,
            context: self.max_position_embeddings,
            epsilon: self.rms_norm_eps,
            tied: self.tie_word_embeddings.unwrap_or(false),
            end_of_text: self.eos_token_id.map(Ids::list).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        directory
    }

    const LLAMA: &str = r#"{"model_type":"llama","num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":96,"vocab_size":50,"max_position_embeddings":32,
        "rms_norm_eps":1e-5,"eos_token_id":0,"rope_theta":500000.0}"#;

    #[test]
    fn llama_shape_and_all_end_ids_are_read() {
        let directory = directory(LLAMA);
        std::fs::write(directory.path().join("generation_config.json"), r#"{"eos_token_id":[0,3]}"#).unwrap();
        let shape = Architecture::read(directory.path()).unwrap();
        assert_eq!((shape.head_width, shape.key_value_heads, shape.tied), (16, 2, false));
        assert_eq!(shape.position, Position::Rotary { base: 500_000.0 });
        assert_eq!(shape.end_of_text, [0, 3]);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let scaled = LLAMA.replace("\"rope_theta\"", "\"rope_scaling\":{\"rope_type\":\"llama3\"},\"rope_theta\"");
        let cases = [
            (scaled, "llama3"),
            (LLAMA.replace("\"llama\"", "\"mamba\""), "mamba"),
            (LLAMA.replace("\"num_key_value_heads\":2", "\"num_key_value_heads\":3"), "key-value heads"),
        ];
        for (config, word) in cases {
            let error = Architecture::read(directory(&config).path()).unwrap_err();
            assert_eq!(error.category(), "ModelUnsupported");
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = Architecture::read(directory("{").path()).unwrap_err();
        assert_eq!(error.category(), "ModelInvalid");
    }
}

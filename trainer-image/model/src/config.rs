//! Owns the architecture of a model as numbers and refuses impossible ones; it must not allocate tensors.

use crate::Error;

/// Model family; each exports to the Hugging Face family of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LayerNorm, GELU (tanh form), learned positions (Radford et al. 2019).
    Gpt2,
    /// RMSNorm, SwiGLU, rotary positions, grouped-query attention (Touvron et al. 2023).
    Llama,
}

/// Architecture of a model. Sizes are in elements, lengths in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Family.
    pub family: Family,
    /// Token ids run from 0 to this, exclusive.
    pub vocabulary_size: i64,
    /// Blocks.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`. GPT-2 has as many as query heads.
    pub key_value_heads: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of one head.
    pub head_size: i64,
    /// Width of the feed-forward layer.
    pub feed_forward_size: i64,
    /// Longest sequence.
    pub context_length: i64,
    /// Added to the variance in every norm.
    pub norm_epsilon: f64,
    /// Tokens that attention looks back, the own one included; all when absent. Llama's only: with it the model is
    /// what Hugging Face calls Mistral (Jiang et al. 2023, section 2).
    pub attention_window: Option<i64>,
    /// Base of the rotary frequencies (Llama).
    pub rope_base: f64,
    /// Input embedding and head share weights.
    pub tied_embeddings: bool,
    /// Linear layers and LayerNorms have biases (GPT-2; Llama has none).
    pub bias: bool,
    /// Dropout probability while training.
    pub dropout: f64,
}

impl Config {
    /// A GPT-2 with the family's usual proportions: feed-forward 4 times the width, tied, with biases.
    pub fn gpt2(
        vocabulary_size: i64,
        layers: i64,
        heads: i64,
        hidden_size: i64,
        context_length: i64,
    ) -> Self {
        Self {
            family: Family::Gpt2,
            vocabulary_size,
            layers,
            heads,
            key_value_heads: heads,
            hidden_size,
            head_size: hidden_size / heads.max(1),
            feed_forward_size: 4 * hidden_size,
            context_length,
            norm_epsilon: 1e-5,
            attention_window: None,
            rope_base: 10_000.0,
            tied_embeddings: true,
            bias: true,
            dropout: 0.0,
        }
    }

    /// A Llama with explicit feed-forward size and grouped-query attention, untied.
    pub fn llama(
        vocabulary_size: i64,
        layers: i64,
        (heads, key_value_heads): (i64, i64),
        hidden_size: i64,
        feed_forward_size: i64,
        context_length: i64,
    ) -> Self {
        Self {
            family: Family::Llama,
            key_value_heads,
            feed_forward_size,
            tied_embeddings: false,
            bias: false,
            ..Self::gpt2(vocabulary_size, layers, heads, hidden_size, context_length)
        }
    }

    /// Refuses shapes that cannot be computed.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |field, problem: String| Err(Error::Config { field, problem });
        for (field, value) in [
            ("vocabularySize", self.vocabulary_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("keyValueHeads", self.key_value_heads),
            ("hiddenSize", self.hidden_size),
            ("headSize", self.head_size),
            ("feedForwardSize", self.feed_forward_size),
            ("contextLength", self.context_length),
        ] {
            if value < 1 {
                return refuse(field, format!("is {value}; it must be at least 1"));
            }
        }
        if self.heads % self.key_value_heads != 0 {
            return refuse(
                "keyValueHeads",
                format!(
                    "{} does not divide the {} heads; choose a divisor",
                    self.key_value_heads, self.heads
                ),
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(
                "dropout",
                format!("is {}; it must be at least 0 and below 1", self.dropout),
            );
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon > 0.0) {
            return refuse(
                "normEpsilon",
                format!("is {}; it must be above 0", self.norm_epsilon),
            );
        }
        match self.attention_window {
            Some(window) if window < 1 => {
                return refuse(
                    "attentionWindow",
                    format!("is {window}; it must be at least 1"),
                );
            }
            Some(_) if self.family == Family::Gpt2 => {
                return refuse(
                    "attentionWindow",
                    "is not supported for GPT-2; choose Llama".to_owned(),
                );
            }
            _ => {}
        }
        match self.family {
            Family::Gpt2 if self.key_value_heads != self.heads => refuse(
                "keyValueHeads",
                "must equal heads: GPT-2 has no grouped-query attention".to_owned(),
            ),
            Family::Gpt2 if self.head_size.saturating_mul(self.heads) != self.hidden_size => {
                refuse(
                    "hiddenSize",
                    format!(
                        "{} is no multiple of the {} heads; choose a multiple",
                        self.hidden_size, self.heads
                    ),
                )
            }
            Family::Llama if self.head_size % 2 != 0 => refuse(
                "hiddenSize",
                format!(
                    "gives heads of width {}, but rotary positions need an even one",
                    self.head_size
                ),
            ),
            Family::Llama if self.bias => refuse("bias", "is not supported for Llama".to_owned()),
            _ => Ok(()),
        }
    }

    /// Number of weights, shared ones counted once.
    pub fn parameters(&self) -> i64 {
        let (hidden, feed) = (self.hidden_size, self.feed_forward_size);
        let queries = self.heads * self.head_size;
        let values = self.key_value_heads * self.head_size;
        let attention = hidden * (2 * queries + 2 * values);
        let bias = i64::from(self.bias);
        let (block, ends) = match self.family {
            Family::Gpt2 => (
                attention
                    + 2 * hidden * feed
                    + 2 * hidden
                    + bias * (queries + 2 * values + hidden + feed + hidden + 2 * hidden),
                self.context_length * hidden + hidden + bias * hidden,
            ),
            Family::Llama => (attention + 3 * hidden * feed + 2 * hidden, hidden),
        };
        let tables = if self.tied_embeddings { 1 } else { 2 };
        self.layers * block + ends + tables * self.vocabulary_size * hidden
    }

    /// Floating-point operations of one training token, forward and backward: 6 per matrix weight plus
    /// attention's 12 x layers x width x context (Chowdhery et al. 2022, appendix B), of a window what it sees.
    pub fn training_flops_per_token(&self, sequence_length: i64) -> f64 {
        let seen = sequence_length.min(self.attention_window.unwrap_or(sequence_length));
        let lookups = match self.family {
            Family::Gpt2 => self.context_length * self.hidden_size,
            Family::Llama => 0,
        } + if self.tied_embeddings {
            0
        } else {
            self.vocabulary_size * self.hidden_size
        };
        let matrices = self.parameters() - lookups;
        6.0 * matrices as f64 + 12.0 * (self.layers * self.heads * self.head_size * seen) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes_come_out() {
        // GPT-2 small: 124,439,808 (Hugging Face's model card); TinyLlama 1.1B: 1,100,048,384.
        assert_eq!(
            Config::gpt2(50_257, 12, 12, 768, 1024).parameters(),
            124_439_808
        );
        assert_eq!(
            Config::llama(32_000, 22, (32, 4), 2048, 5632, 2048).parameters(),
            1_100_048_384
        );
    }

    #[test]
    fn impossible_shapes_name_their_field() {
        let cases: [(Config, &str); 5] = [
            (Config::gpt2(10, 1, 3, 16, 8), "hiddenSize"),
            (Config::gpt2(0, 1, 2, 16, 8), "vocabularySize"),
            (Config::llama(10, 1, (4, 3), 16, 32, 8), "keyValueHeads"),
            (Config::llama(10, 1, (4, 4), 12, 32, 8), "hiddenSize"),
            (
                Config {
                    dropout: 1.0,
                    ..Config::gpt2(10, 1, 2, 16, 8)
                },
                "dropout",
            ),
        ];
        for (config, expected) in cases {
            match config.validate() {
                Err(Error::Config { field, .. }) => assert_eq!(field, expected),
                other => panic!("{config:?}: {other:?}"),
            }
        }
        assert!(Config::llama(10, 1, (4, 2), 16, 32, 8).validate().is_ok());
    }
}

//! Owns a whole model: how it is built from tensors, and its passes for training and serving; it must not
//! read or write files.

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::adapter::{Adapter, AdapterSpec};
use crate::attention::{self, Attention, Pattern, Projection, Rotary};
use crate::cache::{Cache, Segment};
use crate::config::{Config, Family};
use crate::initialise::normal;
use crate::layer::{FeedForward, Layout, Linear, Norm, NormForm, cast};
use crate::parameter::Parameter;

/// One Transformer block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    feed_norm: Norm,
    feed: FeedForward,
}

/// A decoder-only language model.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Tensor,
    positions: Option<Tensor>,
    rotary: Option<Rotary>,
    blocks: Vec<Block>,
    norm: Norm,
    /// The head when it is not shared with the embedding, `[vocabulary, hidden]`.
    head: Option<Tensor>,
    compute: Kind,
}

/// What a tensor is for; decides how it is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Matrix,
    /// A matrix whose output is added to the residual stream.
    Residual,
    Scale,
    Bias,
}

impl Model {
    /// A new model with nanoGPT's initialisation: N(0, 0.02), residual projections 0.02 / sqrt(2 layers), norms
    /// one, biases zero; every weight is a function of `seed` and its name. Weights are FP32 and trainable;
    /// `compute` is the kind of the matrices' arithmetic.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible shape.
    pub fn new(config: Config, seed: u64, compute: Kind, device: Device) -> Result<Self, Error> {
        config.validate()?;
        let residual = 0.02 / (2.0 * config.layers as f64).sqrt();
        let options = (Kind::Float, device);
        let mut model = Self::build(config, compute, |name, shape, role| {
            Ok(match role {
                Role::Matrix => normal(seed, name, shape, 0.02, device)?,
                Role::Residual => normal(seed, name, shape, residual, device)?,
                Role::Scale => Tensor::ones(shape, options),
                Role::Bias => Tensor::zeros(shape, options),
            })
        })?;
        model.set_trainable(true);
        Ok(model)
    }

    /// Builds a model from tensors that `take(name, shape, role)` hands out, names as in Hugging Face's files.
    pub(crate) fn build(
        config: Config,
        compute: Kind,
        mut take: impl FnMut(&str, &[i64], Role) -> Result<Tensor, Error>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let (hidden, vocabulary) = (config.hidden_size, config.vocabulary_size);
        let layer_names = Names::of(config.family);
        let embedding = take(layer_names.embedding, &[vocabulary, hidden], Role::Matrix)?;
        let positions = match config.family {
            Family::Gpt2 => Some(take(
                "transformer.wpe.weight",
                &[config.context_length, hidden],
                Role::Matrix,
            )?),
            Family::Llama => None,
        };
        let mut blocks = Vec::new();
        for index in 0..config.layers {
            blocks.push(build_block(
                &config,
                &format!("{}.{index}", layer_names.blocks),
                &mut take,
            )?);
        }
        let norm = build_norm(&config, layer_names.norm.to_owned(), &mut take)?;
        let head = if config.tied_embeddings {
            None
        } else {
            Some(take("lm_head.weight", &[vocabulary, hidden], Role::Matrix)?)
        };
        let rotary = matches!(config.family, Family::Llama).then(|| {
            Rotary::new(
                config.context_length,
                config.head_size,
                config.rope_base,
                embedding.device(),
            )
        });
        Ok(Self {
            config,
            embedding,
            positions,
            rotary,
            blocks,
            norm,
            head,
            compute,
        })
    }

    /// Architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// Kind of the matrices' arithmetic.
    pub fn compute(&self) -> Kind {
        self.compute
    }

    /// The head's weight `[vocabulary, hidden]`; the embedding's when they are shared.
    pub fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Logits `[tokens, vocabulary]` of hidden states `[tokens, hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&cast(self.head(), hidden.kind()), None::<&Tensor>)
    }

    /// Training pass: `tokens` `[sequences, length]` (int64) to final hidden states `[sequences * length, hidden]`.
    /// `documents` of the same shape numbers the documents of a pack; tokens then see only their own document,
    /// exactly. Positions still count from the start of the row. `train` turns dropout on.
    ///
    /// # Errors
    /// [`Error::Context`] when the length exceeds the context; libtorch's words for ids out of range.
    pub fn hidden(
        &self,
        tokens: &Tensor,
        documents: Option<&Tensor>,
        train: bool,
    ) -> Result<Tensor, Error> {
        let (sequences, length) = tokens.size2()?;
        if length > self.config.context_length {
            return Err(Error::Context {
                wanted: length,
                limit: self.config.context_length,
            });
        }
        let positions = Tensor::arange(length, (Kind::Int64, self.device()));
        let same = documents.map(|ids| {
            let same = ids.unsqueeze(2).eq_tensor(&ids.unsqueeze(1));
            same.tril(0).unsqueeze(1)
        });
        let window = self
            .config
            .attention_window
            .filter(|window| *window < length);
        let near = window.map(|window| attention::near(0, length, window, self.device()));
        let mask = match (same, near) {
            (Some(same), Some(near)) => Some(same.logical_and(&near)),
            (same, near) => same.or(near),
        };
        let pattern = Pattern {
            sequences,
            length,
            mask,
        };
        let mut x = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?;
        if let Some(table) = &self.positions {
            x += table.narrow(0, 0, length);
        }
        let dropout = if train { self.config.dropout } else { 0.0 };
        let drop = |x: Tensor| {
            if dropout > 0.0 {
                x.dropout(dropout, true)
            } else {
                x
            }
        };
        let mut x = drop(x.view([-1, self.config.hidden_size]));
        let rotation = self
            .rotary
            .as_ref()
            .map(|rotary| rotary.at(&positions.repeat([sequences])));
        for block in &self.blocks {
            let normed = block.attention_norm.forward(&x, self.compute);
            let y = block
                .attention
                .forward(&normed, &pattern, rotation.as_ref(), train);
            x = &x + drop(cast(&y, x.kind()));
            let y = block
                .feed
                .forward(&block.feed_norm.forward(&x, self.compute));
            x = &x + drop(cast(&y, x.kind()));
        }
        Ok(self.norm.forward(&x, self.compute))
    }

    /// Logits `[sequences, length, vocabulary]` of whole sequences, without gradients or dropout.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor, Error> {
        let (sequences, length) = tokens.size2()?;
        tch::no_grad(|| {
            let hidden = self.hidden(tokens, None, false)?;
            Ok(self
                .logits(&hidden)
                .view([sequences, length, self.config.vocabulary_size]))
        })
    }

    /// An empty cache for one sequence, with room for `room` tokens to begin with.
    pub fn cache(&self, room: i64) -> Cache {
        Cache::new(&self.config, room, self.compute, self.device())
    }

    /// Serving pass over a ragged batch: `tokens` `[all new tokens]` (int64) holds the new tokens of each segment
    /// one after another; each continues what its cache holds, and is added to it. Returns final hidden states
    /// `[all new tokens, hidden]`: choose rows (`index_select`), then [`Model::logits`]. No gradients.
    ///
    /// # Errors
    /// [`Error::Context`] when a sequence would exceed the context; then no cache has changed.
    /// [`Error::Config`] when the segments do not add up to the tokens.
    pub fn extend(&self, tokens: &Tensor, segments: &mut [Segment<'_>]) -> Result<Tensor, Error> {
        let total: i64 = segments.iter().map(|segment| segment.tokens).sum();
        if total != tokens.size1()? || segments.iter().any(|segment| segment.tokens < 1) {
            let problem = format!(
                "add up to {total} for {:?} tokens; each needs at least 1",
                tokens.size()
            );
            return Err(Error::Config {
                field: "segments",
                problem,
            });
        }
        tch::no_grad(|| {
            for segment in segments.iter_mut() {
                segment.cache.reserve(segment.tokens)?;
            }
            let positions: Vec<i64> = segments
                .iter()
                .flat_map(|segment| segment.cache.length()..segment.cache.length() + segment.tokens)
                .collect();
            let positions = Tensor::from_slice(&positions).to_device(self.device());
            let mut x = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?;
            if let Some(table) = &self.positions {
                x += table.index_select(0, &positions);
            }
            let rotation = self.rotary.as_ref().map(|rotary| rotary.at(&positions));
            for (index, block) in self.blocks.iter().enumerate() {
                let normed = block.attention_norm.forward(&x, self.compute);
                let y = block
                    .attention
                    .extend(&normed, segments, index, rotation.as_ref());
                x += cast(&y, x.kind());
                let y = block
                    .feed
                    .forward(&block.feed_norm.forward(&x, self.compute));
                x += cast(&y, x.kind());
            }
            for segment in segments.iter_mut() {
                segment.cache.advance(segment.tokens);
            }
            Ok(self.norm.forward(&x, self.compute))
        })
    }

    /// The model's own weights in a stable order, adapters left out; they share storage with the model.
    pub fn weights(&self) -> Vec<Parameter> {
        let mut all = vec![Parameter::new(
            Names::of(self.config.family).embedding.to_owned(),
            &self.embedding,
        )];
        if let Some(positions) = &self.positions {
            all.push(Parameter::new(
                "transformer.wpe.weight".to_owned(),
                positions,
            ));
        }
        for block in &self.blocks {
            block.attention_norm.collect(&mut all);
            for linear in block.attention.linears() {
                linear.collect(&mut all);
            }
            block.feed_norm.collect(&mut all);
            for (_, linear) in block.feed.linears() {
                linear.collect(&mut all);
            }
        }
        self.norm.collect(&mut all);
        if let Some(head) = &self.head {
            all.push(Parameter::new("lm_head.weight".to_owned(), head));
        }
        all
    }

    /// The weights of adapters, in a stable order; empty without.
    pub fn adapter_weights(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for block in &self.blocks {
            for linear in block.attention.linears() {
                linear.collect_adapters(&mut all);
            }
            for (_, linear) in block.feed.linears() {
                linear.collect_adapters(&mut all);
            }
        }
        all
    }

    /// What training changes: the adapters if there are any, else all weights.
    pub fn trainable(&self) -> Vec<Parameter> {
        let adapters = self.adapter_weights();
        if adapters.is_empty() {
            self.weights()
        } else {
            adapters
        }
    }

    /// Makes the model's own weights trainable or freezes them.
    pub fn set_trainable(&mut self, trainable: bool) {
        for weight in self.weights() {
            let _ = weight.tensor.set_requires_grad(trainable);
        }
    }

    /// Changes the dropout probability of training passes.
    pub fn set_dropout(&mut self, dropout: f64) {
        self.config.dropout = dropout;
        for block in &mut self.blocks {
            block.attention.dropout = dropout;
        }
    }

    /// Adds low-rank adapters to every block and freezes everything else; their first values are a function of
    /// `seed` and name. The outputs do not change until the adapters are trained.
    ///
    /// # Errors
    /// [`Error::Adapter`] for a bad rank, alpha or target, or one that this family lacks (`gate` in GPT-2).
    pub fn adapt(&mut self, spec: &AdapterSpec, seed: u64) -> Result<(), Error> {
        spec.validate()?;
        if self.config.family == Family::Gpt2 && spec.targets.iter().any(|target| target == "gate")
        {
            return Err(Error::Adapter(
                "GPT-2 has no gate projection; leave `gate` out".to_owned(),
            ));
        }
        self.set_trainable(false);
        for block in &mut self.blocks {
            let feed = block
                .feed
                .linears_mut()
                .into_iter()
                .map(|(target, linear)| {
                    let (_, outputs) = linear.shape();
                    (vec![(target, 0, outputs)], linear)
                });
            for (parts, linear) in block.attention.linears_mut().into_iter().chain(feed) {
                let (inputs, _) = linear.shape();
                for (target, start, width) in parts {
                    if spec.targets.iter().any(|wanted| wanted == target) {
                        let name = format!("{}.{target}", linear.name);
                        linear.adapters.push(Adapter::new(
                            name,
                            spec,
                            inputs,
                            (start, width),
                            seed,
                            linear.weight.device(),
                        )?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the adapters to the weights and drops them; the weights stay frozen.
    pub fn merge(&mut self) {
        for block in &mut self.blocks {
            for (_, linear) in block.attention.linears_mut() {
                linear.merge();
            }
            for (_, linear) in block.feed.linears_mut() {
                linear.merge();
            }
        }
    }
}

/// Where a family's files keep the tensors outside the blocks.
struct Names {
    embedding: &'static str,
    blocks: &'static str,
    norm: &'static str,
}

impl Names {
    fn of(family: Family) -> Self {
        match family {
            Family::Gpt2 => Self {
                embedding: "transformer.wte.weight",
                blocks: "transformer.h",
                norm: "transformer.ln_f",
            },
            Family::Llama => Self {
                embedding: "model.embed_tokens.weight",
                blocks: "model.layers",
                norm: "model.norm",
            },
        }
    }
}

type Take<'a> = dyn FnMut(&str, &[i64], Role) -> Result<Tensor, Error> + 'a;

fn build_norm(config: &Config, name: String, take: &mut Take<'_>) -> Result<Norm, Error> {
    let shape = [config.hidden_size];
    let weight = take(&format!("{name}.weight"), &shape, Role::Scale)?;
    let form = match config.family {
        Family::Gpt2 if config.bias => {
            NormForm::Layer(Some(take(&format!("{name}.bias"), &shape, Role::Bias)?))
        }
        Family::Gpt2 => NormForm::Layer(None),
        Family::Llama => NormForm::RootMeanSquare,
    };
    Ok(Norm {
        name,
        weight,
        form,
        epsilon: config.norm_epsilon,
    })
}

fn build_linear(
    config: &Config,
    name: String,
    (inputs, outputs): (i64, i64),
    role: Role,
    take: &mut Take<'_>,
) -> Result<Linear, Error> {
    let (layout, shape) = match config.family {
        Family::Gpt2 => (Layout::InputOutput, [inputs, outputs]),
        Family::Llama => (Layout::OutputInput, [outputs, inputs]),
    };
    let weight = take(&format!("{name}.weight"), &shape, role)?;
    let bias = if config.bias {
        Some(take(&format!("{name}.bias"), &[outputs], Role::Bias)?)
    } else {
        None
    };
    Ok(Linear {
        name,
        weight,
        bias,
        layout,
        adapters: Vec::new(),
    })
}

fn build_block(config: &Config, name: &str, take: &mut Take<'_>) -> Result<Block, Error> {
    let (hidden, feed) = (config.hidden_size, config.feed_forward_size);
    let width = config.heads * config.head_size;
    let narrow = config.key_value_heads * config.head_size;
    let (attention_norm, projection, output, feed_norm, feed) = match config.family {
        Family::Gpt2 => (
            build_norm(config, format!("{name}.ln_1"), take)?,
            Projection::Fused(build_linear(
                config,
                format!("{name}.attn.c_attn"),
                (hidden, 3 * hidden),
                Role::Matrix,
                take,
            )?),
            build_linear(
                config,
                format!("{name}.attn.c_proj"),
                (hidden, hidden),
                Role::Residual,
                take,
            )?,
            build_norm(config, format!("{name}.ln_2"), take)?,
            FeedForward::Gelu {
                up: build_linear(
                    config,
                    format!("{name}.mlp.c_fc"),
                    (hidden, feed),
                    Role::Matrix,
                    take,
                )?,
                down: build_linear(
                    config,
                    format!("{name}.mlp.c_proj"),
                    (feed, hidden),
                    Role::Residual,
                    take,
                )?,
            },
        ),
        Family::Llama => {
            let linear = |part: &str, shape, role, take: &mut Take<'_>| {
                build_linear(config, format!("{name}.{part}"), shape, role, take)
            };
            (
                build_norm(config, format!("{name}.input_layernorm"), take)?,
                Projection::Split {
                    q: linear("self_attn.q_proj", (hidden, width), Role::Matrix, take)?,
                    k: linear("self_attn.k_proj", (hidden, narrow), Role::Matrix, take)?,
                    v: linear("self_attn.v_proj", (hidden, narrow), Role::Matrix, take)?,
                },
                linear("self_attn.o_proj", (width, hidden), Role::Residual, take)?,
                build_norm(config, format!("{name}.post_attention_layernorm"), take)?,
                FeedForward::SwiGlu {
                    gate: linear("mlp.gate_proj", (hidden, feed), Role::Matrix, take)?,
                    up: linear("mlp.up_proj", (hidden, feed), Role::Matrix, take)?,
                    down: linear("mlp.down_proj", (feed, hidden), Role::Residual, take)?,
                },
            )
        }
    };
    let attention = Attention {
        projection,
        output,
        heads: config.heads,
        key_value_heads: config.key_value_heads,
        head_size: config.head_size,
        window: config.attention_window,
        dropout: config.dropout,
    };
    Ok(Block {
        attention_norm,
        attention,
        feed_norm,
        feed,
    })
}

#[cfg(test)]
mod tests;

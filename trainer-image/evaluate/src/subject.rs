//! Owns a model under evaluation with its tokenizer and chat template: log-likelihoods and answers; it must not
//! know suites or metrics.
//!
//! Numbers do not depend on batch sizes: a window is always a forward pass of its own, since the order of sums in
//! a matrix product depends on its number of rows, and answers are decoded in groups that only the order decides.

use std::path::Path;

use bessemer_model::{CHAT_TEMPLATE, Cache, ChatTemplate, Directory, Message, Model, Segment};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

use crate::Error;
use crate::sampler::Sampler;
use crate::window::{Window, rolling};

/// Answers decoded together; fixed, so that it can change no number.
pub(crate) const GROUP: usize = 8;
/// Rows whose log-probabilities are held at once.
const ROWS: i64 = 256;

/// A model with all that turns text into numbers.
#[derive(Debug)]
pub struct Subject {
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    ends: Vec<i64>,
}

/// Log-probabilities of some tokens of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Natural logarithms, one per scored token.
    pub tokens: Vec<f64>,
}

impl Likelihood {
    /// Sum.
    pub fn total(&self) -> f64 {
        self.tokens.iter().sum()
    }
}

impl Subject {
    /// Loads a Hugging Face directory in FP32 onto `device`.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file.
    pub fn load(directory: &Path, device: Device) -> Result<Self, Error> {
        let directory = Directory::new(directory);
        let model = directory.load(Some(Kind::Float), None, device)?;
        let template = match directory.chat_template()? {
            Some(template) => template,
            None => ChatTemplate::new(CHAT_TEMPLATE, "", "")?,
        };
        Ok(Self {
            model,
            tokenizer: directory.tokenizer()?,
            template,
            ends: directory.ends()?,
        })
    }

    fn context(&self) -> usize {
        usize::try_from(self.model.config().context_length).unwrap_or(1)
    }

    fn ids(&self, ids: &[i64]) -> Tensor {
        Tensor::from_slice(ids).to_device(self.model.device())
    }

    fn encode(&self, text: &str) -> Result<tokenizers::Encoding, Error> {
        self.tokenizer
            .encode(text, false)
            .map_err(|error| Error::config("tokenizer", format!("cannot encode a text: {error}")))
    }

    /// Log-probabilities of all tokens of a document, in rolling windows; the first token is conditioned on the
    /// token that ends texts.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Libtorch`].
    pub fn document(&self, text: &str) -> Result<Likelihood, Error> {
        let ids: Vec<i64> = self
            .encode(text)?
            .get_ids()
            .iter()
            .map(|id| i64::from(*id))
            .collect();
        let windows = rolling(ids.len(), self.context());
        let mut sequence = vec![self.ends.first().copied().unwrap_or(0)];
        sequence.extend(ids);
        let mut tokens = Vec::with_capacity(sequence.len());
        for window in &windows {
            tokens.extend(self.window(&sequence, window)?);
        }
        Ok(Likelihood { tokens })
    }

    /// Log-probabilities of the tokens of a conversation's last answer, the end of its turn included, under the
    /// chat template. What exceeds the context is not scored, as in tuning.
    ///
    /// # Errors
    /// [`Error::Model`] when the template refuses the conversation, [`Error::Libtorch`].
    pub fn answer(&self, messages: &[Message]) -> Result<Likelihood, Error> {
        let (text, ranges) = self.template.answers(messages)?;
        let answer = ranges.last().cloned().unwrap_or_default();
        let encoding = self.encode(&text)?;
        let ids: Vec<i64> = encoding
            .get_ids()
            .iter()
            .take(self.context() + 1)
            .map(|id| i64::from(*id))
            .collect();
        if ids.len() < 2 {
            return Ok(Likelihood::default());
        }
        let all = self.window(
            &ids,
            &Window {
                inputs: 0..ids.len() - 1,
                predicted: ids.len() - 1,
            },
        )?;
        let says = encoding
            .get_offsets()
            .iter()
            .map(|(start, _)| answer.contains(start));
        let tokens = all
            .into_iter()
            .zip(says.skip(1))
            .filter(|(_, says)| *says)
            .map(|(value, _)| value)
            .collect();
        Ok(Likelihood { tokens })
    }

    fn window(&self, sequence: &[i64], window: &Window) -> Result<Vec<f64>, Error> {
        let inputs = sequence.get(window.inputs.clone()).unwrap_or_default();
        let first = window.inputs.end + 1 - window.predicted;
        let targets = sequence.get(first..=window.inputs.end).unwrap_or_default();
        tch::no_grad(|| {
            let hidden = self
                .model
                .hidden(&self.ids(inputs).unsqueeze(0), None, false)?;
            let predicted = targets.len() as i64;
            let hidden = hidden.narrow(0, inputs.len() as i64 - predicted, predicted);
            let targets = self.ids(targets);
            let mut values = Vec::with_capacity(window.predicted);
            let mut row = 0;
            while row < predicted {
                let rows = ROWS.min(predicted - row);
                let logits = self.model.logits(&hidden.narrow(0, row, rows));
                let chosen = logits.f_log_softmax(-1, Kind::Double)?.f_gather(
                    1,
                    &targets.narrow(0, row, rows).unsqueeze(1),
                    false,
                )?;
                values.extend(Vec::<f64>::try_from(chosen.view([-1]))?);
                row += rows;
            }
            Ok(values)
        })
    }

    /// Answers to conversations, in order, each with at most `limit` tokens. `seeds` gives each its random
    /// numbers. A prompt that leaves no room loses its beginning.
    ///
    /// # Errors
    /// [`Error::Model`] when the template refuses a conversation, [`Error::Libtorch`].
    pub(crate) fn generate(
        &self,
        prompts: &[&[Message]],
        seeds: &[u64],
        limit: usize,
        sampler: Sampler,
    ) -> Result<Vec<Answer>, Error> {
        let room = self.context().saturating_sub(limit).max(1);
        let mut running = Vec::new();
        for (prompt, seed) in prompts.iter().zip(seeds) {
            let text = self.template.render(prompt, true)?;
            let ids: Vec<i64> = self
                .encode(&text)?
                .get_ids()
                .iter()
                .map(|id| i64::from(*id))
                .collect();
            let cut = ids.len().saturating_sub(room);
            let ids = ids.get(cut..).unwrap_or_default();
            let mut cache = self.model.cache((ids.len() + limit) as i64);
            let segments = &mut [Segment {
                cache: &mut cache,
                tokens: ids.len() as i64,
            }];
            let hidden = self.model.extend(&self.ids(ids), segments)?;
            let logits = tch::no_grad(|| {
                self.model
                    .logits(&hidden.narrow(0, hidden.size2()?.0 - 1, 1))
                    .f_view([-1])
            })?;
            let random = ChaCha8Rng::seed_from_u64(*seed);
            let mut one = Running {
                cache,
                ids: Vec::new(),
                random,
                done: false,
                ended: false,
            };
            one.take(
                &Vec::<f32>::try_from(logits.to_kind(Kind::Float))?,
                sampler,
                &self.ends,
                limit,
            );
            running.push(one);
        }
        loop {
            let mut active: Vec<&mut Running> =
                running.iter_mut().filter(|one| !one.done).collect();
            if active.is_empty() {
                break;
            }
            let tokens: Vec<i64> = active
                .iter()
                .filter_map(|one| one.ids.last().copied())
                .collect();
            let mut segments: Vec<Segment<'_>> = active
                .iter_mut()
                .map(|one| Segment {
                    cache: &mut one.cache,
                    tokens: 1,
                })
                .collect();
            let hidden = self.model.extend(&self.ids(&tokens), &mut segments)?;
            let logits = tch::no_grad(|| self.model.logits(&hidden).to_kind(Kind::Float));
            for (row, one) in active.into_iter().enumerate() {
                one.take(
                    &Vec::<f32>::try_from(logits.get(row as i64))?,
                    sampler,
                    &self.ends,
                    limit,
                );
            }
        }
        running
            .into_iter()
            .map(|one| {
                let ids: Vec<u32> = one
                    .ids
                    .iter()
                    .filter_map(|id| u32::try_from(*id).ok())
                    .collect();
                let text = self.tokenizer.decode(&ids, true).map_err(|error| {
                    Error::config("tokenizer", format!("cannot decode an answer: {error}"))
                })?;
                Ok(Answer {
                    text,
                    tokens: ids.len(),
                    ended: one.ended,
                })
            })
            .collect()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its text, without special tokens.
    pub text: String,
    /// Tokens, the ending one left out.
    pub tokens: usize,
    /// Whether the model ended it, rather than the limit.
    pub ended: bool,
}

struct Running {
    cache: Cache,
    ids: Vec<i64>,
    random: ChaCha8Rng,
    done: bool,
    ended: bool,
}

impl Running {
    fn take(&mut self, logits: &[f32], sampler: Sampler, ends: &[i64], limit: usize) {
        match sampler.choose(logits, &mut self.random) {
            Some(index) if !ends.contains(&(index as i64)) => self.ids.push(index as i64),
            chosen => {
                self.ended = chosen.is_some();
                self.done = true;
            }
        }
        self.done |= self.ids.len() >= limit || self.cache.remaining() < 1;
    }
}

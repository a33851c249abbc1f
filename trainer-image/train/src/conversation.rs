//! Owns instruction records: read, rendered by the chat template, tokenised, with targets only where the
//! assistant speaks; it must not train.

use std::io::{BufRead, BufReader};
use std::path::Path;

use bessemer_kernels::IGNORE;
use bessemer_model::{ChatTemplate, Message};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::Error;
use crate::batch::{Batches, Rows};
use crate::session::mix;

/// One line of an instruction file: `messages`, or `prompt` and `response`. Other fields are kept for others.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    response: Option<String>,
}

/// Reads the conversations of a JSONL file.
///
/// # Errors
/// [`Error::File`] when it cannot be read; [`Error::Data`] naming the line that is no conversation.
pub fn read_conversations(path: &Path) -> Result<Vec<Vec<Message>>, Error> {
    let file = std::fs::File::open(path).map_err(Error::file(path))?;
    let mut all = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::file(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let refuse = |problem: String| Error::Data {
            path: path.to_owned(),
            problem: format!(
                "line {}: {problem}; each line needs messages, or prompt and response",
                index + 1
            ),
        };
        let record: Record =
            serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?;
        let messages = match (record.messages, record.prompt, record.response) {
            (messages, None, None) if !messages.is_empty() => messages,
            (messages, Some(prompt), Some(response)) if messages.is_empty() => {
                vec![
                    Message::new("user", prompt),
                    Message::new("assistant", response),
                ]
            }
            _ => return Err(refuse("no conversation".to_owned())),
        };
        if !messages.iter().any(|message| message.role == "assistant") {
            return Err(refuse("nobody answers".to_owned()));
        }
        all.push(messages);
    }
    Ok(all)
}

/// Token ids of one conversation and, per token, whether the assistant says it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Encoded {
    ids: Vec<i64>,
    answer: Vec<bool>,
}

/// Tokenised conversations that supply batches: every epoch is a permutation of all of them, a function of seed
/// and epoch; batches run over the border of epochs.
#[derive(Debug)]
pub struct Conversations {
    training: Vec<Encoded>,
    validation: Vec<Encoded>,
    padding: i64,
    sequences: usize,
    seed: u64,
    order: Option<(u64, Vec<usize>)>,
}

impl Conversations {
    /// Renders and tokenises. Conversations are cut to `length` tokens; those without an answer left are dropped.
    /// `padding` fills short rows and is never scored. `sequences` is the global batch.
    ///
    /// # Errors
    /// [`Error::Model`] when the template refuses a conversation; [`Error::Config`] when none is left.
    #[allow(clippy::too_many_arguments)] // reason: plain values, each named at its only two calls
    pub fn new(
        training: &[Vec<Message>],
        validation: &[Vec<Message>],
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        length: usize,
        padding: i64,
        sequences: usize,
        seed: u64,
    ) -> Result<Self, Error> {
        let encode = |all: &[Vec<Message>]| -> Result<Vec<Encoded>, Error> {
            let mut kept = Vec::with_capacity(all.len());
            for messages in all {
                let encoded = encode(messages, tokenizer, template, length)?;
                // The first token is never predicted, so an answer there does not count.
                if encoded.answer.iter().skip(1).any(|&answer| answer) {
                    kept.push(encoded);
                }
            }
            if kept.len() < all.len() {
                tracing::warn!(
                    dropped = all.len() - kept.len(),
                    length,
                    "conversations without an answer in reach"
                );
            }
            Ok(kept)
        };
        let (training, validation) = (encode(training)?, encode(validation)?);
        if training.is_empty() {
            let problem =
                format!("leaves no conversation with an answer within {length} tokens; raise it");
            return Err(Error::Config {
                field: "sequenceLength",
                problem,
            });
        }
        Ok(Self {
            training,
            validation,
            padding,
            sequences,
            seed,
            order: None,
        })
    }

    /// Conversations to train on.
    pub fn len(&self) -> usize {
        self.training.len()
    }

    /// Whether there is nothing to train on; never after [`Conversations::new`].
    pub fn is_empty(&self) -> bool {
        self.training.is_empty()
    }

    /// Index of the conversation at `position` of the endless sequence of epochs.
    fn index(&mut self, position: u64) -> usize {
        let count = self.training.len() as u64;
        let (epoch, place) = (position / count, (position % count) as usize);
        if self.order.as_ref().is_none_or(|(held, _)| *held != epoch) {
            let mut order: Vec<usize> = (0..self.training.len()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(self.seed, epoch)));
            self.order = Some((epoch, order));
        }
        self.order
            .as_ref()
            .and_then(|(_, order)| order.get(place).copied())
            .unwrap_or(0)
    }
}

impl Batches for Conversations {
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
        let start = step * self.sequences as u64 + first as u64;
        let indices: Vec<usize> = (start..start + count as u64)
            .map(|position| self.index(position))
            .collect();
        let chosen: Vec<&Encoded> = indices
            .iter()
            .filter_map(|&index| self.training.get(index))
            .collect();
        Ok(rows(
            &chosen,
            self.padding,
            format!("conversations {indices:?}"),
        ))
    }

    fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error> {
        let chosen: Vec<&Encoded> = self.validation.iter().skip(first).take(count).collect();
        Ok(rows(
            &chosen,
            self.padding,
            format!("held-out conversations from {first}"),
        ))
    }
}

/// Rows padded to the longest.
fn rows(all: &[&Encoded], padding: i64, name: String) -> Rows {
    let length = all
        .iter()
        .map(|encoded| encoded.ids.len() - 1)
        .max()
        .unwrap_or(0);
    let mut rows = Rows {
        count: all.len(),
        length,
        name,
        ..Rows::default()
    };
    for encoded in all {
        let real = encoded.ids.len() - 1;
        rows.tokens.extend(encoded.ids.iter().take(real));
        rows.tokens
            .extend(std::iter::repeat_n(padding, length - real));
        let next = encoded.ids.iter().zip(&encoded.answer).skip(1);
        rows.targets
            .extend(next.map(|(&id, &answer)| if answer { id } else { IGNORE }));
        rows.targets
            .extend(std::iter::repeat_n(IGNORE, length - real));
    }
    rows
}

fn encode(
    messages: &[Message],
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    length: usize,
) -> Result<Encoded, Error> {
    let (text, answers) = template.answers(messages)?;
    let encoding = tokenizer
        .encode(text.as_str(), false)
        .map_err(|error| Error::Config {
            field: "tokenizer",
            problem: format!("cannot encode a conversation: {error}"),
        })?;
    // tokenizers gives offsets in bytes; a token belongs to the answer in which it begins.
    let answer = encoding
        .get_offsets()
        .iter()
        .map(|&(start, _)| answers.iter().any(|range| range.contains(&start)))
        .take(length)
        .collect();
    let ids = encoding
        .get_ids()
        .iter()
        .map(|&id| i64::from(id))
        .take(length)
        .collect();
    Ok(Encoded { ids, answer })
}

#[cfg(test)]
mod tests;

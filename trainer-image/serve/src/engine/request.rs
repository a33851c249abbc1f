//! Owns what the engine is asked and what it answers. It must not know about HTTP or text.

use crate::sampler::{Sampling, Score};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// One sequence to continue.
#[derive(Debug)]
pub struct Request {
    /// The prompt; not empty, and with `max_tokens` within the model's context.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; 0 only scores the prompt.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of this request and number of this choice among those with the same seed.
    pub seed: (u64, u64),
    /// Likeliest tokens to report with every token; `None` reports no scores.
    pub scores: Option<usize>,
    /// Whether prompt tokens are scored too.
    pub score_prompt: bool,
    /// Generate past the ids that end a text (benchmarks).
    pub ignore_end: bool,
    /// When the request arrived.
    pub arrived: Instant,
    /// Where the answer goes. When the receiver is gone, the sequence ends within one step.
    pub events: UnboundedSender<Event>,
}

/// What happens to a sequence, in order: `Prompt` once when asked for, `Token`s, then `End` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Scores of the prompt's tokens; the first has none.
    Prompt(Vec<Option<Score>>),
    /// A generated token.
    Token {
        /// Its id.
        token: u32,
        /// Its score when asked for.
        score: Option<Score>,
    },
    /// The sequence is complete.
    End(Finish),
    /// The sequence cannot be completed.
    Failed(Failure),
}

/// Why a sequence is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended the text, or a stop string was met.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

impl Finish {
    /// OpenAI's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Why a sequence cannot be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The model's numbers are not numbers.
    #[error(transparent)]
    NotFinite(#[from] crate::sampler::NotFinite),
}

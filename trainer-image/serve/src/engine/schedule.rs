//! Owns which sequences run and which of their tokens are computed next. It must not compute,
//! wait or read a clock.
//!
//! Sequences are admitted in order of arrival, each with all the cache blocks it can ever need, so
//! nothing that has started is ever preempted. A step computes one token for every sequence that
//! is generating and, beside them, a bounded number of prompt tokens in order of arrival: prompts
//! neither stall running streams nor wait for them to end.

use super::request::{Event, Failure, Finish, Request};
use crate::cache::Allocator;
use crate::network::Row;
use crate::sampler::{self, Score};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use tokio::time::Instant;

/// Bounds of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run together.
    pub running: usize,
    /// Prompt tokens computed in one step.
    pub prefill: usize,
}

/// A sequence and how far it is.
#[derive(Debug)]
pub struct Sequence {
    request: Request,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    blocks: Vec<u32>,
    random: ChaCha8Rng,
    prompt_scores: Vec<Option<Score>>,
    /// When it was admitted.
    pub started: Option<Instant>,
    /// When its newest token was generated.
    pub latest: Option<Instant>,
    outcome: Option<Result<Finish, Failure>>,
}

/// Counts of one sequence that left.
#[derive(Debug)]
pub struct Departure {
    /// How it ended; `None` means that nobody listened any more.
    pub outcome: Option<Result<Finish, Failure>>,
    /// Prompt tokens.
    pub prompt: usize,
    /// Generated tokens.
    pub generated: usize,
    /// When it arrived.
    pub arrived: Instant,
    /// When it was admitted.
    pub started: Option<Instant>,
}

impl Sequence {
    fn new(request: Request) -> Self {
        Self {
            tokens: request.prompt.clone(),
            computed: 0,
            blocks: Vec::new(),
            random: sampler::generator(request.seed.0, request.seed.1),
            prompt_scores: if request.score_prompt {
                vec![None]
            } else {
                Vec::new()
            },
            started: None,
            latest: None,
            outcome: None,
            request,
        }
    }

    /// Positions that are ever computed: the last generated token is not fed back.
    fn positions(&self) -> usize {
        self.request.prompt.len() + self.request.max_tokens.saturating_sub(1)
    }

    /// Generated tokens.
    #[must_use]
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// When it arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.request.arrived
    }

    fn abandoned(&self) -> bool {
        self.request.events.is_closed()
    }

    fn wants_logits(&self, position: usize) -> bool {
        let prompt = self.request.prompt.len();
        (self.request.score_prompt && position + 1 < prompt)
            || (self.request.max_tokens > 0 && position + 1 == self.tokens.len())
    }

    /// Takes the result of `count` computed rows: `logits` holds one vector of `vocabulary` for
    /// each row that wanted one. Returns how many tokens were generated (0 or 1).
    pub fn absorb(
        &mut self,
        count: usize,
        logits: &[f32],
        vocabulary: usize,
        ends: &[u32],
    ) -> usize {
        let first = self.computed;
        self.computed += count;
        let result = self.read(first, logits, vocabulary, ends);
        match result {
            Ok(generated) => {
                if self.outcome.is_none()
                    && self.request.max_tokens == 0
                    && self.computed == self.tokens.len()
                {
                    self.outcome = Some(Ok(Finish::Length));
                }
                generated
            }
            Err(failure) => {
                self.outcome = Some(Err(failure));
                0
            }
        }
    }

    fn read(
        &mut self,
        first: usize,
        logits: &[f32],
        vocabulary: usize,
        ends: &[u32],
    ) -> Result<usize, Failure> {
        let prompt = self.request.prompt.len();
        let wanted: Vec<usize> = (first..self.computed)
            .filter(|position| self.wants_logits(*position))
            .collect();
        let mut generated = 0;
        for (position, logits) in wanted.iter().zip(logits.chunks_exact(vocabulary)) {
            if let Some(next) = self.request.prompt.get(position + 1) {
                let score = sampler::score(logits, *next, self.request.scores.unwrap_or(0))?;
                self.prompt_scores.push(Some(score));
                continue;
            }
            let token = sampler::choose(logits, self.request.sampling, &mut self.random)?;
            let score = self
                .request
                .scores
                .map(|top| sampler::score(logits, token, top))
                .transpose()?;
            self.tell_prompt(prompt);
            self.tokens.push(token);
            generated = 1;
            let _ = self.request.events.send(Event::Token { token, score });
            if ends.contains(&token) && !self.request.ignore_end {
                self.outcome = Some(Ok(Finish::Stop));
            } else if self.generated() >= self.request.max_tokens {
                self.outcome = Some(Ok(Finish::Length));
            }
        }
        if self.request.max_tokens == 0 {
            self.tell_prompt(prompt);
        }
        Ok(generated)
    }

    /// Sends the prompt's scores once they are complete.
    fn tell_prompt(&mut self, prompt: usize) {
        if self.request.score_prompt
            && self.prompt_scores.len() == prompt
            && self.computed >= prompt
        {
            let _ = self
                .request
                .events
                .send(Event::Prompt(std::mem::take(&mut self.prompt_scores)));
        }
    }
}

/// Rows of one step. `counts[i]` of them belong to running sequence `i`, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What to compute; `table` is the index of the running sequence.
    pub rows: Vec<Row>,
    /// Rows per running sequence.
    pub counts: Vec<usize>,
}

/// The queue, the running set and the free blocks.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    allocator: Allocator,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
}

impl Scheduler {
    /// An empty scheduler over `blocks` cache blocks.
    #[must_use]
    pub fn new(limits: Limits, blocks: usize) -> Self {
        Self {
            limits,
            allocator: Allocator::new(blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Takes a request into the queue. It must fit into the cache when nothing else runs.
    pub fn push(&mut self, request: Request) {
        self.waiting.push_back(Sequence::new(request));
    }

    /// Sequences in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The running sequences, in order of admission.
    pub fn running(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// Block tables of the running sequences.
    #[must_use]
    pub fn tables(&self) -> Vec<&[u32]> {
        self.running
            .iter()
            .map(|sequence| sequence.blocks.as_slice())
            .collect()
    }

    /// Share of cache blocks in use.
    #[must_use]
    pub fn usage(&self) -> f64 {
        self.allocator.used() as f64 / self.allocator.total().max(1) as f64
    }

    /// Removes what is complete or abandoned, gives its blocks back and tells the listeners.
    pub fn sweep(&mut self) -> Vec<Departure> {
        let mut gone = Vec::new();
        for sequence in std::mem::take(&mut self.waiting) {
            if sequence.abandoned() {
                gone.push(sequence)
            } else {
                self.waiting.push_back(sequence)
            }
        }
        for sequence in std::mem::take(&mut self.running) {
            if sequence.outcome.is_some() || sequence.abandoned() {
                gone.push(sequence)
            } else {
                self.running.push(sequence)
            }
        }
        gone.into_iter()
            .map(|sequence| self.depart(sequence))
            .collect()
    }

    fn depart(&mut self, mut sequence: Sequence) -> Departure {
        self.allocator.give(std::mem::take(&mut sequence.blocks));
        match sequence.outcome {
            Some(Ok(finish)) => drop(sequence.request.events.send(Event::End(finish))),
            Some(Err(failure)) => drop(sequence.request.events.send(Event::Failed(failure))),
            None => {}
        }
        Departure {
            outcome: sequence.outcome,
            prompt: sequence.request.prompt.len(),
            generated: sequence.generated(),
            arrived: sequence.request.arrived,
            started: sequence.started,
        }
    }

    /// Moves sequences from the queue to the running set, first come first served, as far as
    /// places and blocks reach.
    pub fn admit(&mut self, now: Instant) {
        while self.running.len() < self.limits.running {
            let Some(next) = self.waiting.front() else {
                return;
            };
            let Some(blocks) = self.allocator.take(Allocator::needed(next.positions())) else {
                return;
            };
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            sequence.blocks = blocks;
            sequence.started = Some(now);
            self.running.push(sequence);
        }
    }

    /// The next step; empty when nothing runs.
    #[must_use]
    pub fn plan(&self) -> Step {
        let mut step = Step::default();
        let mut room = self.limits.prefill;
        for (table, sequence) in self.running.iter().enumerate() {
            let pending = sequence.tokens.len() - sequence.computed;
            let generating = sequence.generated() > 0;
            let count = if generating {
                pending
            } else {
                pending.min(room)
            };
            if !generating {
                room -= count;
            }
            for position in sequence.computed..sequence.computed + count {
                let token = sequence.tokens.get(position).copied().unwrap_or_default();
                step.rows.push(Row {
                    token,
                    position,
                    table,
                    logits: sequence.wants_logits(position),
                });
            }
            step.counts.push(count);
        }
        step
    }
}

#[cfg(test)]
mod tests;

//! Owns the engine thread: it takes requests, runs the scheduler's steps through the model and
//! sends tokens back. It must not know about HTTP or text.

mod pulse;
mod request;
mod schedule;

pub use pulse::Pulse;
pub use request::{Event, Failure, Finish, Request};
pub use schedule::Limits;

use crate::cache::Store;
use crate::metric::Metrics;
use crate::network::{Network, Row};
use rayon::prelude::*;
use schedule::{Departure, Scheduler, Sequence};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;
use tokio::time::Instant;

/// A model with room for keys and values.
pub trait Model: Send {
    /// Logits of the rows that want them; see [`Network::forward`].
    ///
    /// # Errors
    /// When the pass fails; the engine then ends, since it cannot know what its caches hold.
    fn forward(
        &mut self,
        rows: &[Row],
        tables: &[&[u32]],
        beat: &(dyn Fn() + Sync),
    ) -> Result<Vec<f32>, bessemer_model::Error>;
    /// Length of one vector of logits.
    fn vocabulary(&self) -> usize;
    /// Ids that end a text.
    fn ends(&self) -> &[u32];
}

/// The native CPU model.
#[derive(Debug)]
pub struct Native {
    network: Network,
    store: Store,
    ends: Vec<u32>,
}

impl Native {
    /// `network` with a cache of `blocks` blocks; `ends` are the ids that end a text.
    #[must_use]
    pub fn new(network: Network, blocks: usize, ends: Vec<u32>) -> Self {
        let shape = network.shape();
        let store = Store::new(
            shape.layers,
            blocks,
            shape.key_value_heads,
            shape.head_width,
        );
        Self {
            network,
            store,
            ends,
        }
    }
}

impl Model for Native {
    fn forward(
        &mut self,
        rows: &[Row],
        tables: &[&[u32]],
        beat: &(dyn Fn() + Sync),
    ) -> Result<Vec<f32>, bessemer_model::Error> {
        Ok(self
            .network
            .forward(rows, tables, &mut self.store, &|| beat()))
    }

    fn vocabulary(&self) -> usize {
        self.network.shape().vocabulary
    }

    fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// Why an engine does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Queue and running set are full.
    #[error("the queue is full")]
    Full,
    /// The request holds more sequences than the queue does.
    #[error("the request holds more sequences than the {0} that this server queues")]
    TooMany(usize),
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// Where requests enter; the thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Engine {
    requests: Sender<Request>,
    inside: Arc<AtomicUsize>,
    capacity: usize,
    pulse: Arc<Pulse>,
}

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Bounds of the scheduler.
    pub limits: Limits,
    /// Cache blocks; the model must have as many.
    pub blocks: usize,
    /// Sequences that may wait beside those that run.
    pub queue: usize,
    /// Threads that compute, the engine's own included.
    pub threads: usize,
}

impl Engine {
    /// Starts the engine thread over `model`.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(
        model: Box<dyn Model>,
        options: EngineOptions,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (requests, receiver) = channel();
        let pulse = Arc::new(Pulse::new());
        let inside = Arc::new(AtomicUsize::new(0));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads.max(1))
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(std::io::Error::other)?;
        let mut runner = Runner {
            model,
            scheduler: Scheduler::new(options.limits, options.blocks),
            metrics,
            pulse: pulse.clone(),
            inside: inside.clone(),
        };
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let _stopped = pulse::StopGuard(runner.pulse.clone());
                // The loop itself is one of the pool's threads: no hand-over per step.
                pool.install(move || runner.run(&receiver));
            })?;
        Ok(Self {
            requests,
            inside,
            capacity: options.limits.running + options.queue,
            pulse,
        })
    }

    /// Sign of life of the thread.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Hands over the sequences of one client request, all or none.
    ///
    /// # Errors
    /// When the queue is full or the engine has stopped.
    pub fn submit(&self, requests: Vec<Request>) -> Result<(), SubmitError> {
        if requests.len() > self.capacity {
            return Err(SubmitError::TooMany(self.capacity));
        }
        let more = requests.len();
        let room = |inside: usize| (inside + more <= self.capacity).then_some(inside + more);
        self.inside
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .map_err(|_| SubmitError::Full)?;
        requests
            .into_iter()
            .try_for_each(|request| self.requests.send(request))
            .map_err(|_| SubmitError::Stopped)
    }
}

struct Runner {
    model: Box<dyn Model>,
    scheduler: Scheduler,
    metrics: Arc<Metrics>,
    pulse: Arc<Pulse>,
    inside: Arc<AtomicUsize>,
}

impl Runner {
    fn run(&mut self, requests: &Receiver<Request>) {
        while self.receive(requests) {
            self.pulse.beat();
            self.sweep();
            self.scheduler.admit(Instant::now());
            if let Err(error) = self.step() {
                tracing::error!(%error, "the model cannot compute any more");
                return;
            }
            self.sweep();
            self.metrics.waiting.set(self.scheduler.waiting() as i64);
            self.metrics
                .running
                .set(self.scheduler.running().len() as i64);
            self.metrics.cache_usage.set(self.scheduler.usage());
        }
    }

    /// Takes what has arrived, waiting a moment when there is nothing to do. False when nobody
    /// can ask any more and nothing is left to do.
    fn receive(&mut self, requests: &Receiver<Request>) -> bool {
        let idle = self.scheduler.waiting() + self.scheduler.running().len() == 0;
        if idle {
            match requests.recv_timeout(Duration::from_millis(200)) {
                Ok(request) => self.scheduler.push(request),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match requests.try_recv() {
                Ok(request) => self.scheduler.push(request),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    return self.scheduler.waiting() + self.scheduler.running().len() > 0;
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), bessemer_model::Error> {
        let step = self.scheduler.plan();
        if step.rows.is_empty() {
            return Ok(());
        }
        self.metrics
            .iteration_tokens
            .observe(step.rows.len() as f64);
        let pulse = self.pulse.clone();
        let logits = self
            .model
            .forward(&step.rows, &self.scheduler.tables(), &move || pulse.beat())?;
        let vocabulary = self.model.vocabulary();
        let ends = self.model.ends();
        // Share the logits out: each sequence gets those of its own rows.
        let mut rest = logits.as_slice();
        let mut rows = step.rows.as_slice();
        let mut work: Vec<(&mut Sequence, usize, &[f32])> = Vec::new();
        for (sequence, count) in self.scheduler.running().iter_mut().zip(step.counts) {
            let (own, later) = rows.split_at(count.min(rows.len()));
            rows = later;
            let wanted = own.iter().filter(|row| row.logits).count() * vocabulary;
            let (values, later) = rest.split_at(wanted.min(rest.len()));
            rest = later;
            if count > 0 {
                work.push((sequence, count, values));
            }
        }
        let metrics = &self.metrics;
        work.into_par_iter()
            .with_max_len(1)
            .for_each(|(sequence, count, values)| {
                let generated = sequence.absorb(count, values, vocabulary, ends);
                if generated == 0 {
                    return;
                }
                metrics.generation_tokens.inc();
                let now = Instant::now();
                match sequence.latest.replace(now) {
                    Some(before) => metrics.inter_token.observe((now - before).as_secs_f64()),
                    None => metrics
                        .first_token
                        .observe((now - sequence.arrived()).as_secs_f64()),
                }
            });
        Ok(())
    }

    fn sweep(&mut self) {
        for departure in self.scheduler.sweep() {
            self.inside.fetch_sub(1, Ordering::AcqRel);
            self.record(&departure);
        }
    }

    fn record(&self, departure: &Departure) {
        let now = Instant::now();
        self.metrics.prompt_tokens.inc_by(departure.prompt as u64);
        self.metrics
            .latency
            .observe((now - departure.arrived).as_secs_f64());
        if let Some(started) = departure.started {
            self.metrics
                .queue_time
                .observe((started - departure.arrived).as_secs_f64());
        }
        let outcome = match departure.outcome {
            Some(Ok(finish)) => {
                self.metrics.succeeded(finish.word());
                finish.word()
            }
            Some(Err(Failure::NotFinite(_))) => {
                self.metrics.failed("NotFinite");
                "NotFinite"
            }
            None => {
                self.metrics.abandoned();
                "abandoned"
            }
        };
        tracing::info!(
            outcome,
            prompt_tokens = departure.prompt,
            generated_tokens = departure.generated,
            "sequence left"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Owns the training loop: steps, accumulation, clipping, validation, checkpoints, exact resume; it must not
//! know where sequences come from or what the model is trained for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bessemer_kernels::{Cuda, Version, head_loss};
use bessemer_model::{Model, Parameter};
use bessemer_protocol::task::{Batch, CheckpointPolicy, Optimizer as OptimizerOptions, Schedule};
use tch::{Device, Tensor};

use crate::batch::{Batches, Rows};
use crate::checkpoint::{self, Point, State};
use crate::observer::{Observer, Progress};
use crate::optimizer::Optimizer;
use crate::{Error, Ranks, schedule};

/// Points that a curve holds at most, about.
const CURVE_POINTS: u64 = 200;
/// Validations during a run; the last is at its end.
const VALIDATIONS: u64 = 10;
/// Weight of the newest step in the smoothed loss.
const SMOOTHING: f64 = 0.1;
/// Steps over which the rate is measured.
const RATE_STEPS: usize = 20;

/// Everything that decides a run besides the model and the data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Optimizer steps.
    pub steps: u64,
    /// Global batch and micro-batch.
    pub batch: Batch,
    /// Optimizer.
    pub optimizer: OptimizerOptions,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// When checkpoints are taken and how many stay on this disk.
    pub checkpoint: CheckpointPolicy,
    /// Seed of dropout.
    pub seed: u64,
    /// Threads of libtorch.
    pub threads: u32,
    /// Refuse operations without a deterministic implementation.
    pub deterministic: bool,
    /// Sequences of the validation split that a measurement reads at most; 0 turns validation off.
    pub validation_sequences: usize,
    /// Identity of the run: checkpoints of another are refused.
    pub fingerprint: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All steps are done.
    Finished(Summary),
    /// The observer asked to stop; a checkpoint of this step has been written.
    Interrupted {
        /// Optimizer steps done.
        step: u64,
    },
}

/// Numbers of a finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Smoothed training loss at the end, nats per token.
    pub loss: f64,
    /// Validation loss at the end; absent without a validation split.
    pub validation_loss: Option<f64>,
    /// Targets scored; padding and prompts do not count.
    pub tokens: u64,
    /// The training curve.
    pub curve: Vec<Point>,
}

/// Trains `model` in place. Checkpoints lie in `root`; the newest whole one there is continued, bit for bit
/// (same machine type, same thread count, same number of ranks). All of `ranks` call this with the same settings; rank
/// 0's checkpoints count, and only it writes some.
///
/// # Errors
/// [`Error`]; checkpoints that were complete stay.
pub fn run(
    model: &Model,
    batches: &mut dyn Batches,
    settings: &Settings,
    root: &Path,
    ranks: &mut Ranks,
    observer: &mut dyn Observer,
) -> Result<End, Error> {
    validate(settings, ranks.count())?;
    tch::set_num_threads(i32::try_from(settings.threads).unwrap_or(1));
    bessemer_torch::deterministic(settings.deterministic)?;
    if model.device() != Device::Cpu
        && let Err(reason) = Cuda::loaded()
    {
        tracing::warn!(%reason, "the loss is computed by libtorch's operators, which is slower");
    }
    std::fs::create_dir_all(root).map_err(Error::file(root))?;
    let parameters = model.trainable();
    let work = model
        .config()
        .training_flops_per_token(i64::from(settings.batch.sequence_length));
    let tokens_at_peak = bessemer_torch::peak_flops(model.device(), model.compute())
        .map(|peak| ranks.count() as f64 * peak / work);
    let mut session = Session {
        model,
        settings,
        root,
        ranks,
        optimizer: Optimizer::new(settings.optimizer.clone(), &parameters),
        parameters,
        state: State::new(settings.fingerprint.clone()),
        saved: None,
        tokens_at_peak,
    };
    if session.ranks.is_first() {
        session.resume()?;
    }
    session.begin_together()?;
    session.train(batches, observer)
}

fn validate(settings: &Settings, ranks: usize) -> Result<(), Error> {
    let refuse = |field, problem: &str| {
        Err(Error::Config {
            field,
            problem: problem.to_owned(),
        })
    };
    let batch = settings.batch;
    let optimizer = &settings.optimizer;
    if settings.steps == 0 {
        return refuse("steps", "is 0; train for at least one step");
    }
    let together = ranks * batch.micro_batch as usize;
    if batch.sequences == 0 || together == 0 || !(batch.sequences as usize).is_multiple_of(together)
    {
        return refuse(
            "batch",
            "needs at least one sequence, and a micro-batch that divides each rank's share of the sequences",
        );
    }
    if settings.threads == 0 {
        return refuse("threads", "is 0; use at least one");
    }
    let finite = [
        optimizer.learning_rate,
        optimizer.weight_decay,
        optimizer.gradient_clip_norm,
    ];
    if finite
        .iter()
        .any(|value| !(value.is_finite() && *value >= 0.0))
    {
        return refuse(
            "optimizer",
            "has a rate, decay or clip norm that is negative or no number",
        );
    }
    if ![optimizer.beta1, optimizer.beta2]
        .iter()
        .all(|beta| (0.0..1.0).contains(beta))
        || optimizer.epsilon.is_nan()
        || optimizer.epsilon <= 0.0
    {
        return refuse(
            "optimizer",
            "needs betas of at least 0 and below 1, and an epsilon above 0",
        );
    }
    if !(0.0..=1.0).contains(&settings.schedule.final_share) {
        return refuse("schedule.finalShare", "must lie between 0 and 1");
    }
    Ok(())
}

/// A number that follows from a seed and a position: SplitMix64 (Steele et al. 2014).
pub(crate) fn mix(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Six decimals: such numbers survive JSON exactly, so a resumed run reports the same curve to the bit.
fn rounded(loss: f64) -> f64 {
    (loss * 1e6).round() / 1e6
}

struct Session<'a> {
    model: &'a Model,
    settings: &'a Settings,
    root: &'a Path,
    ranks: &'a mut Ranks,
    parameters: Vec<Parameter>,
    optimizer: Optimizer,
    state: State,
    saved: Option<PathBuf>,
    /// Tokens per second that all ranks together could do at most, where that is known.
    tokens_at_peak: Option<f64>,
}

/// What one step did.
struct Step {
    loss: f64,
    norm: f64,
    rate: f64,
    tokens: usize,
}

impl Session<'_> {
    fn train(
        &mut self,
        batches: &mut dyn Batches,
        observer: &mut dyn Observer,
    ) -> Result<End, Error> {
        let total = self.settings.steps;
        let mut validation_loss = self
            .state
            .curve
            .iter()
            .rev()
            .find_map(|point| point.validation_loss);
        let mut last_save = observer.now();
        let mut window: std::collections::VecDeque<(Duration, usize)> =
            [(observer.now(), 0)].into();
        if self.state.step == 0
            && self.settings.validation_sequences > 0
            && let Some(measured) = self.validate(batches)?
        {
            // The model as it came: what training has to lower.
            self.state.curve.push(Point {
                step: 0,
                loss: measured,
                validation_loss: Some(measured),
            });
        }
        while self.state.step < total {
            let done = self.step(batches)?;
            let step = self.state.step;
            let validate = self.settings.validation_sequences > 0
                && (step == total || step.is_multiple_of((total / VALIDATIONS).max(1)));
            let measured = if validate {
                self.validate(batches)?
            } else {
                None
            };
            validation_loss = measured.or(validation_loss);
            if validate || step == total || step.is_multiple_of((total / CURVE_POINTS).max(1)) {
                self.state.curve.push(Point {
                    step,
                    loss: rounded(self.smooth_loss()),
                    validation_loss: measured,
                });
            }

            let now = observer.now();
            window.push_back((now, done.tokens));
            if window.len() > RATE_STEPS + 1 {
                window.pop_front();
            }
            observer.progress(&self.progress(&done, &window, validation_loss));

            let stopping = self.ranks.any(observer.stopping())? && step < total;
            let policy = self.settings.checkpoint;
            let by_steps = policy.every_steps > 0 && step.is_multiple_of(policy.every_steps);
            let waited = now.saturating_sub(last_save) >= Duration::from_secs(policy.every_seconds);
            let due = stopping || step == total || by_steps || (policy.every_seconds > 0 && waited);
            if due && self.ranks.is_first() {
                self.save(observer)?;
                last_save = observer.now();
            }
            if stopping {
                return Ok(End::Interrupted { step });
            }
        }
        Ok(End::Finished(Summary {
            loss: self.smooth_loss(),
            validation_loss,
            tokens: self.state.tokens,
            curve: self.state.curve.clone(),
        }))
    }

    fn smooth_loss(&self) -> f64 {
        f64::from_bits(self.state.smooth_loss_bits)
    }

    fn progress(
        &self,
        done: &Step,
        window: &std::collections::VecDeque<(Duration, usize)>,
        validation_loss: Option<f64>,
    ) -> Progress {
        let (first, last) = (
            window.front().map_or(Duration::ZERO, |w| w.0),
            window.back().map_or(Duration::ZERO, |w| w.0),
        );
        let seconds = last.saturating_sub(first).as_secs_f64().max(1e-9);
        let steps = window.len().saturating_sub(1).max(1);
        let tokens: usize = window.iter().skip(1).map(|(_, tokens)| tokens).sum();
        Progress {
            step: self.state.step,
            total_steps: self.settings.steps,
            loss: done.loss,
            smooth_loss: self.smooth_loss(),
            validation_loss,
            gradient_norm: done.norm,
            learning_rate: done.rate,
            tokens_per_second: tokens as f64 / seconds,
            model_flops_utilization: self
                .tokens_at_peak
                .map(|peak| tokens as f64 / seconds / peak),
            eta_seconds: (self.settings.steps - self.state.step) as f64 * seconds / steps as f64,
        }
    }

    /// One optimizer step. The loss is the mean over all tokens that count in the global batch, whatever rank and
    /// micro-batch they are in, so the division changes nothing but rounding.
    fn step(&mut self, batches: &mut dyn Batches) -> Result<Step, Error> {
        let (step, batch) = (self.state.step, self.settings.batch);
        let mut parts = Vec::new();
        for first in self.ranks.share(&batch).step_by(batch.micro_batch as usize) {
            parts.push((
                first,
                batches.training(step, first, batch.micro_batch as usize)?,
            ));
        }
        let own: usize = parts.iter().map(|(_, rows)| rows.counted()).sum();
        let [counted] = self.ranks.sum([own as f64])?;
        if counted == 0.0 {
            let problem = format!(
                "no token of the batch of step {} counts towards the loss",
                step + 1
            );
            return Err(Error::Config {
                field: "batch",
                problem,
            });
        }
        self.optimizer.clear()?;
        let (mut own, mut tokens) = (0.0, 0);
        let mut culprit = "the sequences of another rank";
        for (first, rows) in &parts {
            // Random numbers follow from the sequences, so that they are the same on whatever rank these lie.
            let position = step * u64::from(batch.sequences) + *first as u64;
            tch::manual_seed(i64::from_ne_bytes(
                mix(self.settings.seed, position).to_ne_bytes(),
            ));
            let part = self.loss(rows, 1.0 / counted, true)?;
            let value = part.f_double_value(&[])?;
            own += value;
            tokens += rows.count * rows.length;
            if !value.is_finite() {
                culprit = &rows.name;
                break; // the others must hear of it
            }
            part.f_backward()?;
        }
        let [loss, tokens] = self.ranks.sum([own, tokens as f64])?;
        self.finite("the loss", loss, culprit)?;
        self.ranks.sum_all(&self.optimizer.gradients())?;
        let norm = self.optimizer.clip()?;
        let names: Vec<&str> = parts.iter().map(|(_, rows)| rows.name.as_str()).collect();
        self.finite("the gradient norm", norm, &names.join(", "))?;
        let factor = schedule::factor(&self.settings.schedule, step, self.settings.steps);
        let rate = self.settings.optimizer.learning_rate * factor;
        self.optimizer.update(step + 1, rate)?;
        self.state.step += 1;
        self.state.tokens += counted as u64; // a whole number: a sum of counts
        self.state.sequences += u64::from(batch.sequences);
        let smooth = self.smooth_loss();
        let smooth = if step == 0 {
            loss
        } else {
            smooth + SMOOTHING * (loss - smooth)
        };
        self.state.smooth_loss_bits = smooth.to_bits();
        Ok(Step {
            loss,
            norm,
            rate,
            tokens: tokens as usize,
        })
    }

    /// `scale` times the sum of the cross entropies of `rows`.
    fn loss(&self, rows: &Rows, scale: f64, train: bool) -> Result<Tensor, Error> {
        let (tokens, targets) = rows.tensors()?;
        let device = self.model.device();
        let hidden = self.model.hidden(&tokens.to_device(device), None, train)?;
        Ok(head_loss(
            &hidden,
            self.model.head(),
            &targets.to_device(device),
            scale,
            Version::Fused,
        )?)
    }

    fn finite(&self, what: &'static str, value: f64, batch: &str) -> Result<(), Error> {
        if value.is_finite() {
            return Ok(());
        }
        let kept = match &self.saved {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there was no checkpoint yet".to_owned(),
        };
        Err(Error::Diverged {
            what,
            value,
            step: self.state.step + 1,
            batch: batch.to_owned(),
            kept,
        })
    }

    /// Mean loss over the first sequences of the validation split, which the ranks take in turn; `None` when there are
    /// none.
    fn validate(&mut self, batches: &mut dyn Batches) -> Result<Option<f64>, Error> {
        let micro_batch = self.settings.batch.micro_batch as usize;
        let (mut sum, mut counted) = (0.0, 0);
        let mut first = self.ranks.rank() * micro_batch;
        while first < self.settings.validation_sequences {
            let wanted = micro_batch.min(self.settings.validation_sequences - first);
            let rows = batches.validation(first, wanted)?;
            if rows.count == 0 {
                break;
            }
            sum += tch::no_grad(|| self.loss(&rows, 1.0, false))?.f_double_value(&[])?;
            counted += rows.counted();
            first += self.ranks.count() * micro_batch;
        }
        let [sum, counted] = self.ranks.sum([sum, counted as f64])?;
        Ok((counted > 0.0).then(|| rounded(sum / counted)))
    }

    fn weights(&self) -> BTreeMap<String, Tensor> {
        self.parameters
            .iter()
            .map(|p| (p.name.clone(), p.tensor.shallow_clone()))
            .collect()
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        let path = checkpoint::write(
            self.root,
            &self.state,
            &self.weights(),
            &self.optimizer.moments(),
        )?;
        checkpoint::prune(self.root, self.settings.checkpoint.keep as usize)?;
        let step = self.state.step;
        observer
            .checkpoint(step, &path)
            .map_err(|problem| Error::Checkpoint { step, problem })?;
        self.saved = Some(path);
        Ok(())
    }

    /// Gives all ranks the state and the weights of rank 0.
    fn begin_together(&mut self) -> Result<(), Error> {
        let problem = |error: serde_json::Error| Error::Config {
            field: "state",
            problem: error.to_string(),
        };
        let own = serde_json::to_string(&self.state).map_err(problem)?;
        let text = self.ranks.text_of_first(&own)?;
        let first: State = serde_json::from_str(&text).map_err(problem)?;
        if first.fingerprint != self.state.fingerprint {
            let problem = "is another than that of rank 0; start all ranks with one configuration";
            return Err(Error::Config {
                field: "task",
                problem: problem.to_owned(),
            });
        }
        self.state = first;
        for tensors in [self.weights(), self.optimizer.moments()] {
            let all: Vec<Tensor> = tensors.into_values().collect();
            self.ranks.take_from_first(&all)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Error> {
        let Some(found) = checkpoint::newest(self.root, &self.settings.fingerprint)? else {
            return Ok(());
        };
        let path = checkpoint::directory(self.root, found.state.step);
        for (into, from) in [
            (self.weights(), &found.weights),
            (self.optimizer.moments(), &found.moments),
        ] {
            if into.len() != from.len() {
                let problem = format!(
                    "it holds {} tensors, the model has {}",
                    from.len(),
                    into.len()
                );
                return Err(Error::Damaged { path, problem });
            }
            for (name, tensor) in into {
                match from.get(&name) {
                    Some(stored)
                        if stored.size() == tensor.size() && stored.kind() == tensor.kind() =>
                    {
                        tch::no_grad(|| tensor.shallow_clone().copy_(stored));
                    }
                    _ => {
                        let problem = format!("tensor {name} is missing or of another shape");
                        return Err(Error::Damaged { path, problem });
                    }
                }
            }
        }
        tracing::info!(step = found.state.step, "continuing from a checkpoint");
        self.state = found.state;
        self.saved = Some(path);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Owns an evaluation run: suites in order, for the model and its baseline, to files; it must not fetch inputs or
//! publish results.

use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Device;

use bessemer_protocol::EvaluationResult;
use bessemer_protocol::task::{Aggregation, EvaluateTask, Suite, SuiteKind};
use serde::Serialize;

use crate::Error;
use crate::bootstrap::Bootstrap;
use crate::record::{read_documents, read_prompts};
use crate::subject::{GROUP, Subject};
use crate::suite::{generation, perplexity};
use crate::table;

/// The results, in the output directory: `{"results": [...]}`. Beside it lies `samples/<suite>.jsonl`, and with a
/// baseline `samples/<suite>.baseline.jsonl`.
pub const RESULTS_FILE: &str = "results.json";

/// Directories of verified inputs.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Hugging Face directory of the model.
    pub model: Option<PathBuf>,
    /// Hugging Face directory of the model it is compared with.
    pub baseline: Option<PathBuf>,
    /// Datasets by the name that suites use.
    pub datasets: Vec<(String, PathBuf)>,
    /// Where the models lie.
    pub device: Device,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Samples scored, the baseline's included.
    pub done: u64,
    /// Samples in all.
    pub total: u64,
}

/// Listener of a run, called on its thread between samples. Nothing it does changes the numbers.
pub trait Observer {
    /// After some samples.
    fn progress(&mut self, progress: Progress);
    /// Whether to stop.
    fn stopping(&self) -> bool;
}

struct Run<'a> {
    task: &'a EvaluateTask,
    output: &'a Path,
    observer: &'a mut dyn Observer,
    progress: Progress,
}

enum Loaded<'a> {
    Perplexity(perplexity::Samples),
    Generation(
        &'a bessemer_protocol::task::GenerationSuite,
        Vec<crate::Prompt>,
    ),
}

/// Scores the model and, if there is one, the baseline on every suite; writes results and samples to `output`.
///
/// # Errors
/// [`Error`]; then `output` holds nothing that counts.
pub fn evaluate(
    task: &EvaluateTask,
    inputs: &Inputs,
    output: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<EvaluationResult>, Error> {
    validate(task)?;
    tch::set_num_threads(i32::try_from(task.threads).unwrap_or(1));
    let model = inputs
        .model
        .as_ref()
        .ok_or_else(|| Error::MissingInput("with role Model".to_owned()))?;
    let mut loaded = Vec::new();
    for suite in &task.suites {
        let directory = inputs
            .datasets
            .iter()
            .find(|(name, _)| *name == suite.dataset)
            .map(|(_, directory)| directory)
            .ok_or_else(|| Error::MissingInput(format!("{} with role Dataset", suite.dataset)))?;
        loaded.push(match &suite.measure {
            SuiteKind::Perplexity(measure) => Loaded::Perplexity(match measure.aggregation {
                Aggregation::Document => {
                    perplexity::Samples::Documents(read_documents(directory, suite.limit)?)
                }
                Aggregation::Answer => {
                    perplexity::Samples::Answers(read_prompts(directory, suite.limit)?)
                }
            }),
            SuiteKind::Generation(measure) => {
                Loaded::Generation(measure, read_prompts(directory, suite.limit)?)
            }
        });
    }
    let subjects = std::iter::once(model).chain(&inputs.baseline);
    let subjects: Vec<Subject> = subjects
        .map(|directory| Subject::load(directory, inputs.device))
        .collect::<Result<_, _>>()?;
    let samples: usize = loaded
        .iter()
        .map(|suite| match suite {
            Loaded::Perplexity(samples) => samples.len(),
            Loaded::Generation(_, prompts) => prompts.len(),
        })
        .sum();
    let folder = output.join("samples");
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let progress = Progress {
        done: 0,
        total: (samples * subjects.len()) as u64,
    };
    let mut run = Run {
        task,
        output,
        observer,
        progress,
    };
    let mut results = Vec::new();
    for (suite, loaded) in task.suites.iter().zip(&loaded) {
        results.extend(match loaded {
            Loaded::Perplexity(samples) => run.perplexity(suite, samples, &subjects)?,
            Loaded::Generation(measure, prompts) => {
                run.generation(suite, measure, prompts, &subjects)?
            }
        });
    }
    let path = output.join(RESULTS_FILE);
    let mut text = serde_json::to_string_pretty(&serde_json::json!({ "results": results }))
        .map_err(|error| Error::file(&path)(error.into()))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(Error::file(&path))?;
    Ok(results)
}

fn validate(task: &EvaluateTask) -> Result<(), Error> {
    if task.suites.is_empty() {
        return Err(Error::config("suites", "is empty; name at least one suite"));
    }
    if task.threads == 0 || task.batch_size == 0 {
        return Err(Error::config("threads and batchSize", "must be at least 1"));
    }
    for (index, suite) in task.suites.iter().enumerate() {
        let field = |name: &str| format!("suites[{index}].{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if suite.name.is_empty() || !suite.name.chars().all(plain) {
            return Err(Error::config(
                field("name"),
                "needs letters, digits, - or _, since it names a file",
            ));
        }
        if task
            .suites
            .iter()
            .take(index)
            .any(|other| other.name == suite.name)
        {
            return Err(Error::config(
                field("name"),
                "is used twice; give every suite its own name",
            ));
        }
        if let SuiteKind::Generation(measure) = &suite.measure {
            if measure.metrics.is_empty() || measure.max_tokens == 0 {
                return Err(Error::config(
                    field("measure"),
                    "needs at least one metric and maxTokens of at least 1",
                ));
            }
            if !(measure.temperature >= 0.0 && measure.top_p > 0.0 && measure.top_p <= 1.0) {
                return Err(Error::config(
                    field("measure"),
                    "needs temperature of at least 0 and topP above 0 up to 1",
                ));
            }
        }
    }
    Ok(())
}

impl Run<'_> {
    fn advance(&mut self, samples: usize) -> Result<(), Error> {
        if self.observer.stopping() {
            return Err(Error::Interrupted);
        }
        self.progress.done += samples as u64;
        self.observer.progress(self.progress);
        Ok(())
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            seed: self.task.seed,
            draws: self.task.bootstrap_samples,
        }
    }

    fn perplexity(
        &mut self,
        suite: &Suite,
        samples: &perplexity::Samples,
        subjects: &[Subject],
    ) -> Result<Vec<EvaluationResult>, Error> {
        let mut scored = Vec::new();
        for (rank, subject) in subjects.iter().enumerate() {
            let mut all = Vec::with_capacity(samples.len());
            for index in 0..samples.len() {
                all.push(perplexity::score(subject, &suite.name, samples, index)?);
                if (index + 1).is_multiple_of(self.task.batch_size as usize)
                    || index + 1 == samples.len()
                {
                    let whole = index % self.task.batch_size as usize + 1;
                    self.advance(whole)?;
                }
            }
            self.write(suite, rank, &all)?;
            scored.push(all);
        }
        if scored.iter().flatten().all(|sample| sample.tokens == 0) {
            let problem = match samples.aggregation() {
                Aggregation::Document => "holds no text",
                Aggregation::Answer => "holds no answer within the model's context",
            };
            return Err(Error::config(format!("suite {}", suite.name), problem));
        }
        let metrics: Vec<_> = scored.iter().map(|all| perplexity::metrics(all)).collect();
        Ok(self.table(suite, samples.len(), &metrics))
    }

    fn generation(
        &mut self,
        suite: &Suite,
        measure: &bessemer_protocol::task::GenerationSuite,
        prompts: &[crate::Prompt],
        subjects: &[Subject],
    ) -> Result<Vec<EvaluationResult>, Error> {
        let mut metrics = Vec::new();
        for (rank, subject) in subjects.iter().enumerate() {
            let mut all = Vec::with_capacity(prompts.len());
            for group in prompts.chunks(GROUP) {
                let first = all.len();
                all.extend(generation::answer(
                    subject,
                    measure,
                    group,
                    first,
                    self.task.seed,
                )?);
                self.advance(group.len())?;
            }
            metrics.push(generation::metrics(measure, &mut all));
            self.write(suite, rank, &all)?;
        }
        Ok(self.table(suite, prompts.len(), &metrics))
    }

    fn table(
        &self,
        suite: &Suite,
        samples: usize,
        metrics: &[Vec<table::Metric<'_>>],
    ) -> Vec<EvaluationResult> {
        let model = metrics.first().map(Vec::as_slice).unwrap_or_default();
        table::results(
            &suite.name,
            samples,
            self.bootstrap(),
            model,
            metrics.get(1).map(Vec::as_slice),
        )
    }

    fn write<T: Serialize>(&self, suite: &Suite, rank: usize, samples: &[T]) -> Result<(), Error> {
        let ending = if rank == 0 { "" } else { ".baseline" };
        let path = self
            .output
            .join("samples")
            .join(format!("{}{ending}.jsonl", suite.name));
        let file = std::fs::File::create(&path).map_err(Error::file(&path))?;
        let mut out = std::io::BufWriter::new(file);
        for sample in samples {
            serde_json::to_writer(&mut out, sample)
                .map_err(|error| Error::file(&path)(error.into()))?;
            out.write_all(b"\n").map_err(Error::file(&path))?;
        }
        out.flush().map_err(Error::file(&path))
    }
}

//! Owns autoregressive pretraining: token shards and a shape to a model directory; it must not own the loop.

use std::path::Path;

use bessemer_data::{
    Batch, Description, END_OF_TEXT, Loader, Share, Split, TokenStream, ValidationRows,
};
use bessemer_model::{Config, Directory, Model, TOKENIZER_FILE};
use bessemer_protocol::task::{Family, ModelShape, Positions, TrainTask};
use tch::{Device, Kind};

use crate::batch::{Batches, Rows};
use crate::outcome::{self, Finished, Inputs, Outcome};
use crate::session::{self, End, Settings};
use crate::{Error, Observer, Ranks};

/// Held-out sequences that a validation reads at most.
const VALIDATION_SEQUENCES: usize = 64;

/// Trains a model on the datasets of the task's mixture, from new weights or from `inputs.model`. Checkpoints lie
/// in `work/checkpoints` (the newest whole one is continued), the result in `work/model`, both of rank 0 only.
///
/// # Errors
/// [`Error`]; complete checkpoints stay.
pub fn pretrain(
    task: &TrainTask,
    inputs: &Inputs,
    work: &Path,
    ranks: &mut Ranks,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    outcome::check_ranks(task.ranks, ranks)?;
    let mut directories = Vec::new();
    for part in &task.mixture {
        let found = inputs.datasets.iter().find(|(name, _)| *name == part.name);
        let (_, directory) =
            found.ok_or_else(|| Error::MissingInput(format!("{} with role Dataset", part.name)))?;
        directories.push((directory.as_path(), part.weight));
    }
    let Some(&(first, _)) = directories.first() else {
        return Err(Error::MissingInput("with role Dataset".to_owned()));
    };
    same_tokenizer(first, &directories)?;
    let vocabulary = Description::read(first)?.vocabulary_size;
    let config = architecture(&task.model, vocabulary)?;
    let length = i64::from(task.batch.sequence_length);
    if length < 1 || length > config.context_length {
        let problem = format!(
            "is {length}; it must lie between 1 and the context of {}",
            config.context_length
        );
        return Err(Error::Config {
            field: "batch.sequenceLength",
            problem,
        });
    }
    let mut batches = Shards::open(&directories, task)?;
    let compute = outcome::compute(task.precision);
    let model = match &inputs.model {
        None => Model::new(config, task.seed, compute, ranks.device())?,
        Some(base) => continued(base, &config, compute, ranks.device())?,
    };
    let settings = Settings {
        steps: task.steps,
        batch: task.batch,
        optimizer: task.optimizer.clone(),
        schedule: task.schedule.clone(),
        checkpoint: task.checkpoint,
        seed: task.seed,
        threads: task.threads,
        deterministic: task.deterministic,
        validation_sequences: VALIDATION_SEQUENCES,
        fingerprint: outcome::fingerprint(task, inputs)?,
    };
    match session::run(
        &model,
        &mut batches,
        &settings,
        &outcome::checkpoints(work),
        ranks,
        observer,
    )? {
        End::Interrupted { step } => Ok(Outcome::Interrupted { step }),
        End::Finished(_) if !ranks.is_first() => Ok(Outcome::Contributed),
        End::Finished(summary) => {
            let directory = outcome::result(work);
            let target = Directory::new(&directory);
            let tokenizer = Directory::new(first).tokenizer()?;
            let end = tokenizer.token_to_id(END_OF_TEXT).map(i64::from);
            target.save(&model, end.as_slice())?;
            target.save_tokenizer(first, END_OF_TEXT)?;
            let finished = Finished {
                directory,
                summary,
                parameters: model.config().parameters(),
                trainable: outcome::trainable(&model),
            };
            outcome::write_record(
                &finished,
                task.steps,
                model.config().training_flops_per_token(length),
            )?;
            Ok(Outcome::Finished(finished))
        }
    }
}

/// The model configuration of a task's shape and a tokenizer's vocabulary.
///
/// # Errors
/// [`Error::Config`] for positions that the family does not have; [`Error::Model`] for impossible numbers.
pub fn architecture(shape: &ModelShape, vocabulary: u32) -> Result<Config, Error> {
    let number = i64::from;
    let config = match (shape.family, shape.positions) {
        (Family::GPT2, Positions::Learned) => Config::gpt2(
            number(vocabulary),
            number(shape.layers),
            number(shape.heads),
            number(shape.hidden_size),
            number(shape.context_length),
        ),
        (Family::Llama, Positions::RoPE) => Config::llama(
            number(vocabulary),
            number(shape.layers),
            (number(shape.heads), number(shape.key_value_heads)),
            number(shape.hidden_size),
            number(shape.feed_forward_size),
            number(shape.context_length),
        ),
        (family, positions) => {
            let problem = format!(
                "{positions:?} does not go with {family:?}: GPT2 learns them, Llama uses RoPE"
            );
            return Err(Error::Config {
                field: "model.positions",
                problem,
            });
        }
    };
    let config = Config {
        key_value_heads: number(shape.key_value_heads),
        feed_forward_size: number(shape.feed_forward_size),
        tied_embeddings: shape.tied_embeddings,
        attention_window: shape.attention_window.map(number),
        dropout: shape.dropout,
        ..config
    };
    config.validate()?;
    Ok(config)
}

/// The model to continue; its shape must be the one asked for, since the result is published as that.
fn continued(base: &Path, wanted: &Config, compute: Kind, device: Device) -> Result<Model, Error> {
    let directory = Directory::new(base);
    let found = directory.config()?;
    let same = Config {
        dropout: wanted.dropout,
        ..found.clone()
    };
    if same
        != (Config {
            norm_epsilon: found.norm_epsilon,
            rope_base: found.rope_base,
            bias: found.bias,
            ..wanted.clone()
        })
    {
        let problem = format!(
            "differs from that of the initial model: {wanted:?} against {found:?}; use the same shape and tokenizer"
        );
        return Err(Error::Config {
            field: "model",
            problem,
        });
    }
    let mut model = directory.load(Some(Kind::Float), Some(compute), device)?;
    model.set_dropout(wanted.dropout);
    model.set_trainable(true);
    Ok(model)
}

fn same_tokenizer(first: &Path, all: &[(&Path, f64)]) -> Result<(), Error> {
    let read = |directory: &Path| {
        let path = directory.join(TOKENIZER_FILE);
        std::fs::read(&path).map_err(Error::file(&path))
    };
    let expected = read(first)?;
    for (directory, _) in all {
        if read(directory)? != expected {
            return Err(Error::Data {
                path: directory.to_path_buf(),
                problem:
                    "its tokenizer is not that of the mixture's first dataset; let it take that one"
                        .to_owned(),
            });
        }
    }
    Ok(())
}

/// Token shards as batches.
#[derive(Debug)]
struct Shards {
    loader: Loader,
    validation: ValidationRows,
}

impl Shards {
    fn open(directories: &[(&Path, f64)], task: &TrainTask) -> Result<Self, Error> {
        let (mut shares, mut held_out) = (Vec::new(), Vec::new());
        for &(directory, weight) in directories {
            shares.push(Share {
                tokens: TokenStream::open(directory, Split::Train)?,
                weight,
            });
            held_out.push(TokenStream::open(directory, Split::Validation)?);
        }
        let length = task.batch.sequence_length as usize;
        Ok(Self {
            loader: Loader::new(shares, length, task.batch.sequences as usize, task.seed)?,
            validation: ValidationRows::new(held_out, length),
        })
    }
}

/// Splits rows of `length + 1` ids into inputs and targets.
fn rows(batch: &Batch, name: String) -> Rows {
    let length = batch.width.saturating_sub(1);
    let mut rows = Rows {
        count: batch.rows,
        length,
        name,
        ..Rows::default()
    };
    for ids in batch.tokens.chunks(batch.width.max(1)) {
        rows.tokens.extend(ids.iter().take(length));
        rows.targets.extend(ids.iter().skip(1));
    }
    rows
}

impl Batches for Shards {
    fn training(&mut self, step: u64, first: usize, count: usize) -> Result<Rows, Error> {
        let name = format!("sequences {first}..{} of the batch", first + count);
        Ok(rows(&self.loader.training(step, first, count), name))
    }

    fn validation(&mut self, first: usize, count: usize) -> Result<Rows, Error> {
        Ok(rows(
            &self.validation.batch(first as u64, count),
            format!("held-out sequences from {first}"),
        ))
    }
}

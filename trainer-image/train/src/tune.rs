//! Owns supervised tuning: a base model and conversations to a tuned model, whole or by a low-rank adapter that
//! is merged on export; it must not own the loop.

use std::path::Path;

use bessemer_model::{AdapterSpec, CHAT_TEMPLATE, ChatTemplate, Directory, TOKENIZER_CONFIG_FILE};
use bessemer_protocol::task::TuneTask;
use tch::Kind;

use crate::conversation::{Conversations, read_conversations};
use crate::outcome::{self, Finished, Inputs, Outcome};
use crate::session::{self, End, Settings};
use crate::{Error, Observer, Ranks};

/// Conversations to tune on, in an instruction dataset.
const TRAINING_FILE: &str = "train.jsonl";
/// Conversations held out.
const VALIDATION_FILE: &str = "validation.jsonl";
/// Held-out conversations that a validation reads at most.
const VALIDATION_SEQUENCES: usize = 128;

/// Tunes the model in `inputs.model` on the datasets' conversations. Checkpoints lie in `work/checkpoints` (the
/// newest whole one is continued), the result in `work/model`, both of rank 0 only.
///
/// # Errors
/// [`Error`]; complete checkpoints stay.
pub fn tune(
    task: &TuneTask,
    inputs: &Inputs,
    work: &Path,
    ranks: &mut Ranks,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    outcome::check_ranks(task.ranks, ranks)?;
    let base = inputs
        .model
        .as_ref()
        .ok_or_else(|| Error::MissingInput("with role Model".to_owned()))?;
    if inputs.datasets.is_empty() {
        return Err(Error::MissingInput("with role Dataset".to_owned()));
    }
    let source = Directory::new(base);
    let mut model = source.load(
        Some(Kind::Float),
        Some(outcome::compute(task.precision)),
        ranks.device(),
    )?;
    model.set_dropout(task.dropout);
    let context = model.config().context_length;
    if i64::from(task.sequence_length) > context || task.sequence_length < 2 {
        let problem = format!(
            "is {}; it must lie between 2 and the model's context of {context}",
            task.sequence_length
        );
        return Err(Error::Config {
            field: "sequenceLength",
            problem,
        });
    }
    let ends = source.ends()?;
    let template = match source.chat_template()? {
        Some(template) => template,
        None => ChatTemplate::new(CHAT_TEMPLATE, "", "")?,
    };
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    for (_, directory) in &inputs.datasets {
        training.extend(read_conversations(&directory.join(TRAINING_FILE))?);
        let held_out = directory.join(VALIDATION_FILE);
        if held_out.exists() {
            validation.extend(read_conversations(&held_out)?);
        }
    }
    validation.truncate(VALIDATION_SEQUENCES);
    let mut batches = Conversations::new(
        &training,
        &validation,
        &source.tokenizer()?,
        &template,
        task.sequence_length as usize,
        ends.first().copied().unwrap_or(0),
        task.batch.sequences as usize,
        task.seed,
    )?;
    match &task.adapter {
        Some(adapter) => model.adapt(
            &AdapterSpec {
                rank: i64::from(adapter.rank),
                alpha: adapter.alpha,
                targets: adapter.targets.clone(),
            },
            task.seed,
        )?,
        None => model.set_trainable(true),
    }
    let rows = batches.len() as u64 * u64::from(task.epochs);
    let steps = task
        .steps
        .unwrap_or_else(|| rows.div_ceil(u64::from(task.batch.sequences).max(1)));
    let settings = Settings {
        steps,
        batch: task.batch,
        optimizer: task.optimizer.clone(),
        schedule: match &task.phases {
            Some(phases) => phases.over(&task.schedule, steps),
            None => task.schedule.clone(),
        },
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
            let trainable = outcome::trainable(&model);
            model.merge();
            let directory = outcome::result(work);
            let target = Directory::new(&directory);
            target.save(&model, &ends_of_answers(&source, &ends)?)?;
            target.save_tokenizer(base, "")?;
            let finished = Finished {
                directory,
                summary,
                parameters: model.config().parameters(),
                trainable,
            };
            let flops = model
                .config()
                .training_flops_per_token(i64::from(task.sequence_length));
            outcome::write_record(&finished, steps, flops)?;
            Ok(Outcome::Finished(finished))
        }
    }
}

/// Ids that end an answer: those of the base, and `<|end|>` where the tokenizer has it.
fn ends_of_answers(source: &Directory, ends: &[i64]) -> Result<Vec<i64>, Error> {
    let mut all = ends.to_vec();
    if source.path(TOKENIZER_CONFIG_FILE).exists()
        && let Some(end) = source.tokenizer()?.token_to_id("<|end|>")
        && !all.contains(&i64::from(end))
    {
        all.push(i64::from(end));
    }
    Ok(all)
}

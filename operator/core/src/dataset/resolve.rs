//! Owns the resolution of a Dataset into the task `prepare`. It must refuse what the worker would not do.

use bessemer_api::{Dataset, DatasetSource, Kind as KindName, SourceFormat, UnicodeForm};
use bessemer_protocol::task::{
    Clean, Format, LANGUAGES, Language, LicensePolicy, PrepareTask, Purpose, Repetition, Source,
    Split, TokenizerSource, Unicode,
};
use bessemer_protocol::{InputRole, Task};

use crate::dependency::{self, dataset_input, dataset_reference};
use crate::kind::{Kind, Observed};
use crate::reason::{self, Halt, Invalid};
use crate::run::Run;
use crate::settings::Settings;
use crate::training::long;
use crate::unimplemented;

pub(super) fn resolve(observed: &Observed<Dataset>, settings: &Settings) -> Result<Run, Halt> {
    let spec = &observed.object.spec;
    unimplemented::check(KindName::Dataset, spec)?;
    let mut sources = Vec::new();
    for source in &spec.sources {
        sources.push(resolve_source(source, settings)?);
    }
    dependency::check(observed)?;
    let mut inputs = Vec::new();
    let mut tokenizer = None;
    if let Some(wanted) = &spec.tokenizer {
        if let Some(train) = &wanted.train {
            let size = train.vocabulary_size;
            let vocabulary_size = u32::try_from(size.0)
                .ok()
                .filter(|size| (512..=1_000_000).contains(size));
            let Some(vocabulary_size) = vocabulary_size else {
                let message = format!(
                    "spec.tokenizer.train.vocabularySize is {size}; it must be 512 to 1,000,000"
                );
                return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
            };
            tokenizer = Some(TokenizerSource::TrainBpe {
                vocabulary_size,
                special_tokens: train.special_tokens.clone(),
            });
        } else if let Some(dataset) = &wanted.dataset_ref {
            let namespace = observed.object.key().namespace;
            let reference =
                dataset_reference(&dataset.name, &namespace, "spec.tokenizer.datasetRef");
            inputs.push(dataset_input(
                observed,
                &reference,
                InputRole::Tokenizer,
                &[],
            )?);
            tokenizer = Some(TokenizerSource::Input);
        }
    }
    let task = PrepareTask {
        purpose: purpose(spec.purpose),
        sources,
        clean: Clean {
            unicode: match spec.clean.unicode {
                UnicodeForm::None => Unicode::None,
                UnicodeForm::NFC => Unicode::Nfc,
                UnicodeForm::NFKC => Unicode::Nfkc,
            },
            min_characters: long(spec.clean.min_characters),
            max_characters: long(spec.clean.max_characters),
            language: language(spec.clean.language.as_ref())?,
            repetition: spec.clean.repetition.then_some(Repetition::Gopher),
        },
        exact_deduplication: spec.deduplicate.exact,
        licenses: LicensePolicy {
            allow: spec.licenses.allow.clone(),
            deny: spec.licenses.deny.clone(),
        },
        tokenizer,
        split: Split {
            validation: spec.split.validation,
            seed: long(spec.split.seed),
        },
    };
    Ok(Run {
        task: Task::Prepare(task),
        inputs,
        gpus: 0,
    })
}

fn language(wanted: Option<&bessemer_api::Language>) -> Result<Option<Language>, Invalid> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let code = wanted.code.clone();
    if !LANGUAGES.contains(&code.as_str()) {
        let message = format!(
            "spec.clean.language.code is {code}, which is not among the languages that can be told apart: {}",
            LANGUAGES.join(", ")
        );
        return Err(Invalid::terminal(reason::INVALID_SPEC, message));
    }
    Ok(Some(Language {
        code,
        min_score: wanted.min_score,
    }))
}

fn purpose(purpose: bessemer_api::DatasetPurpose) -> Purpose {
    use bessemer_api::DatasetPurpose as From;
    match purpose {
        From::Pretraining => Purpose::Pretraining,
        From::Instruction => Purpose::Instruction,
        From::Preference => Purpose::Preference,
        From::Prompts => Purpose::Prompts,
        From::Evaluation => Purpose::Evaluation,
        From::Retrieval => Purpose::Retrieval,
    }
}

fn resolve_source(source: &DatasetSource, settings: &Settings) -> Result<Source, Invalid> {
    let name = &source.name;
    let Some(uri) = source.uri.clone() else {
        let message = format!("spec.sources[{name}] has no uri");
        return Err(Invalid::terminal(reason::INVALID_SPEC, message));
    };
    if uri.starts_with("file://") && !settings.local {
        let message = format!(
            "spec.sources[{name}].uri is a file of one machine, which pods do not see; use s3:// in a cluster"
        );
        return Err(Invalid::terminal(reason::INVALID_SPEC, message));
    }
    let format = match source.format {
        SourceFormat::Text => Format::Text,
        SourceFormat::Markdown => Format::Markdown,
        SourceFormat::Html => Format::Html,
        SourceFormat::Code => Format::Code,
        SourceFormat::Jsonl => Format::Jsonl,
        // The others are refused before.
        SourceFormat::Auto
        | SourceFormat::Parquet
        | SourceFormat::Warc
        | SourceFormat::Pdf
        | SourceFormat::Epub
        | SourceFormat::Latex => Format::Auto,
    };
    Ok(Source {
        name: name.clone(),
        uri,
        endpoint: source.endpoint.clone(),
        include: source.include.clone(),
        exclude: source.exclude.clone(),
        format,
        text_field: source.text_field.clone(),
        license: source.license.clone(),
        consent: source.consent.clone(),
        subject_field: source.subject_field.clone(),
        own_keys: source.credentials_secret_ref.is_some(),
        weight: source.weight,
    })
}

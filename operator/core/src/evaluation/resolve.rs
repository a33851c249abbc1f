//! Owns the resolution of an Evaluation into the task `evaluate`. The model is always the first input: gates read it
//! there. It must refuse what the worker would not do.

use bessemer_api::{Evaluation, EvaluationSuite, Kind as KindName, ScoredText, TextMetric};
use bessemer_protocol::task::{
    Aggregation, EvaluateTask, GenerationMetric, GenerationSuite, PerplexitySuite, Suite, SuiteKind,
};
use bessemer_protocol::{InputRole, Task};

use super::observe;
use crate::dependency::{self, dataset_input, dataset_reference, model_input};
use crate::kind::{Kind, Observed};
use crate::reason::{self, Halt, Invalid};
use crate::run::Run;
use crate::settings::Settings;
use crate::training::{self, long, number};
use crate::unimplemented;

/// Sequences per forward pass; no number depends on it.
const BATCH: u32 = 8;

pub(super) fn resolve(observed: &Observed<Evaluation>, settings: &Settings) -> Result<Run, Halt> {
    let spec = &observed.object.spec;
    unimplemented::check(KindName::Evaluation, spec)?;
    dependency::check(observed)?;
    let namespace = observed.object.key().namespace;
    let mut inputs = vec![model_input(
        observed,
        &spec.model_ref,
        InputRole::Model,
        "spec.modelRef",
    )?];
    if let Some(baseline) = &spec.baseline_ref {
        inputs.push(model_input(
            observed,
            baseline,
            InputRole::Baseline,
            "spec.baselineRef",
        )?);
    }
    let mut suites = Vec::new();
    for suite in &spec.suites {
        let field = format!("spec.suites[{}]", suite.name);
        let Some(dataset) = observe::dataset(suite) else {
            return Err(Invalid::terminal(
                reason::INVALID_SPEC,
                format!("{field} names no dataset"),
            )
            .into());
        };
        let reference = dataset_reference(dataset, &namespace, field.clone());
        let purposes: &[&str] = if suite.generation.is_some() || scores_answers(suite) {
            &["Instruction"]
        } else {
            &[]
        };
        let input = dataset_input(observed, &reference, InputRole::Dataset, purposes)?;
        if !inputs.contains(&input) {
            inputs.push(input);
        }
        suites.push(resolve_suite(suite, dataset, &field)?);
    }
    let task = EvaluateTask {
        suites,
        seed: long(spec.seed),
        bootstrap_samples: number(spec.bootstrap_samples),
        batch_size: BATCH,
        threads: training::threads(&spec.policy, settings),
    };
    Ok(Run {
        task: Task::Evaluate(task),
        inputs,
        gpus: training::gpus(&spec.policy, 0, 1)?,
    })
}

fn scores_answers(suite: &EvaluationSuite) -> bool {
    suite
        .perplexity
        .as_ref()
        .is_some_and(|suite| suite.scored_text == ScoredText::Answer)
}

fn resolve_suite(suite: &EvaluationSuite, dataset: &str, field: &str) -> Result<Suite, Invalid> {
    let (limit, measure) = if let Some(perplexity) = &suite.perplexity {
        let aggregation = match perplexity.scored_text {
            ScoredText::Document => Aggregation::Document,
            ScoredText::Answer => Aggregation::Answer,
        };
        (
            perplexity.limit,
            SuiteKind::Perplexity(PerplexitySuite { aggregation }),
        )
    } else if let Some(generation) = &suite.generation {
        const ALL: [(TextMetric, GenerationMetric); 3] = [
            (TextMetric::BLEU, GenerationMetric::Bleu),
            (TextMetric::ChrF, GenerationMetric::Chrf),
            (TextMetric::ROUGE, GenerationMetric::Rouge),
        ];
        let wanted = |metric: &TextMetric| {
            generation.metrics.is_empty() || generation.metrics.contains(metric)
        };
        let metrics = ALL
            .iter()
            .filter(|(metric, _)| wanted(metric))
            .map(|(_, metric)| *metric)
            .collect();
        let suite = GenerationSuite {
            metrics,
            max_tokens: number(generation.max_tokens),
            temperature: generation.temperature,
            top_p: generation.top_p,
        };
        (generation.limit, SuiteKind::Generation(suite))
    } else {
        return Err(Invalid::terminal(
            reason::INVALID_SPEC,
            format!("{field} names no measure that is built"),
        ));
    };
    Ok(Suite {
        name: suite.name.clone(),
        dataset: dataset.into(),
        limit: long(limit),
        measure,
    })
}

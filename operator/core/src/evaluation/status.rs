//! Owns the status of an Evaluation beyond the common part. It must not decide.

use bessemer_api::{CommonStatus, Evaluation, EvaluationStatus, MetricResult, NONE_YET};
use bessemer_protocol::EvaluationResult;
use serde_json::Value;

use crate::run::News;

pub(super) fn status(object: &Evaluation, common: CommonStatus, news: News<'_>) -> Value {
    let old = object.status.clone().unwrap_or_default();
    let mut new = EvaluationStatus {
        common,
        results: old.results,
        headline: None,
    };
    if let Some(artefact) = news.artefact {
        let results = artefact
            .statistics
            .get("results")
            .cloned()
            .unwrap_or_default();
        let results: Vec<EvaluationResult> = serde_json::from_value(results).unwrap_or_default();
        new.results = results.into_iter().map(result).collect();
    }
    let headline = new.results.first().map(headline);
    new.headline = Some(headline.unwrap_or_else(|| NONE_YET.into()));
    serde_json::to_value(new).unwrap_or_default()
}

/// A value that is not finite is left out: it never passes a gate.
fn result(result: EvaluationResult) -> MetricResult {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    MetricResult {
        suite: result.suite,
        metric: result.metric,
        value: finite(result.value),
        low: finite(result.low),
        high: finite(result.high),
        samples: i64::try_from(result.samples).unwrap_or(i64::MAX),
        higher_is_better: result.higher_is_better,
    }
}

fn headline(result: &MetricResult) -> String {
    let value = result
        .value
        .map_or_else(|| "n/a".into(), |value| format!("{value:.4}"));
    format!("{} {value}", result.metric)
}

//! Owns the step from per-sample statistics to results: value, interval, baseline and paired difference; it must
//! not know how the statistics came about.

use bessemer_protocol::EvaluationResult;

use crate::bootstrap::Bootstrap;

/// The value over the samples with the given indices, which may repeat.
pub(crate) type Value<'a> = dyn Fn(&[usize]) -> f64 + 'a;

/// A metric over samples: a function of the chosen ones.
pub(crate) struct Metric<'a> {
    pub name: &'static str,
    pub higher_is_better: bool,
    pub value: Box<Value<'a>>,
}

impl<'a> Metric<'a> {
    pub fn new(
        name: &'static str,
        higher_is_better: bool,
        value: impl Fn(&[usize]) -> f64 + 'a,
    ) -> Self {
        Self {
            name,
            higher_is_better,
            value: Box::new(value),
        }
    }
}

/// Results of one suite: the model's metrics, then the baseline's, then the differences (model minus baseline) with
/// paired intervals. A value that is not finite is left out, so that it never passes a gate.
pub(crate) fn results(
    suite: &str,
    samples: usize,
    bootstrap: Bootstrap,
    model: &[Metric<'_>],
    baseline: Option<&[Metric<'_>]>,
) -> Vec<EvaluationResult> {
    let all: Vec<usize> = (0..samples).collect();
    let row = |metric: String, higher_is_better, value: &Value<'_>| {
        let interval = bootstrap.interval(samples, value);
        EvaluationResult {
            suite: suite.to_owned(),
            metric,
            value: Some(value(&all)).filter(|value| value.is_finite()),
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
            samples: samples as u64,
            higher_is_better,
        }
    };
    let mut rows: Vec<EvaluationResult> = model
        .iter()
        .map(|metric| {
            row(
                metric.name.to_owned(),
                metric.higher_is_better,
                &*metric.value,
            )
        })
        .collect();
    for metric in baseline.unwrap_or_default() {
        rows.push(row(
            format!("baseline.{}", metric.name),
            metric.higher_is_better,
            &*metric.value,
        ));
    }
    for (ours, theirs) in model.iter().zip(baseline.unwrap_or_default()) {
        let difference = |chosen: &[usize]| (ours.value)(chosen) - (theirs.value)(chosen);
        rows.push(row(
            format!("delta.{}", ours.name),
            ours.higher_is_better,
            &difference,
        ));
    }
    rows
}

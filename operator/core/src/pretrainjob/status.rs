//! Owns the status of a PretrainJob beyond the common part. It must not decide.

use bessemer_api::{CommonStatus, ModelSize, PretrainJob, PretrainJobStatus};
use serde_json::Value;

use crate::run::{News, checkpoint, headline, losses};

pub(super) fn status(object: &PretrainJob, common: CommonStatus, news: News<'_>) -> Value {
    let old = object.status.clone().unwrap_or_default();
    let mut new = PretrainJobStatus {
        common,
        ..PretrainJobStatus::default()
    };
    // The model and its losses are those of the last artefact; the checkpoint is the run's.
    new.gpu_hours = gpu_hours(object, &new.common).or(old.gpu_hours.filter(|_| news.same_run));
    new.model.clone_from(&old.model);
    new.losses.clone_from(&old.losses);
    new.last_checkpoint = checkpoint(old.last_checkpoint.filter(|_| news.same_run), news.progress);
    if let Some(artefact) = news.artefact {
        let parameters = artefact
            .statistics
            .get("parameters")
            .and_then(Value::as_i64);
        let tokens = artefact.statistics.get("tokens").and_then(Value::as_f64);
        new.model = parameters.map(|parameters| ModelSize {
            parameters,
            // Kaplan et al. 2020: six operations per parameter and token, forward and backward.
            estimated_flops: tokens.map(|tokens| 6.0 * parameters as f64 * tokens),
            actual_flops: artefact.statistics.get("flops").and_then(Value::as_f64),
        });
        new.losses = losses(artefact);
    }
    new.headline = Some(headline(&new.common, new.losses.as_ref()));
    serde_json::to_value(new).unwrap_or_default()
}

/// GPUs times the time from start to end of a run that has ended; a model is known to have cost none on CPUs alone.
fn gpu_hours(object: &PretrainJob, common: &CommonStatus) -> Option<f64> {
    let start = common.start_time.as_ref()?.0.as_second();
    let end = common.completion_time.as_ref()?.0.as_second();
    let spec = &object.spec;
    let each = spec
        .workers
        .gpus
        .max(spec.policy.resources.gpus.unwrap_or(0));
    let hours = f64::from(each * spec.workers.replicas) * (end - start).max(0) as f64 / 3600.0;
    Some((hours * 1e4).round() / 1e4)
}

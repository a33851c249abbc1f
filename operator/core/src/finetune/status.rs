//! Owns the status of a FineTune beyond the common part. It must not decide.

use bessemer_api::{CommonStatus, FineTune, FineTuneStatus};
use serde_json::Value;

use crate::run::{News, checkpoint, headline, losses};

pub(super) fn status(object: &FineTune, common: CommonStatus, news: News<'_>) -> Value {
    let old = object.status.clone().unwrap_or_default();
    let mut new = FineTuneStatus {
        common,
        headline: None,
        last_checkpoint: checkpoint(old.last_checkpoint.filter(|_| news.same_run), news.progress),
        losses: old.losses,
        trainable_parameters: old.trainable_parameters,
    };
    if let Some(artefact) = news.artefact {
        new.losses = losses(artefact);
        new.trainable_parameters = artefact
            .statistics
            .get("trainableParameters")
            .and_then(Value::as_i64);
    }
    new.headline = Some(headline(&new.common, new.losses.as_ref()));
    serde_json::to_value(new).unwrap_or_default()
}

//! Owns the status of a Dataset beyond the common part. It must not decide.

use bessemer_api::{CommonStatus, Dataset, DatasetStatistics, DatasetStatus, NONE_YET};
use serde_json::Value;

use crate::run::News;

pub(super) fn status(object: &Dataset, common: CommonStatus, news: News<'_>) -> Value {
    let old = object.status.clone().unwrap_or_default();
    let mut new = DatasetStatus {
        common,
        ..old.clone()
    };
    if let Some(artefact) = news.artefact {
        new.statistics =
            serde_json::from_value::<DatasetStatistics>(artefact.statistics.clone()).ok();
        let changed = old
            .common
            .artifact
            .is_none_or(|before| before.digest != artefact.digest);
        new.version =
            Some(old.version.unwrap_or(0) + i64::from(changed)).filter(|version| *version > 0);
    }
    // Without a tokenizer nothing is counted, and nothing is not 0.
    let counted = new
        .statistics
        .as_ref()
        .filter(|statistics| statistics.vocabulary_size.is_some());
    let tokens = counted.map(|statistics| statistics.tokens);
    new.headline = Some(tokens.map_or_else(|| NONE_YET.into(), |tokens| tokens.to_string()));
    serde_json::to_value(new).unwrap_or_default()
}

//! Owns telling what was found: the status, written only when it differs and not more often than needed, and Events.
//! It must not decide what the status says.

use std::collections::BTreeMap;
use std::time::Duration;

use bessemer_core::{Key, Kind, condition, label, reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bug::{Bug, planted};
use crate::raw::Raw;
use crate::remote::{Error, Remote};

/// Least time between two status writes of one object, unless a condition changes.
pub const COALESCE: Duration = Duration::from_secs(10);

/// When the status of each object was last written, while others have to wait for that.
#[derive(Default)]
pub struct Pace(Mutex<BTreeMap<String, Instant>>);

/// From so many on, those that nobody waits for are dropped each time their number has doubled.
const KEPT: usize = 256;

impl Pace {
    /// How long a write that is not urgent must wait still.
    fn wait(&self, uid: &str) -> Duration {
        self.0
            .lock()
            .get(uid)
            .map_or(Duration::ZERO, |at| COALESCE.saturating_sub(at.elapsed()))
    }

    fn wrote(&self, uid: &str) {
        let mut written = self.0.lock();
        written.insert(uid.to_owned(), Instant::now());
        if written.len() >= KEPT && written.len().is_power_of_two() {
            written.retain(|_, at| at.elapsed() < COALESCE);
        }
    }
}

/// What became of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is what the server has.
    Unchanged,
    /// It was written.
    Written,
    /// It waits for its turn.
    Later(Duration),
}

/// The status of `object` as the server has it.
pub fn present<K: Kind>(object: &K) -> Value {
    serde_json::to_value(object.status()).unwrap_or_default()
}

/// The conditions within a status.
#[must_use]
pub fn conditions(status: &Value) -> Vec<Condition> {
    status
        .get("conditions")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default()
}

/// Whether `after` says something that people and machines wait for: a condition, its reason or a generation is new.
fn urgent(before: &Value, after: &Value) -> bool {
    let face = |status: &Value| -> Vec<(String, String, String, Option<i64>)> {
        let all = conditions(status);
        all.into_iter()
            .map(|c| (c.type_, c.status, c.reason, c.observed_generation))
            .collect()
    };
    before.get("artifact") != after.get("artifact") || face(before) != face(after)
}

/// The same form for both sides of a comparison: through the kind's type, without nulls.
fn normal<K: Kind>(status: &Value) -> Value {
    let typed = serde_json::from_str::<K::Status>(&status.to_string());
    let back = typed.and_then(serde_json::to_value);
    back.unwrap_or_else(|_| status.clone())
}

/// Writes `status` of `object`, observed at `version`, if it says something new and its turn has come.
///
/// # Errors
/// A stale precondition, or trouble on the way.
pub async fn publish<K: Kind>(
    remote: &Remote,
    pace: &Pace,
    object: &K,
    version: &str,
    status: &Value,
    force: bool,
) -> Result<Published, Error> {
    let before = present(object);
    let status = normal::<K>(status);
    if before == status && !planted(Bug::UnconditionalStatus) {
        return Ok(Published::Unchanged);
    }
    let uid = object.meta().uid.clone().unwrap_or_default();
    let wait = pace.wait(&uid);
    if !wait.is_zero() && !force && !urgent(&before, &status) {
        return Ok(Published::Later(wait));
    }
    let mut body = applied::<K>(&object.key(), &uid, version, &status);
    if planted(Bug::LostPrecondition)
        && let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut)
    {
        meta.remove("uid");
        meta.remove("resourceVersion");
    }
    remote
        .apply_status(&body, &label::status_manager(K::KIND))
        .await?;
    pace.wrote(&uid);
    Ok(Published::Written)
}

/// What is applied: `status` of the object `key` with `uid`, observed at `version`.
fn applied<K: Kind>(key: &Key, uid: &str, version: &str, status: &Value) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid, "resourceVersion": version},
        "status": status,
    })
}

/// Says in the status of `live`, which cannot be read because of `why`, that it waits for a person.
///
/// # Errors
/// As [`publish`].
pub async fn publish_unreadable<K: Kind>(
    remote: &Remote,
    key: &Key,
    live: &Raw,
    message: &str,
    now: Timestamp,
) -> Result<Published, Error> {
    let meta = &live.metadata;
    let mut whole = live.value();
    let before = whole.get_mut("status").map(Value::take);
    let before = before.unwrap_or_default();
    let status = refused(
        &before,
        reason::INVALID_SPEC.word,
        message,
        meta.generation.unwrap_or(0),
        now,
    );
    if before == status {
        return Ok(Published::Unchanged);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (uid, version) = (text(&meta.uid), text(&meta.resource_version));
    remote
        .apply_status(
            &applied::<K>(key, &uid, &version, &status),
            &label::status_manager(K::KIND),
        )
        .await?;
    Ok(Published::Written)
}

/// `status` with Ready False and Stalled True for a write that the API server refuses: without it the object would seem
/// to wait for nothing.
#[must_use]
pub fn refused(
    status: &Value,
    category: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Value {
    let old = conditions(status);
    let of = |kind: &str, value: &str| {
        let since = old
            .iter()
            .find(|c| c.type_ == kind && c.status == value)
            .map(|c| c.last_transition_time.0);
        json!({"type": kind, "status": value, "reason": category, "message": message, "observedGeneration": generation,
            "lastTransitionTime": condition::whole_seconds(since.unwrap_or(now)).to_string()})
    };
    let mut status = if status.is_object() {
        status.clone()
    } else {
        json!({})
    };
    if let Some(fields) = status.as_object_mut() {
        fields.insert("observedGeneration".into(), generation.into());
        fields.insert(
            "conditions".into(),
            json!([of("Ready", "False"), of("Stalled", "True")]),
        );
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str, percent: i32) -> Value {
        json!({"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}], "progress": {"percent": percent}})
    }

    #[test]
    fn numbers_wait_and_conditions_do_not() {
        assert!(!urgent(&status("Running", 10), &status("Running", 20)));
        assert!(urgent(&status("Running", 10), &status("Collecting", 10)));
    }

    #[test]
    fn a_refused_write_shows_as_stalled_and_keeps_its_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = refused(&status("Running", 1), "NameTaken", "taken", 2, at(100));
        let second = refused(&first, "NameTaken", "taken", 2, at(200));
        assert_eq!(first["conditions"][1], second["conditions"][1]);
        assert_eq!(first["conditions"][1]["type"], "Stalled");
        assert_eq!(first["progress"]["percent"], 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_per_object() {
        let pace = Pace::default();
        pace.wrote("a");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(pace.wait("a"), Duration::from_secs(6));
        assert_eq!(pace.wait("b"), Duration::ZERO);
        tokio::time::advance(COALESCE).await;
        for other in 0..10 * KEPT {
            pace.wrote(&other.to_string());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(pace.0.lock().len() <= KEPT);
        assert_eq!(pace.wait("a"), Duration::ZERO);
    }
}

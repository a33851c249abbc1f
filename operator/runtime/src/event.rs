//! Owns Events for people: one per transition of a condition, repeated ones counted. It must not decide transitions,
//! and losing an Event must never hold anything back.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};

/// `reportingController` of our Events.
pub const CONTROLLER: &str = "bessemer.dev/operator";
const DEADLINE: Duration = Duration::from_secs(5);
const NOTE_LIMIT: usize = 1024;

/// What an Event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether people should look.
    pub warning: bool,
    /// PascalCase reason.
    pub reason: String,
    /// What the operator was doing, PascalCase.
    pub action: &'static str,
    /// Sentence for people.
    pub text: String,
}

/// The notes that a change of conditions calls for: one per condition whose status or reason is new.
#[must_use]
pub fn transitions(before: &[Condition], after: &[Condition]) -> Vec<Note> {
    let changed = after.iter().filter(|now| {
        let old = before.iter().find(|old| old.type_ == now.type_);
        old.is_none_or(|old| old.status != now.status || old.reason != now.reason)
    });
    let mut notes: Vec<Note> = Vec::new();
    for condition in changed {
        let note = Note {
            warning: matches!(condition.type_.as_str(), "Stalled" | "Failed")
                && condition.status == "True",
            reason: condition.reason.clone(),
            action: "Reconcile",
            text: condition.message.clone(),
        };
        // Ready, Reconciling and Stalled tell the same story: say it once, as a warning if any of them is one.
        match notes.iter_mut().find(|known| known.reason == note.reason) {
            Some(known) => known.warning |= note.warning,
            None => notes.push(note),
        }
    }
    notes
}

/// Writes Events.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    instance: String,
}

impl Recorder {
    /// A recorder that signs as `instance`.
    #[must_use]
    pub fn new(client: Client, instance: &str) -> Self {
        Self {
            client,
            instance: instance.chars().take(128).collect(),
        }
    }

    /// Writes `note` about `regarding`. Failure is logged only.
    pub async fn record(&self, regarding: &ObjectReference, note: &Note, now: Timestamp) {
        match tokio::time::timeout(DEADLINE, self.write(regarding, note, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason = note.reason, %error, "event not written"),
            Err(_) => tracing::warn!(reason = note.reason, "event not written in time"),
        }
    }

    async fn write(
        &self,
        regarding: &ObjectReference,
        note: &Note,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let event = self.event(regarding, note, now);
        match api.create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
        let Some(mut known) = api
            .get_opt(event.metadata.name.as_deref().unwrap_or_default())
            .await?
        else {
            return Ok(());
        };
        let count = known.series.as_ref().map_or(1, |s| s.count) + 1;
        known.series = Some(EventSeries {
            count,
            last_observed_time: micro(now),
        });
        known.metadata.managed_fields = None;
        let name = known.metadata.name.clone().unwrap_or_default();
        api.replace(&name, &PostParams::default(), &known)
            .await
            .map(|_| ())
    }

    /// The name follows from the content, so that a repeated write counts instead of adding.
    fn event(&self, regarding: &ObjectReference, note: &Note, now: Timestamp) -> Event {
        let object = regarding.name.clone().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [
            regarding.uid.as_deref().unwrap_or(""),
            &note.reason,
            note.action,
            &note.text,
        ] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest = hex::encode(hash.finalize());
        let short: String = digest.chars().take(16).collect();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{short}")),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(note.action.to_owned()),
            event_time: Some(micro(now)),
            note: Some(clip(&note.text)),
            reason: Some(note.reason.clone()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// The API server refuses longer notes.
fn clip(text: &str) -> String {
    let mut clipped = String::new();
    for c in text.chars() {
        if clipped.len() + c.len_utf8() > NOTE_LIMIT {
            break;
        }
        clipped.push(c);
    }
    clipped
}

fn micro(now: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: "m".into(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                Timestamp::UNIX_EPOCH,
            ),
            observed_generation: None,
        }
    }

    #[test]
    fn one_note_per_new_reason() {
        let before = [condition("Ready", "False", "Running")];
        assert!(transitions(&before, &before).is_empty());
        let after = [
            condition("Ready", "False", "BadData"),
            condition("Stalled", "True", "BadData"),
        ];
        let notes = transitions(&before, &after);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].warning);
        assert_eq!(notes[0].reason, "BadData");
    }

    #[test]
    fn clips_at_a_character() {
        assert_eq!(clip(&"ä".repeat(600)).len(), 1024);
    }
}

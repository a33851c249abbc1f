//! Writes as data: owns the list of writes the controllers decide on, and how each is sent.
//! It must not decide anything: a lost race is an error or nothing, never a new decision.

use jiff::Timestamp;
use k8s_openapi::Resource as Described;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cache::Key;

/// One write, with the precondition that makes it safe to send late.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create; an object of that name with the same controlling owner counts as created.
    Create(ApiResource, Box<Value>),
    /// Replace the status; the object carries the resourceVersion it was decided on.
    ReplaceStatus(ApiResource, Box<Value>),
    /// Replace the object; it carries its resourceVersion.
    Replace(ApiResource, Box<Value>),
    /// Merge patch; carries a resourceVersion or uid where it matters.
    Patch(ApiResource, Key, Box<Value>),
    /// Delete exactly the object with this uid.
    Delete {
        /// Its kind.
        resource: ApiResource,
        /// Its name.
        key: Key,
        /// Its uid; another object of that name stays.
        uid: String,
        /// What becomes of its dependents.
        propagation: PropagationPolicy,
    },
    /// Say something to whoever reads events.
    Event(Box<Note>),
}

/// An event about an object, before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// What it is about.
    pub about: ObjectReference,
    /// `Warning` or `Normal`.
    pub warning: bool,
    /// PascalCase reason.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// Who says it.
    pub component: &'static str,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The API refused or could not be reached.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// The API's answer.
        source: Box<kube::Error>,
    },
    /// The name belongs to somebody else's object.
    #[error("{0} exists and belongs to another owner; delete or rename it")]
    NameTaken(String),
    /// An object that cannot be written as JSON.
    #[error("cannot encode: {0}")]
    Encode(#[from] serde_json::Error),
}

/// The resource of a typed kind.
#[must_use]
pub fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// An object as JSON with apiVersion and kind.
pub fn encode<K: Described + Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), K::API_VERSION.into());
        map.insert("kind".into(), K::KIND.into());
    }
    value
}

/// A reference to an object for events.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

/// Ten characters that name a set of strings.
pub fn short_hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    // Kubernetes' own safe alphabet: no vowels, so no words, and no 0, 1, 3.
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = hasher.finalize();
    let letter = |byte: &u8| {
        ALPHABET
            .get(usize::from(*byte) % ALPHABET.len())
            .copied()
            .unwrap_or(b'b')
    };
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(letter(byte)))
        .collect()
}

/// `prefix-suffix` within the 63 characters of a label value.
pub fn child_name(prefix: &str, suffix: &str) -> String {
    let room = 63_usize.saturating_sub(suffix.len() + 1);
    let cut: String = prefix.chars().take(room).collect();
    format!("{}-{suffix}", cut.trim_end_matches(['-', '.']))
}

fn api(client: &Client, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, resource)
    }
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Sends the actions in order and stops at the first failure.
///
/// # Errors
/// The first failure; what was already done is not undone, planning again sees it.
pub async fn execute(
    client: &Client,
    now: Timestamp,
    actions: Vec<Action>,
) -> Result<(), ActionError> {
    for action in actions {
        execute_one(client, now, action).await?;
    }
    Ok(())
}

async fn execute_one(client: &Client, now: Timestamp, action: Action) -> Result<(), ActionError> {
    match action {
        Action::Create(resource, object) => create(client, &resource, *object).await,
        Action::ReplaceStatus(resource, object) => {
            let object: DynamicObject = serde_json::from_value(*object)?;
            let namespace = object.namespace().unwrap_or_default();
            let result = api(client, &resource, &namespace)
                .replace_status(&object.name_any(), &PostParams::default(), &object)
                .await;
            result
                .map(drop)
                .map_err(|e| failed("update status of", &resource, &object.name_any(), e))
        }
        Action::Replace(resource, object) => {
            let object: DynamicObject = serde_json::from_value(*object)?;
            let namespace = object.namespace().unwrap_or_default();
            let result = api(client, &resource, &namespace)
                .replace(&object.name_any(), &PostParams::default(), &object)
                .await;
            result
                .map(drop)
                .map_err(|e| failed("update", &resource, &object.name_any(), e))
        }
        Action::Patch(resource, key, patch) => {
            let api = api(client, &resource, &key.namespace);
            match api
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(*patch))
                .await
            {
                Ok(_) => Ok(()),
                Err(e) if code(&e) == 404 => Ok(()),
                Err(e) => Err(failed("patch", &resource, &key.name, e)),
            }
        }
        Action::Delete {
            resource,
            key,
            uid,
            propagation,
        } => {
            let params = DeleteParams {
                propagation_policy: Some(propagation),
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api(client, &resource, &key.namespace)
                .delete(&key.name, &params)
                .await
            {
                Ok(_) => Ok(()),
                // Gone, or another object has taken the name: either way ours is gone.
                Err(e) if matches!(code(&e), 404 | 409) => Ok(()),
                Err(e) => Err(failed("delete", &resource, &key.name, e)),
            }
        }
        Action::Event(note) => {
            note_down(client, now, &note).await;
            Ok(())
        }
    }
}

fn failed(what: &str, resource: &ApiResource, name: &str, source: kube::Error) -> ActionError {
    ActionError::Api {
        what: format!("{what} {} {name}", resource.kind),
        source: Box::new(source),
    }
}

async fn create(client: &Client, resource: &ApiResource, object: Value) -> Result<(), ActionError> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let name = object.name_any();
    let api = api(client, resource, &object.namespace().unwrap_or_default());
    let error = match api.create(&PostParams::default(), &object).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if code(&error) != 409 {
        return Err(failed("create", resource, &name, error));
    }
    let owner = super::cache::controller_uid(&object);
    match api.get_opt(&name).await {
        Ok(Some(found)) if super::cache::controller_uid(&found) == owner => Ok(()),
        Ok(Some(_)) => Err(ActionError::NameTaken(format!("{} {name}", resource.kind))),
        Ok(None) => Err(failed("create", resource, &name, error)),
        Err(error) => Err(failed("read", resource, &name, error)),
    }
}

/// Writes an event, or counts it up where the same was said before. Events are best effort.
pub async fn note_down(client: &Client, now: Timestamp, note: &Note) {
    let namespace = note
        .about
        .namespace
        .clone()
        .unwrap_or_else(|| "default".into());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let about = note.about.name.clone().unwrap_or_default();
    let uid = note.about.uid.clone().unwrap_or_default();
    let field = note.about.field_path.clone().unwrap_or_default();
    let name = format!(
        "{about}.{}",
        short_hash(&[&uid, &note.reason, &note.message, &field, note.component])
    );
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace),
            ..Default::default()
        },
        involved_object: note.about.clone(),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.clone()),
        message: Some(note.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        event_time: None::<MicroTime>,
        source: Some(EventSource {
            component: Some(note.component.to_owned()),
            host: None,
        }),
        reporting_component: Some(note.component.to_owned()),
        reporting_instance: Some(note.component.to_owned()),
        ..Default::default()
    };
    let result = match api.create(&PostParams::default(), &event).await {
        Err(error) if code(&error) == 409 => match api.get_opt(&name).await {
            Ok(Some(old)) => {
                let count = old.count.unwrap_or(1).saturating_add(1);
                let patch = json!({"count": count, "lastTimestamp": Time(now)});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .map(drop)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        },
        other => other.map(drop),
    };
    if let Err(error) = result {
        tracing::debug!(%error, reason = note.reason, "event lost");
    }
}

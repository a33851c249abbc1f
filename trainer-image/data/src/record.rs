//! Owns JSON records: the text within, or the record itself where a dataset keeps records.

use std::path::Path;

use bessemer_protocol::task::Purpose;
use serde_json::{Map, Value};

use crate::document::{Document, Subject};
use crate::error::DataError;
use crate::extract::{Item, Reading};

/// Where a record stands, for messages.
pub(crate) struct At<'a> {
    pub path: &'a Path,
    pub line: u64,
}

impl At<'_> {
    fn refuse(&self, reason: impl Into<String>) -> DataError {
        DataError::Record {
            path: self.path.into(),
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// Reads one line; `None` when it is empty of text.
pub(crate) fn read(
    at: &At<'_>,
    line: &str,
    reading: &Reading<'_>,
) -> Result<Option<Item>, DataError> {
    let mut record: Map<String, Value> = serde_json::from_str(line)
        .map_err(|error| at.refuse(format!("is no JSON object: {error}")))?;
    let license = record
        .get("license")
        .and_then(Value::as_str)
        .map(str::to_string);
    let mut subject = None;
    if let Some(field) = reading.subject_field {
        // Out of the record, so that the key itself does not get into the dataset.
        subject = record.remove(field).as_ref().and_then(subject_of);
        if subject.is_none() {
            // No erasure would find it.
            return Ok(Some(Item::Removed("noSubject")));
        }
    }
    let text = if reading.records {
        canonical(at, reading.purpose, record)?
    } else {
        let field = reading.text_field.unwrap_or("text");
        match record.remove(field) {
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(at.refuse(format!("field `{field}` is no string"))),
            None => {
                return Err(at.refuse(format!(
                    "has no field `{field}`; set textField to the one that holds the text"
                )));
            }
        }
    };
    Ok(Some(Item::Document(Document {
        text,
        license,
        subject,
    })))
}

/// A subject's key is a text that is not blank, or a number as JSON writes it.
fn subject_of(key: &Value) -> Option<Subject> {
    match key {
        Value::String(key) if !key.trim().is_empty() => Some(Subject::of(key)),
        Value::Number(key) => Some(Subject::of(&key.to_string())),
        _ => None,
    }
}

/// Checks that a record is what the purpose needs and gives it in its canonical form: sorted keys, one line.
fn canonical(
    at: &At<'_>,
    purpose: Purpose,
    record: Map<String, Value>,
) -> Result<String, DataError> {
    let text = |name: &str| {
        record
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.trim().is_empty())
    };
    let messages = record.get("messages").map(conversation);
    let problem = match purpose {
        Purpose::Instruction => match messages {
            Some(Some(true)) => None,
            None if text("prompt") && text("response") => None,
            _ => Some(
                "is no conversation: give `prompt` and `response`, or `messages` of {role, content} with an answer of the assistant",
            ),
        },
        Purpose::Preference if text("prompt") && text("chosen") && text("rejected") => None,
        Purpose::Preference => Some("is no preference: give `prompt`, `chosen` and `rejected`"),
        Purpose::Prompts if text("prompt") || messages.flatten().is_some() => None,
        Purpose::Prompts => Some("is no prompt: give `prompt`, or `messages` of {role, content}"),
        // The suites decide which fields they need.
        Purpose::Evaluation | Purpose::Pretraining | Purpose::Retrieval if record.is_empty() => {
            Some("is an empty object")
        }
        Purpose::Evaluation | Purpose::Pretraining | Purpose::Retrieval => None,
    };
    if let Some(problem) = problem {
        return Err(at.refuse(problem));
    }
    serde_json::to_string(&Value::Object(record)).map_err(|error| at.refuse(error.to_string()))
}

/// The texts of a record in its canonical form that are trained on: prompts, answers and the contents of messages.
pub(crate) fn texts(record: String) -> Vec<String> {
    let record: Map<String, Value> = serde_json::from_str(&record).unwrap_or_default();
    let fields = ["prompt", "response", "chosen", "rejected"];
    let own = fields.iter().filter_map(|field| record.get(*field));
    let messages = record.get("messages").and_then(Value::as_array);
    let contents = messages
        .into_iter()
        .flatten()
        .filter_map(|message| message.get("content"));
    own.chain(contents)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Whether the assistant answers in a list of messages; `None` when it is none.
fn conversation(messages: &Value) -> Option<bool> {
    let messages = messages
        .as_array()
        .filter(|messages| !messages.is_empty())?;
    let mut answered = false;
    for message in messages {
        let part = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        part("content")?;
        answered |= part("role")? == "assistant";
    }
    Some(answered)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_purpose_has_its_forms() {
        let at = At {
            path: Path::new("x.jsonl"),
            line: 3,
        };
        let good = |purpose, value: Value| {
            canonical(&at, purpose, value.as_object().unwrap().clone()).is_ok()
        };
        let asked = json!({"messages": [{"role": "user", "content": "hi"}]});
        let chat = json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]});
        let pair = json!({"prompt": "a", "response": "b"});
        let preference = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
        for (purpose, accepted, refused) in [
            (
                Purpose::Instruction,
                vec![&chat, &pair],
                vec![&asked, &preference],
            ),
            (Purpose::Preference, vec![&preference], vec![&chat, &pair]),
            (Purpose::Prompts, vec![&asked, &chat, &pair], vec![]),
            (
                Purpose::Evaluation,
                vec![&asked, &chat, &pair, &preference],
                vec![],
            ),
        ] {
            assert!(
                accepted
                    .into_iter()
                    .all(|value| good(purpose, value.clone())),
                "{purpose:?}"
            );
            assert!(
                !refused
                    .into_iter()
                    .any(|value| good(purpose, value.clone())),
                "{purpose:?}"
            );
        }
        for broken in [
            json!({"messages": []}),
            json!({"messages": [{"role": "user"}]}),
            json!({"messages": 3}),
            json!({}),
        ] {
            assert!(!good(Purpose::Prompts, broken.clone()) && !good(Purpose::Instruction, broken));
        }
        assert!(!good(Purpose::Evaluation, json!({})));
        assert_eq!(
            canonical(
                &at,
                Purpose::Evaluation,
                json!({"b": 1, "a": 2}).as_object().unwrap().clone()
            )
            .unwrap(),
            "{\"a\":2,\"b\":1}"
        );
        let error = canonical(&at, Purpose::Preference, Map::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.jsonl") && error.contains('3') && error.contains("`chosen`"),
            "{error}"
        );
    }
}

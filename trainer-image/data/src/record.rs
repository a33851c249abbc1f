//! Owns JSON records: the text within, or the record itself where a dataset keeps records.

use std::path::Path;

use serde_json::{Map, Value};

use crate::document::Document;
use crate::error::DataError;
use crate::extract::Reading;

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
) -> Option<Result<Document, DataError>> {
    let record: Map<String, Value> = match serde_json::from_str(line) {
        Ok(record) => record,
        Err(error) => return Some(Err(at.refuse(format!("is no JSON object: {error}")))),
    };
    let license = record
        .get("license")
        .and_then(Value::as_str)
        .map(str::to_string);
    if reading.records {
        return Some(conversation(at, record).map(|text| Document { text, license }));
    }
    let field = reading.text_field.unwrap_or("text");
    match record.get(field) {
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(Ok(Document {
            text: text.clone(),
            license,
        })),
        Some(_) => Some(Err(at.refuse(format!("field `{field}` is no string")))),
        None => Some(Err(at.refuse(format!(
            "has no field `{field}`; set textField to the one that holds the text"
        )))),
    }
}

/// Checks that a record is a conversation and gives it in its canonical form: sorted keys, one line.
fn conversation(at: &At<'_>, record: Map<String, Value>) -> Result<String, DataError> {
    let text = |name: &str| {
        record
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.trim().is_empty())
    };
    let good = match record.get("messages") {
        Some(Value::Array(messages)) => {
            let said = |message: &Value| {
                let part = |name: &str| {
                    message
                        .get(name)
                        .and_then(Value::as_str)
                        .is_some_and(|text| !text.is_empty())
                };
                part("role") && part("content")
            };
            let answered = messages
                .iter()
                .any(|message| message.get("role").and_then(Value::as_str) == Some("assistant"));
            !messages.is_empty() && messages.iter().all(said) && answered
        }
        Some(_) => false,
        None => text("prompt").is_some() && text("response").is_some(),
    };
    if !good {
        return Err(at.refuse(
            "is no conversation: give `prompt` and `response`, or `messages` of {role, content} with an answer of the assistant",
        ));
    }
    serde_json::to_string(&Value::Object(record)).map_err(|error| at.refuse(error.to_string()))
}

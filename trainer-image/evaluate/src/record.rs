//! Owns reading records of a dataset artefact: documents and prompts with references; it must not score them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use bessemer_model::Message;
use serde::Deserialize;

use crate::Error;

/// Held-out records of a dataset artefact, one JSON object per line.
pub(crate) const VALIDATION_FILE: &str = "validation.jsonl";

/// Text to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Whole text.
    pub text: String,
}

/// A conversation whose last answer is to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Everything before the answer.
    pub messages: Vec<Message>,
    /// Right answers; the first one is the record's own.
    pub references: Vec<String>,
}

impl Prompt {
    /// The conversation with its own answer.
    pub fn conversation(&self) -> Vec<Message> {
        let mut all = self.messages.clone();
        all.extend(
            self.references
                .first()
                .map(|answer| Message::new("assistant", answer)),
        );
        all
    }
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    response: Option<String>,
    #[serde(default)]
    references: Vec<String>,
}

fn read<T>(
    dataset: &Path,
    limit: u64,
    mut take: impl FnMut(Record) -> Result<T, &'static str>,
) -> Result<Vec<T>, Error> {
    let path: PathBuf = dataset.join(VALIDATION_FILE);
    let file = std::fs::File::open(&path).map_err(Error::file(&path))?;
    let limit = if limit == 0 {
        usize::MAX
    } else {
        usize::try_from(limit).unwrap_or(usize::MAX)
    };
    let mut all = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        if all.len() >= limit {
            break;
        }
        let line = line.map_err(Error::file(&path))?;
        if line.trim().is_empty() {
            continue;
        }
        let refuse = |problem: &str| Error::Data {
            path: path.clone(),
            problem: format!("line {}: {problem}", index + 1),
        };
        let record: Record =
            serde_json::from_str(&line).map_err(|error| refuse(&error.to_string()))?;
        all.push(take(record).map_err(refuse)?);
    }
    if all.is_empty() {
        let problem = "holds no record; raise split.validation of the dataset or give it more text"
            .to_owned();
        return Err(Error::Data { path, problem });
    }
    Ok(all)
}

/// The first `limit` held-out documents (0: all) of a dataset directory. Conversations count as the text of all
/// their messages, one per line.
///
/// # Errors
/// [`Error::File`]; [`Error::Data`] naming a line that is no record, or when there is none.
pub fn read_documents(dataset: &Path, limit: u64) -> Result<Vec<Document>, Error> {
    read(dataset, limit, |record| {
        if let Some(text) = record.text {
            return Ok(Document { text });
        }
        let (messages, _) = conversation(record)?;
        let text = messages
            .into_iter()
            .map(|message| message.content)
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Document { text })
    })
}

/// The first `limit` held-out prompts (0: all) of a dataset directory.
///
/// # Errors
/// [`Error::File`]; [`Error::Data`] naming a line that has no answer, or when there is none.
pub fn read_prompts(dataset: &Path, limit: u64) -> Result<Vec<Prompt>, Error> {
    read(dataset, limit, |record| {
        let (mut messages, mut references) = conversation(record)?;
        let last = messages
            .iter()
            .rposition(|message| message.role == "assistant")
            .ok_or("nobody answers")?;
        let answer = messages.swap_remove(last).content;
        messages.truncate(last);
        if messages.is_empty() {
            return Err("nothing is asked before the answer");
        }
        references.insert(0, answer);
        Ok(Prompt {
            messages,
            references,
        })
    })
}

fn conversation(record: Record) -> Result<(Vec<Message>, Vec<String>), &'static str> {
    let messages = match (record.messages, record.prompt, record.response) {
        (messages, None, None) if !messages.is_empty() => messages,
        (messages, Some(prompt), Some(response)) if messages.is_empty() => {
            vec![
                Message::new("user", prompt),
                Message::new("assistant", response),
            ]
        }
        _ => return Err("no conversation; each line needs text, messages, or prompt and response"),
    };
    Ok((messages, record.references))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(VALIDATION_FILE), text).unwrap();
        directory
    }

    #[test]
    fn forms_of_records() {
        let directory = dataset(concat!(
            r#"{"prompt":"a?","response":"b","references":["c"],"license":"MIT"}"#,
            "\n\n",
            r#"{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"},{"role":"user","content":"z"}]}"#,
            "\n",
        ));
        let prompts = read_prompts(directory.path(), 0).unwrap();
        assert_eq!(prompts[0].references, ["b", "c"]);
        assert_eq!(prompts[0].messages, [Message::new("user", "a?")]);
        assert_eq!(
            (prompts[1].messages.len(), prompts[1].references[0].as_str()),
            (1, "y")
        );
        assert_eq!(
            read_documents(directory.path(), 1).unwrap(),
            [Document {
                text: "a?\nb".into()
            }]
        );
    }

    #[test]
    fn a_bad_line_is_named_and_an_empty_file_refused() {
        let directory = dataset("{\"text\":\"a\"}\n{\"text\":3}\n");
        let error = read_documents(directory.path(), 0).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert_eq!(
            read_documents(directory.path(), 1).unwrap().len(),
            1,
            "lines beyond the limit are not read"
        );
        let error = read_documents(dataset("").path(), 0).unwrap_err();
        assert_eq!(
            (error.category(), error.exit_code().code()),
            ("InvalidData", 65)
        );
    }
}

//! Owns the shape of `/v1/chat/completions`: messages in, one assistant message per choice out. It
//! must not run anything; the template is bessemer-model's, the same that tuning learnt from.

use super::Served;
use super::answer::{Job, Prompt, Shape};
use super::choice::{Delta, Scored};
use super::field::Fields;
use super::setting::{Settings, TOP};
use bessemer_model::Message;
use bessemer_route::fault::Fault;
use serde::Deserialize;
use serde_json::{Value, json};

/// Writes chat completions.
#[derive(Debug)]
pub struct Chat {
    scored: bool,
}

#[derive(Deserialize)]
struct Incoming {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
}

impl Content {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|Part::Text { text }| text).collect(),
        }
    }
}

/// Reads a request.
///
/// # Errors
/// 400 that names the field.
pub fn read(served: &Served, mut fields: Fields) -> Result<Job<Chat>, Fault> {
    let messages: Vec<Incoming> = fields.take("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(Fault::invalid(
            "messages",
            "messages is missing or empty. Send at least one.",
        ));
    }
    let settings = Settings::take(&mut fields, &["max_completion_tokens", "max_tokens"], 1)?;
    let wanted = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, TOP)?;
    if top.is_some() && !wanted {
        return Err(Fault::invalid(
            "top_logprobs",
            "top_logprobs needs logprobs: true.",
        ));
    }
    fields.finish()?;
    let Some(template) = &served.template else {
        return Err(Fault::invalid(
            "messages",
            "This model has no chat template. Use /v1/completions.",
        ));
    };
    let messages: Vec<Message> = messages
        .into_iter()
        .map(|message| Message::new(message.role, message.content.text()))
        .collect();
    let text = template
        .render(&messages, true)
        .map_err(|error| Fault::invalid("messages", error.to_string()))?;
    // The template has written every special token itself.
    let tokens = served
        .vocabulary
        .encode(&text, false)
        .map_err(|error| Fault::invalid("messages", error.to_string()))?;
    let scores = wanted.then(|| top.and_then(|top| usize::try_from(top).ok()).unwrap_or(0));
    Ok(Job {
        prompts: vec![Prompt { tokens, echo: None }],
        settings,
        default_length: None,
        scores,
        shape: Chat { scored: wanted },
    })
}

impl Chat {
    fn logprobs(&self, served: &Served, scores: &[Scored]) -> Value {
        if !self.scored {
            return Value::Null;
        }
        let entry = |token: u32, logprob: f32| {
            let bytes = served.vocabulary.name_bytes(token);
            json!({"token": served.vocabulary.name(token), "logprob": logprob, "bytes": bytes})
        };
        let content = scores
            .iter()
            .filter_map(|scored| scored.score.as_ref())
            .map(|score| {
                let mut value = entry(score.token, score.logprob);
                let top: Vec<Value> = score
                    .top
                    .iter()
                    .map(|(token, logprob)| entry(*token, *logprob))
                    .collect();
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("top_logprobs".to_owned(), json!(top));
                }
                value
            });
        json!({"content": content.collect::<Vec<_>>(), "refusal": null})
    }
}

impl Shape for Chat {
    const PREFIX: &'static str = "chatcmpl";
    const WHOLE: &'static str = "chat.completion";
    const EVENT: &'static str = "chat.completion.chunk";

    fn whole(&self, served: &Served, delta: Delta) -> Value {
        json!({
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": null},
            "logprobs": self.logprobs(served, &delta.scores),
            "finish_reason": delta.finish.map(|finish| finish.word()),
        })
    }

    fn event(&self, served: &Served, delta: Delta) -> Value {
        let content = if delta.text.is_empty() {
            json!({})
        } else {
            json!({"content": delta.text})
        };
        json!({
            "index": delta.index,
            "delta": content,
            "logprobs": self.logprobs(served, &delta.scores),
            "finish_reason": delta.finish.map(|finish| finish.word()),
        })
    }

    fn opening(&self, index: usize) -> Option<Value> {
        Some(
            json!({"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}),
        )
    }
}

//! Owns the shape of `/v1/completions`: prompts in four forms, echo and the list-wise
//! log-probabilities that evaluation harnesses read. It must not run anything.

use super::Served;
use super::answer::{Job, Prompt, Shape};
use super::choice::{Delta, Scored};
use super::field::Fields;
use super::setting::{Settings, TOP};
use bessemer_route::fault::Fault;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// OpenAI's default for `max_tokens`.
const DEFAULT_LENGTH: usize = 16;
/// Prompts per request at most.
const PROMPTS: usize = 2048;

/// Writes completions.
#[derive(Debug)]
pub struct Completion {
    scored: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// Reads a request.
///
/// # Errors
/// 400 that names the field.
pub fn read(served: &Served, mut fields: Fields) -> Result<Job<Completion>, Fault> {
    let prompts = fields.take::<Prompts>("prompt");
    let prompts = prompts.map_err(|_| {
        Fault::invalid("prompt", "prompt must be a string, a list of strings, a list of token ids or a list of lists of token ids.")
    })?;
    let echo = fields.take("echo")?.unwrap_or(false);
    let settings = Settings::take(&mut fields, &["max_tokens"], i64::from(!echo))?;
    let scores = fields
        .integer("logprobs", 0, TOP)?
        .and_then(|top| usize::try_from(top).ok());
    fields.finish()?;
    let prompts = match prompts.ok_or_else(|| Fault::invalid("prompt", "prompt is missing."))? {
        Prompts::Text(text) => vec![from_text(served, text, echo)?],
        Prompts::Texts(texts) => texts
            .into_iter()
            .map(|text| from_text(served, text, echo))
            .collect::<Result<_, _>>()?,
        Prompts::Tokens(tokens) => vec![from_tokens(served, tokens, echo)?],
        Prompts::TokenLists(lists) => lists
            .into_iter()
            .map(|tokens| from_tokens(served, tokens, echo))
            .collect::<Result<_, _>>()?,
    };
    if prompts.is_empty() || prompts.len() > PROMPTS {
        return Err(Fault::invalid(
            "prompt",
            format!(
                "prompt holds {} prompts; 1 to {PROMPTS} are possible.",
                prompts.len()
            ),
        ));
    }
    Ok(Job {
        prompts,
        settings,
        default_length: Some(DEFAULT_LENGTH),
        scores,
        shape: Completion {
            scored: scores.is_some(),
        },
    })
}

fn from_text(served: &Served, text: String, echo: bool) -> Result<Prompt, Fault> {
    let tokens = served
        .vocabulary
        .encode(&text, true)
        .map_err(|error| Fault::invalid("prompt", error.to_string()))?;
    Ok(Prompt {
        tokens,
        echo: echo.then_some(text),
    })
}

fn from_tokens(served: &Served, tokens: Vec<u32>, echo: bool) -> Result<Prompt, Fault> {
    if let Some(wrong) = tokens
        .iter()
        .find(|token| **token as usize >= served.vocabulary_size)
    {
        let size = served.vocabulary_size;
        return Err(Fault::invalid(
            "prompt",
            format!("Token id {wrong} is not in the model's vocabulary of {size}."),
        ));
    }
    let text = || {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| served.vocabulary.bytes(*token))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let echo = echo.then(text);
    Ok(Prompt { tokens, echo })
}

impl Completion {
    fn choice(&self, served: &Served, delta: Delta) -> Value {
        let logprobs = self.scored.then(|| logprobs(served, &delta.scores));
        json!({"index": delta.index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish.map(|f| f.word())})
    }
}

/// Four lists of one length. The likeliest tokens are keyed by their text; where two ids have the
/// same, the likelier counts, so the greatest value is always that of the likeliest token.
fn logprobs(served: &Served, scores: &[Scored]) -> Value {
    let name = |token| served.vocabulary.name(token);
    let top = |scored: &Scored| {
        let score = scored.score.as_ref()?;
        let mut map = Map::new();
        for (token, logprob) in score.top.iter().chain([&(score.token, score.logprob)]) {
            map.entry(name(*token)).or_insert_with(|| json!(logprob));
        }
        Some(map)
    };
    json!({
        "tokens": scores.iter().map(|scored| name(scored.token)).collect::<Vec<_>>(),
        "token_logprobs": scores.iter().map(|scored| scored.score.as_ref().map(|score| score.logprob)).collect::<Vec<_>>(),
        "top_logprobs": scores.iter().map(top).collect::<Vec<_>>(),
        "text_offset": scores.iter().map(|scored| scored.offset).collect::<Vec<_>>(),
    })
}

impl Shape for Completion {
    const PREFIX: &'static str = "cmpl";
    const WHOLE: &'static str = "text_completion";
    const EVENT: &'static str = "text_completion";

    fn whole(&self, served: &Served, delta: Delta) -> Value {
        self.choice(served, delta)
    }

    fn event(&self, served: &Served, delta: Delta) -> Value {
        self.choice(served, delta)
    }

    fn opening(&self, _: usize) -> Option<Value> {
        None
    }
}

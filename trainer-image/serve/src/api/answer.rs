//! Owns carrying out a request: its prompts become engine sequences, its choices come back whole or
//! as server-sent events. It must not know the fields of a particular endpoint; a [`Shape`] does.

use super::Served;
use super::choice::{Choice, Delta};
use super::setting::Settings;
use crate::engine::{Event, Request, SubmitError};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bessemer_route::fault::Fault;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How an endpoint writes its answers.
pub trait Shape: Send + Sync + 'static {
    /// Beginning of the answer's id.
    const PREFIX: &'static str;
    /// `object` of a whole answer.
    const WHOLE: &'static str;
    /// `object` of an event.
    const EVENT: &'static str;

    /// A whole choice.
    fn whole(&self, served: &Served, delta: Delta) -> Value;
    /// What of a choice has just come.
    fn event(&self, served: &Served, delta: Delta) -> Value;
    /// An event before anything has come, if the endpoint has one.
    fn opening(&self, index: usize) -> Option<Value>;
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its ids, within the vocabulary.
    pub tokens: Vec<u32>,
    /// Its text, to be sent before the answer.
    pub echo: Option<String>,
}

/// A checked request.
#[derive(Debug)]
pub struct Job<S> {
    /// Prompts; every one has `settings.choices` choices.
    pub prompts: Vec<Prompt>,
    /// Shared settings.
    pub settings: Settings,
    /// Tokens to generate per choice when the settings do not tell; `None` takes all that fit.
    pub default_length: Option<usize>,
    /// Likeliest tokens per token; `None` for no scores.
    pub scores: Option<usize>,
    /// How the answer is written.
    pub shape: S,
}

struct Envelope {
    id: String,
    created: u64,
    model: String,
}

impl Envelope {
    fn wrap(&self, object: &str, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut value = json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices});
        if let (Some(usage), Some(fields)) = (usage, value.as_object_mut()) {
            fields.insert("usage".to_owned(), usage);
        }
        value
    }
}

fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// Carries out a request that arrived at `arrived`. `token` counts it as in flight until the last byte.
///
/// # Errors
/// 400 when a prompt does not fit, 429 when the queue is full, 500 when the model fails.
pub async fn answer<S: Shape>(
    served: &Arc<Served>,
    job: Job<S>,
    arrived: Instant,
    token: TaskTrackerToken,
) -> Result<Response, Fault> {
    let envelope = Envelope {
        id: format!(
            "{}-{:016x}{:016x}",
            S::PREFIX,
            rand::random::<u64>(),
            rand::random::<u64>()
        ),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        model: served.model.clone(),
    };
    let prompt_tokens = job.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let (stream, stream_usage) = (job.settings.stream, job.settings.stream_usage);
    let (choices, shape) = submit(served, job, arrived)?;
    if stream {
        let events = events(
            served.clone(),
            choices,
            shape,
            envelope,
            stream_usage.then_some(prompt_tokens),
            token,
        );
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        return Ok((headers, Body::from_stream(events)).into_response());
    }
    let whole =
        futures::future::try_join_all(choices.into_iter().map(|choice| collect(choice, served)))
            .await?;
    let completion_tokens = whole.iter().map(|(_, generated)| generated).sum();
    let choices = whole
        .into_iter()
        .map(|(delta, _)| shape.whole(served, delta))
        .collect();
    drop(token);
    Ok(axum::Json(envelope.wrap(
        S::WHOLE,
        choices,
        Some(usage(prompt_tokens, completion_tokens)),
    ))
    .into_response())
}

fn submit<S>(
    served: &Arc<Served>,
    job: Job<S>,
    arrived: Instant,
) -> Result<(Vec<Choice>, S), Fault> {
    let seed = job.settings.seed.unwrap_or_else(rand::random);
    let (mut choices, mut requests) = (Vec::new(), Vec::new());
    for prompt in job.prompts {
        let max_tokens = length(served, &prompt, job.settings.max_tokens, job.default_length)?;
        // The number of the choice within its prompt goes into the seed, the prompt's place in the
        // request does not: a prompt's answer does not depend on its companions.
        for number in 0..job.settings.choices {
            let (sender, receiver) = unbounded_channel::<Event>();
            let echo = prompt
                .echo
                .clone()
                .map(|text| (text, prompt.tokens.clone()));
            requests.push(Request {
                prompt: prompt.tokens.clone(),
                max_tokens,
                sampling: job.settings.sampling,
                seed: (seed, number as u64),
                scores: job.scores,
                score_prompt: echo.is_some() && job.scores.is_some(),
                ignore_end: job.settings.ignore_end,
                arrived,
                events: sender,
            });
            choices.push(Choice::new(
                choices.len(),
                served.vocabulary.clone(),
                receiver,
                job.settings.stops.clone(),
                echo,
            ));
        }
    }
    served.engine.submit(requests).map_err(|error| match error {
        SubmitError::Full => Fault::busy("The server's queue is full. Try again after the time in Retry-After."),
        SubmitError::TooMany(limit) => {
            Fault::invalid("prompt", format!("The request has more prompts times n than the {limit} that this server queues. Split it."))
        }
        SubmitError::Stopped => stopped(),
    })?;
    Ok((choices, job.shape))
}

/// How many tokens may be generated after `prompt`. The last one is not fed back, so it needs no
/// position.
fn length(
    served: &Served,
    prompt: &Prompt,
    wanted: Option<usize>,
    default: Option<usize>,
) -> Result<usize, Fault> {
    let tokens = prompt.tokens.len();
    let context = served.context;
    if tokens == 0 {
        return Err(Fault::invalid(
            "prompt",
            "A prompt has no tokens. Send some text.",
        ));
    }
    let Some(room) = (context + 1).checked_sub(tokens).filter(|room| *room > 0) else {
        return Err(Fault::invalid(
            "prompt",
            format!(
                "A prompt has {tokens} tokens, but the model's context has {context}. Shorten it."
            ),
        ));
    };
    match wanted {
        Some(wanted) if wanted > room => Err(Fault::invalid(
            "max_tokens",
            format!(
                "A prompt of {tokens} tokens and max_tokens of {wanted} exceed the model's context of {context}. Reduce either."
            ),
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(default.map_or(room, |default| default.min(room))),
    }
}

fn stopped() -> Fault {
    Fault::internal(
        "EngineStopped",
        "The engine has stopped; the server restarts. Try again.",
    )
}

fn failed(failure: Option<crate::engine::Failure>) -> Fault {
    failure.map_or_else(stopped, |failure| {
        Fault::internal(
            "ModelFailed",
            format!("The answer cannot be completed: {failure}."),
        )
    })
}

async fn collect(mut choice: Choice, served: &Served) -> Result<(Delta, usize), Fault> {
    let mut whole = Delta::default();
    while let Some(delta) = choice.next().await {
        let delta = delta
            .map_err(failed)
            .inspect_err(|fault| served.metrics.failed(fault.category))?;
        whole.index = delta.index;
        whole.text.push_str(&delta.text);
        whole.scores.extend(delta.scores);
        whole.finish = delta.finish;
    }
    Ok((whole, choice.generated()))
}

/// Server-sent events of all choices as they come. Dropping the stream (the client went away) drops
/// the choices, and with them the engine's sequences within one step.
fn events<S: Shape>(
    served: Arc<Served>,
    choices: Vec<Choice>,
    shape: S,
    envelope: Envelope,
    stream_usage: Option<usize>,
    token: TaskTrackerToken,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let mut opening: Vec<Option<Value>> = (0..choices.len())
        .map(|index| shape.opening(index))
        .collect();
    let generated = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let each = choices.into_iter().map(|choice| {
        let generated = generated.clone();
        stream::unfold((choice, generated), |(mut choice, generated)| async move {
            match choice.next().await {
                Some(delta) => Some((delta, (choice, generated))),
                None => {
                    generated.fetch_add(choice.generated(), std::sync::atomic::Ordering::AcqRel);
                    None
                }
            }
        })
        .boxed()
    });
    let all = stream::select_all(each.collect::<Vec<_>>());
    let envelope = Arc::new(envelope);
    let last_envelope = envelope.clone();
    let middle = all.map(move |delta| match delta {
        Ok(delta) => {
            // An opening event waits for the first token, so that the first byte of the answer is
            // the first token's to whoever measures it.
            let opening = opening.get_mut(delta.index).and_then(Option::take);
            let choices = opening.into_iter().chain([shape.event(&served, delta)]);
            choices
                .flat_map(|choice| event(&envelope.wrap(S::EVENT, vec![choice], None)))
                .collect()
        }
        Err(failure) => {
            let fault = failed(failure);
            served.metrics.failed(fault.category);
            event(&fault.json())
        }
    });
    let last = stream::once(async move {
        let mut text = Vec::new();
        if let Some(prompt) = stream_usage {
            let completion = generated.load(std::sync::atomic::Ordering::Acquire);
            text.extend(event(&last_envelope.wrap(
                S::EVENT,
                Vec::new(),
                Some(usage(prompt, completion)),
            )));
        }
        text.extend_from_slice(b"data: [DONE]\n\n");
        drop(token);
        Bytes::from(text)
    });
    middle.chain(last).map(Ok)
}

fn event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

//! Owns sending a scenario's steps through a client and collecting the answers. Must not know which server answers.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use super::{Answer, ConformanceError, Normaliser, Scenario, Step};

struct Raw {
    code: u16,
    warnings: Vec<String>,
    body: Value,
}

/// Runs a scenario in the namespace `namespace`, which must exist, and returns the normalised answers.
///
/// # Errors
/// When a request gets no answer, or a wait does not end within 30 s.
pub async fn run(
    client: &kube::Client,
    scenario: &Scenario,
    namespace: &str,
) -> Result<Vec<Answer>, ConformanceError> {
    let mut values = BTreeMap::from([("ns".to_owned(), namespace.to_owned())]);
    let mut normaliser = Normaliser::default();
    let mut answers = Vec::new();
    for (index, step) in scenario.steps.iter().enumerate() {
        let raw =
            repeat(client, step, &values)
                .await
                .map_err(|message| ConformanceError::Request {
                    scenario: scenario.name.clone(),
                    step: index,
                    request: step.request.clone(),
                    message,
                })?;
        for (name, pointer) in &step.save {
            let value = raw
                .body
                .pointer(pointer)
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            values.insert(name.clone(), value.unwrap_or_default());
        }
        if step.silent && raw.code >= 400 {
            return Err(ConformanceError::Request {
                scenario: scenario.name.clone(),
                step: index,
                request: step.request.clone(),
                message: raw.body.to_string(),
            });
        }
        if !step.silent {
            let text = raw.body.to_string().replace(namespace, "<namespace>");
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            answers.push(Answer {
                request: step.request.clone(),
                code: raw.code,
                warnings: raw.warnings,
                body: normaliser.apply(&body),
            });
        }
    }
    Ok(answers)
}

fn fill(text: &str, values: &BTreeMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value)
    })
}

async fn repeat(
    client: &kube::Client,
    step: &Step,
    values: &BTreeMap<String, String>,
) -> Result<Raw, String> {
    let attempts = if step.until.is_some() || step.until_value.is_some() {
        600
    } else {
        1
    };
    for attempt in 0..attempts {
        let raw = send(client, step, values).await?;
        let code = step.until.is_none_or(|code| code == raw.code);
        let value = step.until_value.as_ref().is_none_or(|(pointer, wanted)| {
            raw.body.pointer(pointer).unwrap_or(&Value::Null) == wanted
        });
        if code && value {
            return Ok(raw);
        }
        if attempt + 1 == attempts {
            return Err(format!(
                "did not come to {:?} {:?}; last answer {} {}",
                step.until, step.until_value, raw.code, raw.body
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("no attempt was made".to_owned())
}

async fn send(
    client: &kube::Client,
    step: &Step,
    values: &BTreeMap<String, String>,
) -> Result<Raw, String> {
    let (method, uri) = step
        .request
        .split_once(' ')
        .ok_or("a request is METHOD /path")?;
    let media = match step.r#type.as_deref() {
        None | Some("json") => "application/json",
        Some("merge") => "application/merge-patch+json",
        Some("json-patch") => "application/json-patch+json",
        Some("strategic") => "application/strategic-merge-patch+json",
        Some("apply") => "application/apply-patch+yaml",
        Some(other) => other,
    };
    let body = step
        .body
        .as_ref()
        .map(|b| fill(&b.to_string(), values))
        .unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(fill(uri, values))
        .header(header::CONTENT_TYPE, media)
        .header(
            header::ACCEPT,
            step.accept.as_deref().unwrap_or("application/json"),
        )
        .header(header::USER_AGENT, "conformance/1")
        .body(Body::from(body.into_bytes()))
        .map_err(|e| e.to_string())?;
    let response = client.send(request).await.map_err(|e| e.to_string())?;
    let code = response.status().as_u16();
    let warnings = response
        .headers()
        .get_all(header::WARNING)
        .iter()
        .filter_map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    let body = match step.events {
        Some(count) => events(response, count).await?,
        None => {
            let bytes = response
                .into_body()
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_bytes();
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into())
        }
    };
    Ok(Raw {
        code,
        warnings,
        body,
    })
}

/// Reads watch events until `count` came or the watch ended.
async fn events(response: Response<Body>, count: usize) -> Result<Value, String> {
    let mut body = response.into_body();
    let mut text: Vec<u8> = Vec::new();
    let mut events = Vec::new();
    while events.len() < count {
        let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
        match frame
            .map_err(|_| format!("a watch gave {} of {count} events in 30 s", events.len()))?
        {
            None => break,
            Some(frame) => {
                if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
                    text.extend_from_slice(&data);
                }
            }
        }
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event = serde_json::from_slice(&line).map_err(|e| e.to_string())?;
            events.push(event);
        }
    }
    events.truncate(count);
    Ok(Value::Array(events))
}

//! Owns the settings that completions and chat share: how tokens are chosen, when they stop and
//! how the answer is sent. It must not know prompts.

use super::field::Fields;
use crate::sampler::Sampling;
use bessemer_route::fault::Fault;
use serde::Deserialize;

/// Choices per prompt at most.
const CHOICES: i64 = 128;
/// Stop strings at most.
const STOPS: usize = 16;
/// Longest stop string in bytes; text is held back for as long.
const STOP_LENGTH: usize = 1024;
/// Likeliest tokens reported at most.
pub const TOP: i64 = 20;

/// Checked settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tokens to generate at most, if told.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed, if told.
    pub seed: Option<u64>,
    /// Choices per prompt.
    pub choices: usize,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Whether the answer comes as events.
    pub stream: bool,
    /// Whether a stream ends with the usage.
    pub stream_usage: bool,
    /// Generate past the end of the text.
    pub ignore_end: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Settings {
    /// Takes the shared fields. `lengths` are the names of the field that bounds the answer, newest first.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn take(fields: &mut Fields, lengths: &[&str], minimum: i64) -> Result<Self, Fault> {
        let mut max_tokens = None;
        for name in lengths {
            max_tokens = max_tokens.or(fields.integer(name, minimum, i64::from(u32::MAX))?);
        }
        let stops = match fields.take::<Stop>("stop")? {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        if stops.len() > STOPS || stops.iter().any(|stop| stop.len() > STOP_LENGTH) {
            return Err(Fault::invalid(
                "stop",
                format!("stop takes at most {STOPS} strings of at most {STOP_LENGTH} bytes."),
            ));
        }
        let stream = fields.take("stream")?.unwrap_or(false);
        let options: Option<StreamOptions> = fields.take("stream_options")?;
        if options.is_some() && !stream {
            return Err(Fault::invalid(
                "stream_options",
                "stream_options needs stream: true.",
            ));
        }
        let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0) as f32;
        let top_k = fields
            .integer("top_k", -1, i64::from(u32::MAX))?
            .unwrap_or(0);
        Ok(Self {
            max_tokens: max_tokens.and_then(|tokens| usize::try_from(tokens).ok()),
            sampling: Sampling {
                temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0) as f32,
                top_k: usize::try_from(top_k).unwrap_or(0),
                top_p,
            },
            seed: fields.take::<i64>("seed")?.map(i64::cast_unsigned),
            choices: fields
                .integer("n", 1, CHOICES)?
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1),
            stops,
            stream,
            stream_usage: options.is_some_and(|options| options.include_usage),
            ignore_end: fields.take("ignore_eos")?.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(body: &str) -> Result<Settings, Fault> {
        Settings::take(
            &mut Fields::parse(body.as_bytes())?,
            &["max_completion_tokens", "max_tokens"],
            1,
        )
    }

    #[test]
    fn defaults_are_openais() {
        let settings = take("{}").unwrap();
        assert_eq!(
            settings.sampling,
            Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0
            }
        );
        assert_eq!(
            (
                settings.choices,
                settings.stream,
                settings.max_tokens,
                settings.seed
            ),
            (1, false, None, None)
        );
        let settings = take(r#"{"stop":"a","max_tokens":3,"top_k":-1,"seed":-1,"stream":true,"stream_options":{"include_usage":true}}"#).unwrap();
        assert_eq!(
            (settings.stops, settings.max_tokens, settings.seed),
            (vec!["a".to_owned()], Some(3), Some(u64::MAX))
        );
        assert!(settings.stream_usage);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (body, name) in [
            (r#"{"temperature":-0.1}"#, "temperature"),
            (r#"{"top_p":1.1}"#, "top_p"),
            (r#"{"n":0}"#, "n"),
            (r#"{"max_tokens":0}"#, "max_tokens"),
            (
                r#"{"stream_options":{"include_usage":true}}"#,
                "stream_options",
            ),
            (
                r#"{"stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]}"#,
                "stop",
            ),
            (r#"{"stop":3}"#, "stop"),
        ] {
            assert_eq!(take(body).unwrap_err().parameter.as_deref(), Some(name));
        }
    }
}

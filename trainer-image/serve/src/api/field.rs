//! Owns reading the fields of a request body: typed, bounded and complete. A field that nobody
//! took is refused, so that no setting is ever ignored in silence. It must not know endpoints.

use bessemer_route::fault::Fault;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Fields that change nothing about the answer.
const HARMLESS: [&str; 7] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
];

/// The fields of a request that were not taken yet.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// 400 when it is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Fault::invalid("", "The body must be a JSON object.")),
            Err(error) => Err(Fault::invalid(
                "",
                format!("The body is not JSON: {error}."),
            )),
        }
    }

    /// Takes a field; null counts as absent.
    ///
    /// # Errors
    /// 400 when it has another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|error| {
                Fault::invalid(name, format!("{name} has the wrong type: {error}."))
            }),
        }
    }

    /// Takes a number between `low` and `high`.
    ///
    /// # Errors
    /// 400 when it is no number or outside.
    pub fn number(&mut self, name: &str, low: f64, high: f64) -> Result<Option<f64>, Fault> {
        let Some(value) = self.take::<f64>(name)? else {
            return Ok(None);
        };
        if !(low..=high).contains(&value) {
            return Err(Fault::invalid(
                name,
                format!("{name} is {value}; it must be from {low} to {high}."),
            ));
        }
        Ok(Some(value))
    }

    /// Takes an integer between `low` and `high`.
    ///
    /// # Errors
    /// 400 when it is no integer or outside.
    pub fn integer(&mut self, name: &str, low: i64, high: i64) -> Result<Option<i64>, Fault> {
        let Some(value) = self.take::<i64>(name)? else {
            return Ok(None);
        };
        if !(low..=high).contains(&value) {
            return Err(Fault::invalid(
                name,
                format!("{name} is {value}; it must be from {low} to {high}."),
            ));
        }
        Ok(Some(value))
    }

    /// Refuses what is left, except what changes nothing.
    ///
    /// # Errors
    /// 400 that names the first field that is not supported.
    pub fn finish(self) -> Result<(), Fault> {
        for (name, value) in self.0 {
            if HARMLESS.contains(&name.as_str()) || value.is_null() || neutral(&name, &value) {
                continue;
            }
            return Err(Fault::invalid(
                &name,
                format!("{name} is not supported by this server. Leave it out."),
            ));
        }
        Ok(())
    }
}

/// Whether a known field that is not supported has the value that does nothing.
fn neutral(name: &str, value: &Value) -> bool {
    match name {
        "presence_penalty" | "frequency_penalty" | "min_p" => value.as_f64() == Some(0.0),
        "repetition_penalty" => value.as_f64() == Some(1.0),
        "best_of" => value.as_i64() == Some(1),
        "suffix" => value == "",
        "tool_choice" => value == "none",
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
        "response_format" => *value == json!({"type": "text"}),
        "use_beam_search" => *value == json!(false),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_named() {
        let parameter = |body: &str| {
            Fields::parse(body.as_bytes())
                .unwrap()
                .finish()
                .map_err(|fault| fault.parameter.unwrap())
        };
        assert_eq!(
            parameter(
                r#"{"user":"a","presence_penalty":0,"suffix":null,"response_format":{"type":"text"}}"#
            ),
            Ok(())
        );
        assert_eq!(
            parameter(r#"{"presence_penalty":0.5}"#),
            Err("presence_penalty".to_owned())
        );
        assert_eq!(
            parameter(r#"{"response_format":{"type":"json_object"}}"#),
            Err("response_format".to_owned())
        );
        assert_eq!(
            parameter(r#"{"temprature":0}"#),
            Err("temprature".to_owned())
        );
    }

    #[test]
    fn types_and_ranges_are_checked() {
        let mut fields = Fields::parse(br#"{"a":1.5,"b":"x","c":null,"d":7}"#).unwrap();
        assert_eq!(
            fields.number("a", 0.0, 1.0).unwrap_err().parameter.unwrap(),
            "a"
        );
        assert!(
            fields
                .integer("b", 0, 9)
                .unwrap_err()
                .message
                .contains("wrong type")
        );
        assert_eq!(fields.integer("c", 0, 9).unwrap(), None);
        assert_eq!(fields.integer("d", 0, 9).unwrap(), Some(7));
        assert!(Fields::parse(b"[1]").is_err() && Fields::parse(b"{").is_err());
    }
}

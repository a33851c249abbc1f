//! Owns sizes in specs, written as Kubernetes quantities.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A size in bytes as a Kubernetes quantity (`500M`, `2Gi`), kept as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub String);

impl Bytes {
    /// The size in bytes; `None` when the text is no quantity of bytes.
    pub fn get(&self) -> Option<u64> {
        let digits = self.0.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor: f64 = match self.0.get(digits.len()..)? {
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "Ki" => 1024.0,
            "Mi" => 1024f64.powi(2),
            "Gi" => 1024f64.powi(3),
            "Ti" => 1024f64.powi(4),
            _ => return None,
        };
        let value = digits.parse::<f64>().ok()? * factor;
        (value.is_finite() && value >= 0.0).then_some(value as u64)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 20, "pattern": r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_decimal_and_binary_suffixes() {
        for (text, value) in [
            ("10", Some(10)),
            ("2k", Some(2000)),
            ("1.5Ki", Some(1536)),
            ("1Gi", Some(1 << 30)),
            ("x", None),
            ("1Q", None),
        ] {
            assert_eq!(Bytes(text.into()).get(), value, "{text}");
        }
    }
}

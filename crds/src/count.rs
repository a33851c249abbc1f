//! Owns counts in specs; must not be used in status, where numbers are plain.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A count: an integer, or a string with a suffix (`20k`, `300M`, `1.5B`, `2T`) or exponent (`3e+08`, which
/// Helm prints for large integers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u64);

impl Count {
    /// Reads the string form.
    ///
    /// # Errors
    /// A sentence that names the accepted forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is no count; write an integer or a string such as 20k, 300M, 1.5B, 3e+08"
            )
        };
        let (number, factor) = match text.char_indices().next_back() {
            Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
                let factor = match suffix {
                    'k' | 'K' => 1e3,
                    'M' => 1e6,
                    'G' | 'B' => 1e9,
                    'T' => 1e12,
                    _ => return Err(refused()),
                };
                (text.get(..at).unwrap_or_default(), factor)
            }
            _ => (text, 1.0),
        };
        let value = number.parse::<f64>().map_err(|_| refused())? * factor;
        if !value.is_finite() || !(0.0..=9e15).contains(&value) || value.fract() != 0.0 {
            return Err(refused());
        }
        Ok(Self(value as u64))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Count {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count (integer, or string such as 300M)")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Count, E> {
                Ok(Count(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Count, E> {
                u64::try_from(value)
                    .map(Count)
                    .map_err(|_| E::custom("a count is not negative"))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Count, E> {
                Count::parse(&value.to_string()).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Count, E> {
                Count::parse(value).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 20,
            "minimum": 0,
            // Only what `parse` takes: a fraction is no longer than its suffix or exponent makes whole, and no value
            // is above 9e15.
            "pattern": concat!(
                r"^([0-9]{1,15}|[0-9]{1,12}(\.[0-9]{1,3})?[kK]|[0-9]{1,9}(\.[0-9]{1,6})?M|[0-9]{1,6}(\.[0-9]{1,6})?[GB]|",
                r"[0-9]{1,3}(\.[0-9]{1,6})?T|[0-9]{1,3}[eE]\+?0?[0-9]|[0-9](\.[0-9]{1,6})?[eE]\+?(0?[6-9]|1[0-4]))$"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_integers_suffixes_and_helms_exponents() {
        for (text, value) in [
            ("7", 7),
            ("20k", 20_000),
            ("300M", 300_000_000),
            ("1.5B", 1_500_000_000),
            ("3e+08", 300_000_000),
        ] {
            assert_eq!(Count::parse(text), Ok(Count(value)), "{text}");
            assert_eq!(
                serde_json::from_value::<Count>(serde_json::json!(text)).unwrap(),
                Count(value)
            );
        }
        assert_eq!(
            serde_json::from_str::<Count>("3e+08").unwrap(),
            Count(300_000_000)
        );
        for text in ["", "-1", "1.5", "M", "1X", "nan", "inf", "1e99"] {
            assert!(Count::parse(text).is_err(), "{text}");
        }
    }
}

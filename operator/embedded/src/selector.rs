//! Owns label and field selectors: parsing and matching; must not know storage.

use serde_json::Value;

use crate::object;
use crate::status::Failure;

/// A parsed `labelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

impl LabelSelector {
    /// Parses the query form: `a=b,c!=d,e in (f,g),h,!i,n>1`.
    ///
    /// # Errors
    /// 400 when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::bad_request(format!("unable to parse requirement: {why}"));
        let mut requirements = Vec::new();
        for part in split(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            if let Some(operator) = ["==", "=", ">", "<", "!="]
                .into_iter()
                .find(|o| part.starts_with(o))
            {
                return Err(Failure::bad_request(format!(
                    "found '{operator}', expected: !, identifier, or 'end of string'"
                )));
            }
            let requirement = if let Some(key) = part.strip_prefix('!') {
                Requirement::Absent(key.trim().to_owned())
            } else if let Some((head, list)) = part.split_once('(') {
                let list = list.trim_end().strip_suffix(')').ok_or_else(|| bad(part))?;
                let values = list.split(',').map(|v| v.trim().to_owned()).collect();
                let words: Vec<&str> = head.split_whitespace().collect();
                match words.as_slice() {
                    [key, "in"] => Requirement::In((*key).to_owned(), values),
                    [key, "notin"] => Requirement::NotIn((*key).to_owned(), values),
                    _ => return Err(bad(part)),
                }
            } else if let Some((key, value)) = part.split_once("!=") {
                Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some((key, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some((key, value)) = part.split_once('>') {
                Requirement::Greater(
                    key.trim().to_owned(),
                    value.trim().parse().map_err(|_| bad(part))?,
                )
            } else if let Some((key, value)) = part.split_once('<') {
                Requirement::Less(
                    key.trim().to_owned(),
                    value.trim().parse().map_err(|_| bad(part))?,
                )
            } else if part.split_whitespace().count() == 1 {
                Requirement::Exists(part.to_owned())
            } else {
                let second = part.split_whitespace().nth(1).unwrap_or_default();
                return Err(bad(&format!(
                    "found '{second}', expected: in, notin, =, ==, !=, gt, lt"
                )));
            };
            requirements.push(requirement);
        }
        Ok(Self(requirements))
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object's labels satisfy every requirement.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object::at(object, &["metadata", "labels"]);
        let get = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => get(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => {
                get(key).is_none_or(|v| values.iter().all(|w| w != v))
            }
            Requirement::Exists(key) => get(key).is_some(),
            Requirement::Absent(key) => get(key).is_none(),
            Requirement::Greater(key, bound) => number(get(key)).is_some_and(|n| n > *bound),
            Requirement::Less(key, bound) => number(get(key)).is_some_and(|n| n < *bound),
        })
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text.get(from..index).unwrap_or_default());
                from = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(from..).unwrap_or_default());
    parts
}

/// A parsed `fieldSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses `a.b=c,d!=e`; every field must be in `allowed`.
    ///
    /// # Errors
    /// 400 when the text is no selector or a field cannot be selected on.
    pub fn parse(text: &str, allowed: &dyn Fn(&str) -> bool) -> Result<Self, Failure> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, true, v)
            } else {
                return Err(Failure::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let field = field.trim();
            if !allowed(field) {
                return Err(Failure::bad_request(format!(
                    "field label not supported: {field}"
                )));
            }
            terms.push((field.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self(terms))
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object satisfies every term; an absent field reads as "".
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, value)| {
            let path: Vec<&str> = field.split('.').collect();
            let actual = match object::at(object, &path) {
                Some(Value::String(s)) => s.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (actual == *value) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match_as_kubernetes_does() {
        let object = json!({"metadata": {"labels": {"app": "web", "n": "3"}}});
        for (text, expected) in [
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("app in (web,db)", true),
            ("app notin (web)", false),
            ("tier notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!tier", true),
            ("n>2", true),
            ("n<3", false),
            ("app=web,tier", false),
            ("", true),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches(&object),
                expected,
                "{text}"
            );
        }
        assert!(LabelSelector::parse("a b c").is_err());
        assert!(LabelSelector::parse("a in (b").is_err());
    }

    #[test]
    fn field_selectors_refuse_unknown_fields() {
        let any = |f: &str| f == "metadata.name" || f == "spec.x";
        let selector = FieldSelector::parse("metadata.name=a,spec.x!=1", &any).unwrap();
        assert!(selector.matches(&json!({"metadata": {"name": "a"}, "spec": {"x": 2}})));
        assert!(!selector.matches(&json!({"metadata": {"name": "a"}, "spec": {"x": 1}})));
        assert_eq!(
            FieldSelector::parse("spec.y=1", &any).unwrap_err().code,
            400
        );
    }
}

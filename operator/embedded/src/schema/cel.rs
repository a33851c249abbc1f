//! Owns the evaluation of `x-kubernetes-validations`; must not know where schemas come from.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use kube_cel::{CompiledSchema, ErrorKind, SchemaFormat, Validator, compile_schema};
use serde_json::{Map, Value};

use crate::object;
use crate::status::Cause;

/// The compiled rules of one schema.
pub struct Rules {
    compiled: CompiledSchema,
    /// The rules of the object itself.
    root: Vec<String>,
    /// Fields of the object with rules below them, and whether one of these compares with the old value.
    below: BTreeMap<String, bool>,
}

thread_local! {
    /// Registering the functions takes longer than most rules; no evaluation changes them.
    static VALIDATOR: OnceCell<Validator> = const { OnceCell::new() };
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl Rules {
    /// Compiles the rules of a schema; `None` when it has none.
    #[must_use]
    pub fn compile(schema: &Value) -> Option<Self> {
        let fields = schema.get("properties").and_then(Value::as_object);
        let mut compiled = has_rules(schema).then(|| compile_schema(schema));
        compiled.as_mut().map(thin);
        compiled.map(|compiled| Self {
            compiled,
            root: rules(schema).map(str::to_owned).collect(),
            below: fields
                .into_iter()
                .flatten()
                .filter(|(_, field)| has_rules(field))
                .map(|(name, field)| (name.clone(), compares(field)))
                .collect(),
        })
    }

    /// Sentences about rules that do not compile.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.compiled
            .compilation_errors()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Checks an object; `old` makes transition rules apply.
    #[must_use]
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let seen = self.seen(object, old);
        let before = old.map(|old| only(old, &seen));
        let seen = only(object, &seen);
        let checked = VALIDATOR.with(|validator| {
            let validator = validator.get_or_init(Validator::new);
            validator.validate_compiled(&self.compiled, &seen, before.as_ref())
        });
        let Err(errors) = checked else {
            return Vec::new();
        };
        errors
            .into_vec()
            .into_iter()
            .map(|error| {
                let detail = match error.kind {
                    ErrorKind::ValidationFailure => error.message.clone(),
                    _ => format!("rule evaluation error: {}", error.message),
                };
                let shown = lookup(object, &error.field_path);
                match error.reason.as_deref() {
                    Some("FieldValueForbidden") => Cause::forbidden(&error.field_path, &detail),
                    Some("FieldValueRequired") => Cause::required(&error.field_path, &detail),
                    Some("FieldValueDuplicate") => Cause::duplicate(&error.field_path, shown),
                    // Whole maps and lists are not repeated in the message.
                    _ if shown.is_object() || shown.is_array() => Cause {
                        reason: "FieldValueInvalid",
                        message: format!("Invalid value: {detail}"),
                        field: error.field_path.clone(),
                    },
                    _ => Cause::invalid(&error.field_path, shown, &detail),
                }
            })
            .collect()
    }

    /// The fields that rules have to look at: those that a rule of the object names, and those with rules below them
    /// unless they are as before. What was accepted once stays so (Kubernetes' validation ratcheting), but for rules
    /// that compare with the old value.
    fn seen<'a>(&self, object: &'a Value, old: Option<&Value>) -> Vec<&'a str> {
        let unchanged = |name: &str| old.is_some_and(|old| old.get(name) == object.get(name));
        let needed = |name: &&str| match self.below.get(*name) {
            Some(compares) if *compares || !unchanged(name) => true,
            _ => self.root.iter().any(|rule| names(rule, name)),
        };
        let fields = object.as_object().into_iter().flat_map(Map::keys);
        fields.map(String::as_str).filter(needed).collect()
    }
}

/// Takes away what rules do not need: the evaluator converts and walks every node it is given. Returns whether the node
/// itself is needed: for a rule at it or below it, or because its values are shown to rules in a way of their own.
/// Defaults are no reason, because objects are defaulted before.
fn thin(node: &mut CompiledSchema) -> bool {
    node.properties.retain(|_, child| thin(child));
    let spare = |child: &mut Option<Box<CompiledSchema>>| {
        if !child.as_deref_mut().is_some_and(thin) {
            *child = None;
        }
        child.is_some()
    };
    let below = [
        !node.properties.is_empty(),
        spare(&mut node.items),
        spare(&mut node.additional_properties),
    ];
    let branches = [&node.all_of, &node.any_of, &node.one_of];
    !node.validations.is_empty()
        || below.contains(&true)
        || branches.iter().any(|branches| !branches.is_empty())
        || node.is_map
        || node.embedded_resource
        || !matches!(node.format, SchemaFormat::None | SchemaFormat::IntOrString)
}

/// Whether a rule of the object can see one of its fields.
fn names(rule: &str, field: &str) -> bool {
    ["self", "oldSelf"].iter().any(|word| {
        let mut rest = rule.split(word);
        rest.next();
        rest.any(|after| match after.strip_prefix('.') {
            Some(after) => after.starts_with(field),
            // The object as a whole, unless the word is only part of another.
            None => !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'),
        })
    })
}

/// What rules may see of an object: its type, its name, and the fields `kept`. Other metadata is never shown to them:
/// <https://kubernetes.io/docs/reference/using-api/cel/#validation-rules>.
fn only(object: &Value, kept: &[&str]) -> Value {
    let copy = |map: &Map<String, Value>, names: &[&str]| {
        let found = names.iter().filter_map(|name| {
            let value = map.get(*name)?;
            Some(((*name).to_owned(), value.clone()))
        });
        found.collect::<Map<_, _>>()
    };
    let Some(whole) = object.as_object() else {
        return object.clone();
    };
    let mut shown = copy(whole, &["apiVersion", "kind"]);
    shown.extend(copy(whole, kept));
    if let Some(Value::Object(metadata)) = whole.get("metadata") {
        let metadata = copy(metadata, &["name", "generateName"]);
        shown.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Value::Object(shown)
}

/// The value at a path such as `spec.list[0].x`.
fn lookup<'a>(object: &'a Value, path: &str) -> &'a Value {
    let mut node = object;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        let (name, rest) = part.split_once('[').unwrap_or((part, ""));
        node = object::at(node, &[name]).unwrap_or(&Value::Null);
        for index in rest.split('[').filter(|i| !i.is_empty()) {
            let position = index.trim_end_matches(']').parse::<usize>().ok();
            node = position.and_then(|i| node.get(i)).unwrap_or(&Value::Null);
        }
    }
    node
}

/// The rules of one node.
fn rules(schema: &Value) -> impl Iterator<Item = &str> {
    schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get("rule")?.as_str())
}

/// Whether a rule at a node or below it compares with the old value.
fn compares(schema: &Value) -> bool {
    rules(schema).any(|rule| rule.contains("oldSelf"))
        || match schema {
            Value::Object(map) => map.values().any(compares),
            Value::Array(list) => list.iter().any(compares),
            _ => false,
        }
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.contains_key("x-kubernetes-validations") || map.values().any(has_rules)
        }
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compiled() -> Rules {
        let whole = json!({"type": "integer"});
        let rule = |rule: &str| json!([{"rule": rule, "message": rule}]);
        Rules::compile(&json!({"type": "object",
            "x-kubernetes-validations": rule("size(self.metadata.name) <= 3"),
            "properties": {
                "spec": {"type": "object", "properties": {
                    "small": {"type": "integer", "x-kubernetes-validations": rule("self < 10")},
                    "free": whole,
                }},
                "fixed": {"type": "object", "properties": {
                    "once": {"type": "integer", "x-kubernetes-validations": rule("self == oldSelf + 1")}}},
                "status": {"type": "object", "properties": {"free": whole}},
            }}))
        .unwrap()
    }

    fn fields(causes: &[Cause]) -> Vec<&str> {
        causes.iter().map(|cause| cause.field.as_str()).collect()
    }

    #[test]
    fn what_was_accepted_once_stays_so_but_for_rules_that_compare() {
        let rules = compiled();
        let object = |name: &str, small: i64, once: i64, free: i64| {
            json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"small": small},
                "fixed": {"once": once}, "status": {"free": free}})
        };
        let good = object("abc", 1, 1, 0);
        assert!(rules.check(&good, None).is_empty());
        let bad = object("abc", 11, 1, 0);
        assert_eq!(fields(&rules.check(&bad, None)), ["spec.small"]);
        // An unchanged spec is not judged again; a rule that compares always is.
        assert_eq!(
            fields(&rules.check(&object("abc", 11, 2, 1), Some(&bad))),
            Vec::<&str>::new()
        );
        assert_eq!(
            fields(&rules.check(&object("abc", 11, 1, 1), Some(&bad))),
            ["fixed.once"]
        );
        assert_eq!(
            fields(&rules.check(&object("abc", 12, 2, 0), Some(&bad))),
            ["spec.small"]
        );
        assert_eq!(rules.check(&object("abcd", 1, 2, 0), Some(&good)).len(), 1);
    }

    #[test]
    fn a_rule_of_the_object_sees_what_it_names() {
        assert!(names("self.spec.a > 1", "spec"));
        assert!(names("has(oldSelf.spec)", "spec"));
        assert!(names("self == oldSelf", "spec"));
        assert!(!names("size(self.metadata.name) <= 40", "spec"));
        assert!(!names("selfish.spec", "spec") && !names("self.metadata.name != ''", "status"));
    }
}

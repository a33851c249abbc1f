//! Owns the evaluation of `x-kubernetes-validations`; must not know where schemas come from.

use kube_cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::Value;

use crate::object;
use crate::status::Cause;

/// The compiled rules of one schema.
pub struct Rules {
    compiled: CompiledSchema,
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
        has_rules(schema).then(|| Self {
            compiled: compile_schema(schema),
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
        let Err(errors) = Validator::new().validate_compiled(&self.compiled, object, old) else {
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

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.contains_key("x-kubernetes-validations") || map.values().any(has_rules)
        }
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

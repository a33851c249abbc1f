//! Checks the generated definitions: size, drift, structural form, and every CEL rule with an accepted and a refused object.

use kube::ResourceExt;
use kube_cel::Validator;
use serde_json::{Value, json};

use super::definitions;
use crate::Kind;

mod rules;

/// The schema of a kind's only version, as JSON.
pub(crate) fn schema(kind: Kind) -> Value {
    let name = format!("{}.{}", kind.plural(), crate::GROUP);
    let definition = definitions()
        .into_iter()
        .find(|definition| definition.name_any() == name)
        .unwrap();
    serde_json::to_value(definition).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        .take()
}

/// Messages of the rules that an object breaks, defaults applied first as the API server does.
pub(crate) fn violations(kind: Kind, object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema(kind);
    let object = kube_cel::apply_defaults(&schema, object);
    let old = old.map(|old| kube_cel::apply_defaults(&schema, old));
    match Validator::new().validate(&schema, &object, old.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn each_definition_is_below_100_kib_and_all_below_256() {
    let sizes: Vec<usize> = definitions()
        .iter()
        .map(|d| serde_json::to_string(d).unwrap().len())
        .collect();
    assert!(sizes.iter().all(|size| *size < 100 * 1024), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() < 256 * 1024, "{sizes:?}");
}

#[test]
fn committed_yaml_matches_the_types() {
    for definition in definitions() {
        let path = format!(
            "{}/yaml/{}.yaml",
            env!("CARGO_MANIFEST_DIR"),
            definition.name_any()
        );
        let committed: Value =
            serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let types = serde_json::to_value(&definition).unwrap();
        assert!(committed == types, "{path} is old: run `make generate`");
    }
}

#[test]
fn definitions_have_columns_status_and_names_as_designed() {
    for (definition, kind) in definitions().iter().zip(Kind::ALL) {
        let names = &definition.spec.names;
        assert_eq!(
            (names.kind.as_str(), names.plural.as_str()),
            (kind.name(), kind.plural())
        );
        assert_eq!(
            names.short_names.as_deref(),
            Some(&[kind.short().to_string()][..])
        );
        assert_eq!(
            names.categories.as_deref(),
            Some(&["bessemer".to_string()][..])
        );
        let version = &definition.spec.versions[0];
        assert!(version.subresources.as_ref().unwrap().status.is_some());
        let columns: Vec<_> = version
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(&columns[..3], ["Ready", "Reason", "Progress"]);
        assert_eq!(columns.last(), Some(&"Age"));
    }
    assert!(
        definitions()[4].spec.versions[0]
            .subresources
            .as_ref()
            .unwrap()
            .scale
            .is_some()
    );
}

/// Every string and list in a spec is bounded, so that CEL rules have a finite cost estimate.
#[test]
fn strings_and_lists_of_specs_are_bounded() {
    fn walk(path: &str, node: &Value, open: &mut Vec<String>) {
        match node["type"].as_str() {
            Some("string") if node["maxLength"].is_null() && node["enum"].is_null() => {
                open.push(path.into())
            }
            Some("array") if node["maxItems"].is_null() => open.push(path.into()),
            _ => {}
        }
        for (name, child) in node["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), child, open);
        }
        if node["items"].is_object() {
            walk(&format!("{path}[]"), &node["items"], open);
        }
    }
    let mut open = Vec::new();
    for kind in Kind::ALL {
        walk(kind.name(), &schema(kind)["properties"]["spec"], &mut open);
    }
    assert_eq!(open, Vec::<String>::new());
}

/// `kubectl` and Helm read YAML 1.1, where such a key is a boolean: the field would be called `false`.
#[test]
fn no_field_is_a_boolean_to_yaml() {
    fn visit(node: &Value, at: &str) {
        for (name, child) in node.as_object().into_iter().flatten() {
            if at.ends_with("/properties") {
                let word = name.to_lowercase();
                let booleans = ["n", "no", "y", "yes", "on", "off", "true", "false"];
                assert!(!booleans.contains(&word.as_str()), "{at}/{name}");
            }
            visit(child, &format!("{at}/{name}"));
        }
    }
    for definition in definitions() {
        visit(&serde_json::to_value(definition).unwrap(), "");
    }
}

/// No unsigned format (unknown to Kubernetes) and no combinators outside int-or-string.
#[test]
fn schemas_are_structural() {
    for kind in Kind::ALL {
        let text = schema(kind).to_string();
        for refused in ["\"uint", "anyOf", "oneOf", "allOf", "$ref"] {
            assert!(!text.contains(refused), "{kind}: {refused}");
        }
    }
}

#[test]
fn defaults_of_the_types_equal_those_of_the_schema() {
    let object = json!({"spec": {"datasets": [{"name": "d"}], "model": {"family": "Llama", "preset": "1M"}}});
    let defaulted = kube_cel::apply_defaults(&schema(Kind::PretrainJob), &object);
    let from_schema: crate::PretrainJobSpec =
        serde_json::from_value(defaulted["spec"].clone()).unwrap();
    let from_serde: crate::PretrainJobSpec =
        serde_json::from_value(object["spec"].clone()).unwrap();
    assert_eq!(from_schema, from_serde);
    assert_eq!(from_schema.training.learning_rate, 1e-3);
    assert_eq!(from_schema.run.retry_limit, 3);
}

//! Owns the shape of objects: one view over built-in definitions and custom resource schemas. Must not change objects; its children do.

pub mod cel;
pub mod default;
pub mod prune;
pub mod validate;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

/// Schemas by name, as in `components.schemas` of OpenAPI v3.
#[derive(Debug, Default)]
pub struct Definitions(BTreeMap<String, Value>);

const PREFIX: &str = "#/components/schemas/";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

static KUBERNETES: LazyLock<Arc<Definitions>> = LazyLock::new(|| {
    let packed: &[u8] = include_bytes!("../schema/kubernetes.json.gz");
    let mut text = Vec::new();
    let read = flate2::read::GzDecoder::new(packed).read_to_end(&mut text);
    // The file is part of the binary; a test of every kind's schema covers this.
    let parsed = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    Arc::new(Definitions(parsed.unwrap_or_default()))
});

impl Definitions {
    /// The definitions of the built-in kinds (Kubernetes 1.37).
    #[must_use]
    pub fn kubernetes() -> Arc<Self> {
        KUBERNETES.clone()
    }

    /// Definitions by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// One definition.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Name of the definition that describes a kind.
    #[must_use]
    pub fn name_of(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        let wanted = json!({"group": group, "version": version, "kind": kind});
        self.0
            .iter()
            .find(|(_, schema)| {
                schema
                    .get("x-kubernetes-group-version-kind")
                    .and_then(Value::as_array)
                    .is_some_and(|list| list.contains(&wanted))
            })
            .map(|(name, _)| name.as_str())
    }
}

/// The schema of one kind in one version.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    definitions: Arc<Definitions>,
    /// Compiled CEL rules, for custom resources.
    pub rules: Option<cel::Rules>,
}

impl Schema {
    /// The schema of a built-in kind.
    #[must_use]
    pub fn named(definitions: &Arc<Definitions>, group: &str, version: &str, kind: &str) -> Self {
        let root = definitions.name_of(group, version, kind).map_or_else(
            || json!({"type": "object"}),
            |name| json!({"$ref": format!("{PREFIX}{name}")}),
        );
        Self {
            root,
            definitions: definitions.clone(),
            rules: None,
        }
    }

    /// The schema of a custom resource: its structural schema with the standard metadata.
    #[must_use]
    pub fn structural(openapi: &Value) -> Self {
        let mut root = openapi.clone();
        let properties = crate::object::map(
            crate::object::map(&mut root)
                .entry("properties")
                .or_insert(json!({})),
        );
        let own = properties.get("metadata").cloned();
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
        properties.insert(
            "metadata".into(),
            json!({"$ref": format!("{PREFIX}{OBJECT_META}")}),
        );
        let mut ruled = openapi.clone();
        if own.is_none() {
            let properties = crate::object::map(
                crate::object::map(&mut ruled)
                    .entry("properties")
                    .or_insert(json!({})),
            );
            properties.insert(
                "metadata".into(),
                json!({"type": "object", "properties": {
                "name": {"type": "string"}, "generateName": {"type": "string"}}}),
            );
        }
        Self {
            root,
            definitions: Definitions::kubernetes(),
            rules: cel::Rules::compile(&ruled),
        }
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node::new(&self.root, &self.definitions)
    }

    /// The root as written.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.root
    }
}

/// How a node is merged and owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One value, owned as a whole.
    Scalar,
    /// A map or struct whose fields are owned apart.
    Map,
    /// A map owned as a whole.
    AtomicMap,
    /// A list owned as a whole.
    AtomicList,
    /// A list of distinct scalars.
    Set,
    /// A list of maps told apart by these keys.
    MapList(Vec<String>),
    /// Nothing is known: maps are granular, lists atomic.
    Untyped,
}

/// A schema node with references followed.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    schema: &'a Value,
    /// The referring node, whose `default` and list markers win.
    outer: Option<&'a Value>,
    definitions: &'a Definitions,
}

impl<'a> Node<'a> {
    fn new(schema: &'a Value, definitions: &'a Definitions) -> Self {
        let mut node = Self {
            schema,
            outer: None,
            definitions,
        };
        // Bounded: a reference names a definition, which is never itself a bare reference twice.
        for _ in 0..4 {
            let reference = node.schema.get("$ref").or_else(|| {
                node.schema
                    .get("allOf")
                    .and_then(|all| all.get(0))
                    .and_then(|first| first.get("$ref"))
            });
            let Some(name) = reference
                .and_then(Value::as_str)
                .and_then(|r| r.strip_prefix(PREFIX))
            else {
                break;
            };
            let Some(target) = definitions.get(name) else {
                break;
            };
            node.outer = node.outer.or(Some(node.schema));
            node.schema = target;
        }
        node
    }

    fn child(&self, schema: &'a Value) -> Self {
        Node::new(schema, self.definitions)
    }

    /// A keyword of the node.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&'a Value> {
        self.outer
            .and_then(|o| o.get(keyword))
            .or_else(|| self.schema.get(keyword))
    }

    /// A boolean keyword.
    #[must_use]
    pub fn flag(&self, keyword: &str) -> bool {
        self.get(keyword)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    /// `type`, or "".
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.schema
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// `properties`.
    #[must_use]
    pub fn properties(&self) -> Option<&'a Map<String, Value>> {
        self.schema.get("properties").and_then(Value::as_object)
    }

    /// A declared property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Self> {
        self.properties()?.get(name).map(|s| self.child(s))
    }

    /// The schema of undeclared properties, when one is given.
    #[must_use]
    pub fn additional(&self) -> Option<Self> {
        self.schema
            .get("additionalProperties")
            .filter(|a| a.is_object())
            .map(|s| self.child(s))
    }

    /// The node of field `name`: declared, else additional.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Self> {
        self.property(name).or_else(|| self.additional())
    }

    /// The schema of list items.
    #[must_use]
    pub fn items(&self) -> Option<Self> {
        self.schema.get("items").map(|s| self.child(s))
    }

    /// Whether unknown fields are kept below this node.
    #[must_use]
    pub fn preserves(&self) -> bool {
        self.flag("x-kubernetes-preserve-unknown-fields")
            || (self.properties().is_none() && self.schema.get("additionalProperties").is_none())
            || self
                .schema
                .get("additionalProperties")
                .and_then(Value::as_bool)
                == Some(true)
    }

    /// Whether this node is a whole object with its own apiVersion and metadata.
    #[must_use]
    pub fn embedded(&self) -> bool {
        self.flag("x-kubernetes-embedded-resource")
    }

    /// How the node is merged.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match self.kind() {
            "object" => {
                if self.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic") {
                    Shape::AtomicMap
                } else if self.properties().is_none() && self.additional().is_none() {
                    Shape::Untyped
                } else {
                    Shape::Map
                }
            }
            "array" => match self.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("set") => Shape::Set,
                Some("map") => Shape::MapList(self.keys("x-kubernetes-list-map-keys")),
                _ => Shape::AtomicList,
            },
            "" if self.flag("x-kubernetes-preserve-unknown-fields")
                || self.schema.get("oneOf").is_none() =>
            {
                Shape::Untyped
            }
            _ => Shape::Scalar,
        }
    }

    /// A keyword that lists names.
    #[must_use]
    pub fn keys(&self, keyword: &str) -> Vec<String> {
        self.get(keyword)
            .and_then(Value::as_array)
            .map(|list| {
                list.iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default()
    }
}

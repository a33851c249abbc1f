//! Owns sets of field paths in the form of FieldsV1; must not know schemas beyond naming fields.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::Node;

/// A set of paths. Elements are written as in FieldsV1: `f:name`, `k:{...}`, `v:...`, `i:n`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    members: BTreeSet<String>,
    children: BTreeMap<String, Set>,
}

impl Set {
    /// Whether there is no path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Adds a path; the empty path is no path.
    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.as_ref().to_owned());
            }
            [first, rest @ ..] => self
                .children
                .entry(first.as_ref().to_owned())
                .or_default()
                .insert(rest),
        }
    }

    /// Whether the path is in the set.
    #[must_use]
    pub fn has<S: AsRef<str>>(&self, path: &[S]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last.as_ref()),
            [first, rest @ ..] => self
                .children
                .get(first.as_ref())
                .is_some_and(|child| child.has(rest)),
        }
    }

    /// The set below an element.
    #[must_use]
    pub fn below(&self, element: &str) -> Option<&Self> {
        self.children.get(element).filter(|c| !c.is_empty())
    }

    /// All of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            let merged = result
                .children
                .get(element)
                .map_or_else(|| child.clone(), |mine| mine.union(child));
            result.children.insert(element.clone(), merged);
        }
        result
    }

    /// What both have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        let children = self
            .children
            .iter()
            .filter_map(|(element, child)| {
                Some((
                    element.clone(),
                    child.intersection(other.children.get(element)?),
                ))
            })
            .filter(|(_, child)| !child.is_empty())
            .collect();
        Self { members, children }
    }

    /// What only this one has.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let children = self
            .children
            .iter()
            .map(|(element, child)| {
                let rest = other
                    .children
                    .get(element)
                    .map_or_else(|| child.clone(), |theirs| child.difference(theirs));
                (element.clone(), rest)
            })
            .filter(|(_, child)| !child.is_empty())
            .collect();
        Self { members, children }
    }

    /// Only what lies at or below the top element.
    #[must_use]
    pub fn only(&self, element: &str) -> Self {
        Self {
            members: self
                .members
                .iter()
                .filter(|m| *m == element)
                .cloned()
                .collect(),
            children: self
                .children
                .iter()
                .filter(|(e, _)| *e == element)
                .map(|(e, c)| (e.clone(), c.clone()))
                .collect(),
        }
    }

    /// Without what lies at or below the top element.
    #[must_use]
    pub fn without(&self, element: &str) -> Self {
        Self {
            members: self
                .members
                .iter()
                .filter(|m| *m != element)
                .cloned()
                .collect(),
            children: self
                .children
                .iter()
                .filter(|(e, _)| *e != element)
                .map(|(e, c)| (e.clone(), c.clone()))
                .collect(),
        }
    }

    /// Also names the declared fields that lead to a member.
    #[must_use]
    pub fn with_named_fields(&self, node: Option<Node<'_>>) -> Self {
        let mut result = Self {
            members: self.members.clone(),
            children: BTreeMap::new(),
        };
        for (element, child) in &self.children {
            let below = if let Some(name) = element.strip_prefix("f:") {
                if node.is_some_and(|n| n.property(name).is_some()) {
                    result.members.insert(element.clone());
                }
                node.and_then(|n| n.field(name))
            } else {
                node.and_then(|n| n.items())
            };
            result
                .children
                .insert(element.clone(), child.with_named_fields(below));
        }
        result
    }

    /// Every path: members before what lies below them.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut paths: Vec<Vec<String>> = self.members.iter().map(|m| vec![m.clone()]).collect();
        for (element, child) in &self.children {
            paths.extend(child.paths().into_iter().map(|mut path| {
                path.insert(0, element.clone());
                path
            }));
        }
        paths
    }

    /// Reads FieldsV1.
    #[must_use]
    pub fn from_fields(fields: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in fields.as_object().into_iter().flatten() {
            if element == "." {
                continue;
            }
            let map = below.as_object();
            if map.is_none_or(|m| m.is_empty() || m.contains_key(".")) {
                set.members.insert(element.clone());
            }
            let child = Self::from_fields(below);
            if !child.is_empty() {
                set.children.insert(element.clone(), child);
            }
        }
        set
    }

    /// Writes FieldsV1.
    #[must_use]
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for element in &self.members {
            map.insert(element.clone(), Value::Object(Map::new()));
        }
        for (element, child) in self.children.iter().filter(|(_, c)| !c.is_empty()) {
            let mut below = child.to_fields();
            if self.members.contains(element) {
                crate::object::map(&mut below).insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.clone(), below);
        }
        Value::Object(map)
    }
}

/// A path as people read it: `.spec.containers[name="c"].image`.
#[must_use]
pub fn path(elements: &[String]) -> String {
    elements
        .iter()
        .map(|element| match element.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some(("k", keys)) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect();
                format!("[{}]", pairs.join(","))
            }
            Some(("v", value)) => format!("[={value}]"),
            _ => format!("[{element}]"),
        })
        .collect()
}

//! Owns which resources the API serves and their static traits; must not hold objects.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::schema::Schema;

/// One column of the server-side table (`kubectl get`).
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Header.
    pub name: String,
    /// OpenAPI type: string, integer, date, ...
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// Help text.
    pub description: String,
    /// 0 = always shown, more = only with `-o wide`.
    pub priority: i64,
    /// Where a custom resource's value comes from; empty for built-in kinds.
    pub json_path: String,
}

/// Paths of a custom resource's scale subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Path of the wanted count, such as `spec.replicas`.
    pub spec: Vec<String>,
    /// Path of the observed count.
    pub status: Vec<String>,
    /// Path of the serialised selector, if any.
    pub selector: Option<Vec<String>>,
}

/// What is done with a deleted owner's dependents when the request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// The garbage collector deletes them.
    Delete,
    /// They stay, without the owner.
    Orphan,
}

/// A served resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, "" for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of the list.
    pub list_kind: String,
    /// Plural, as in the URL.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Scale subresource, if any.
    pub scale: Option<Scale>,
    /// Whether metadata.generation is kept.
    pub generation: bool,
    /// Whether only `create` exists and nothing is stored (reviews).
    pub review: bool,
    /// Whether it comes from a CustomResourceDefinition.
    pub custom: bool,
    /// Key of the table that holds the objects (shared by versions of one resource).
    pub table: String,
    /// apiVersion under which objects are kept.
    pub storage_version: String,
    /// The schema of this version.
    pub schema: Arc<Schema>,
    /// Columns of the table form; empty means Name and Age.
    pub columns: Vec<Column>,
    /// Fields that can be selected on beyond metadata.name and metadata.namespace.
    pub selectable: Vec<String>,
    /// Default treatment of dependents.
    pub dependents: Dependents,
    /// Whether DELETE answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// Whether this version is deprecated, with the warning to send.
    pub warning: Option<String>,
}

impl Resource {
    /// `plural.group`, or `plural` for core.
    #[must_use]
    pub fn qualified(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// `group/version`, or `version` for core.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether `field` may be used in a field selector.
    #[must_use]
    pub fn selects(&self, field: &str) -> bool {
        matches!(field, "metadata.name" | "metadata.namespace")
            || self.selectable.iter().any(|f| f == field)
    }
}

/// `plural.group`, or `plural` for core.
#[must_use]
pub fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// `group/version`, or `version` for core.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Everything served now.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
    order: Vec<(String, String, String)>,
}

impl Registry {
    /// The built-in kinds, made once per process.
    #[must_use]
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<Registry> = LazyLock::new(|| {
            let mut registry = Registry::default();
            for resource in crate::builtin::resources() {
                registry.insert(resource);
            }
            registry
        });
        BUILTIN.clone()
    }

    /// Adds or replaces a resource.
    pub fn insert(&mut self, resource: Resource) {
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        if self
            .resources
            .insert(key.clone(), Arc::new(resource))
            .is_none()
        {
            self.order.push(key);
        }
    }

    /// Removes the custom resources `plural.group` in all versions.
    pub fn remove(&mut self, group: &str, plural: &str) {
        self.resources
            .retain(|(g, _, p), r| !(r.custom && g == group && p == plural));
        self.order.retain(|key| self.resources.contains_key(key));
    }

    /// Finds a resource by its URL parts.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// All resources in registration order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.order.iter().filter_map(|key| self.resources.get(key))
    }

    /// Groups with their versions, preferred first, in registration order.
    #[must_use]
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in self.iter() {
            match groups.iter_mut().find(|(g, _)| *g == resource.group) {
                Some((_, versions)) => {
                    if !versions.contains(&resource.version) {
                        versions.push(resource.version.clone());
                    }
                }
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        }
        groups
    }

    /// Whether anything lives below `group`/`version`.
    #[must_use]
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.resources
            .keys()
            .any(|(g, v, _)| g == group && v == version)
    }
}

/// Kubernetes' order of versions: v2 > v1 > v1beta2 > v1alpha1 > others.
fn priority(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    for (word, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (major.parse(), minor.parse()) {
                (Ok(major), Ok(minor)) => (rank, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    rest.parse().map_or((0, 0, 0), |major| (3, major, 0))
}

/// Reads a dotted path such as `.spec.replicas`.
#[must_use]
pub fn dotted(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A text of `value` at `key`, or "".
pub(crate) fn string(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

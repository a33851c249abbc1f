//! Owns field ownership: which manager set which field, and server-side apply. Must not read or write storage.

mod compare;
mod fieldset;
mod merge;
mod typed;

pub use fieldset::Set;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::object;
use crate::registry::Resource;
use crate::schema::{Node, Shape};
use crate::status::Failure;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who owns a set: updates are told apart by version, applies are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    manager: String,
    operation: &'static str,
    api_version: String,
    subresource: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Owned {
    api_version: String,
    time: Option<String>,
    set: Set,
}

type Owners = BTreeMap<Owner, Owned>;

impl Owner {
    fn new(manager: &str, operation: &'static str, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: if operation == "Update" {
                api_version.to_owned()
            } else {
                String::new()
            },
            subresource: subresource.to_owned(),
        }
    }

    /// As a conflict names it.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Reads metadata.managedFields; `None` when any entry is malformed.
fn read(object: &Value) -> Option<Owners> {
    let mut owners = Owners::new();
    for entry in object::at(object, &["metadata", "managedFields"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let operation = match object::text(entry, &["operation"]) {
            "Apply" => "Apply",
            "Update" => "Update",
            _ => return None,
        };
        let version = object::text(entry, &["apiVersion"]);
        let owner = Owner::new(
            object::text(entry, &["manager"]),
            operation,
            version,
            object::text(entry, &["subresource"]),
        );
        let owned = Owned {
            api_version: version.to_owned(),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            set: Set::from_fields(entry.get("fieldsV1")?),
        };
        owners.insert(owner, owned);
    }
    Some(owners)
}

/// Writes metadata.managedFields in Kubernetes' order.
fn write(object: &mut Value, owners: &Owners) {
    let mut entries: Vec<(&Owner, &Owned)> = owners.iter().collect();
    entries.sort_by(|(a, x), (b, y)| {
        (
            a.operation,
            &x.time,
            &a.manager,
            &x.api_version,
            &a.subresource,
        )
            .cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
    });
    let list: Vec<Value> = entries
        .into_iter()
        .map(|(owner, owned)| {
            let mut entry = Map::new();
            entry.insert("manager".into(), owner.manager.clone().into());
            entry.insert("operation".into(), owner.operation.into());
            entry.insert("apiVersion".into(), owned.api_version.clone().into());
            if let Some(time) = &owned.time {
                entry.insert("time".into(), time.clone().into());
            }
            entry.insert("fieldsType".into(), "FieldsV1".into());
            entry.insert("fieldsV1".into(), owned.set.to_fields());
            if !owner.subresource.is_empty() {
                entry.insert("subresource".into(), owner.subresource.clone().into());
            }
            Value::Object(entry)
        })
        .collect();
    let metadata = object::metadata(object);
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), list.into());
    }
}

/// The object before anything was set. Go's built-in types always have their inner structs, so
/// those are never "added"; custom resources begin empty.
fn zero(resource: &Resource) -> Value {
    fn of(node: Node<'_>, depth: u32) -> Value {
        let required = node.keys("required");
        let mut fields = Map::new();
        for name in node.properties().into_iter().flat_map(Map::keys) {
            let Some(child) = node.property(name).filter(|_| depth > 0) else {
                continue;
            };
            match child.get("default") {
                Some(Value::Object(_)) => drop(fields.insert(name.clone(), of(child, depth - 1))),
                _ if child.kind() == "array" && required.contains(name) => {
                    drop(fields.insert(name.clone(), Value::Null))
                }
                _ => {}
            }
        }
        Value::Object(fields)
    }
    if resource.custom {
        json!({})
    } else {
        of(resource.schema.root(), 8)
    }
}

fn without_owners(object: &Value) -> Value {
    let mut copy = object.clone();
    object::remove(&mut copy, &["metadata", "managedFields"]);
    copy
}

/// Removes what can never be owned: identity, and the part the request's subresource does not touch.
fn ownable(resource: &Resource, subresource: &str, set: &Set) -> Set {
    match (subresource, resource.status) {
        ("status", _) => set.only("f:status"),
        (_, true) => set.without("f:status"),
        _ => set.clone(),
    }
}

/// System fields are never owned by the manager of a write.
fn strip(set: &Set) -> Set {
    let mut system = Set::default();
    for path in [&["f:apiVersion"][..], &["f:kind"], &["f:metadata"]] {
        system.insert(path);
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        system.insert(&["f:metadata", &format!("f:{field}")]);
    }
    set.difference(&system)
}

/// Records who changed what in `new` against `old` (`None`: created).
pub fn record_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    let given = object::at(new, &["metadata", "managedFields"]).cloned();
    let kept = || old.and_then(read).unwrap_or_default();
    let mut owners = match &given {
        _ if !subresource.is_empty() => kept(),
        // An explicit reset: the list is empty or holds one empty entry.
        Some(list) if list == &json!([]) || list == &json!([{}]) => Owners::new(),
        Some(_) => read(new).filter(|o| !o.is_empty()).unwrap_or_else(kept),
        None => kept(),
    };
    object::metadata(new).remove("managedFields");
    if owners.is_empty() && old.is_some() {
        return;
    }
    let before = old.map_or_else(|| zero(resource), without_owners);
    let version = resource.api_version();
    let difference = compare::compare(resource.schema.root(), &before, new);
    let filtered = compare::Difference {
        added: ownable(resource, subresource, &difference.added),
        modified: ownable(resource, subresource, &difference.modified),
        removed: ownable(resource, subresource, &difference.removed),
    };
    yield_to(&mut owners, &filtered, None);
    let taken = strip(&filtered.modified.union(&filtered.added));
    if !taken.is_empty() {
        let owner = Owner::new(manager, "Update", &version, subresource);
        let set = owners
            .get(&owner)
            .map_or_else(|| taken.clone(), |previous| previous.set.union(&taken));
        owners.insert(
            owner,
            Owned {
                api_version: version,
                // The scale subresource keeps no time.
                time: (subresource != "scale").then(|| now.to_owned()),
                set,
            },
        );
    }
    write(new, &owners);
}

/// Takes changed and removed fields away from all owners but `keep`.
fn yield_to(owners: &mut Owners, difference: &compare::Difference, keep: Option<&Owner>) {
    let changed = difference.modified.union(&difference.added);
    for (owner, owned) in owners.iter_mut() {
        if Some(owner) == keep {
            continue;
        }
        let lost = owned.set.intersection(&changed);
        owned.set = owned.set.difference(&lost).difference(&difference.removed);
    }
    owners.retain(|_, owned| !owned.set.is_empty());
}

/// How an apply request wants to be recorded.
#[derive(Debug, Clone)]
pub struct Applier<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// Subresource, "" for the object.
    pub subresource: &'a str,
    /// Whether to take fields from other managers.
    pub force: bool,
    /// Time of the request.
    pub now: &'a str,
}

/// Server-side apply of `config` on `live` (`{}` with apiVersion and kind when it does not exist).
///
/// # Errors
/// 409 with all conflicting fields, 400 for a malformed configuration.
pub fn apply(
    resource: &Resource,
    live: &Value,
    config: &Value,
    applier: &Applier<'_>,
) -> Result<Value, Failure> {
    let mut owners = read(live).unwrap_or_default();
    let current = without_owners(live);
    if owners.is_empty() && live.get("metadata").is_some() {
        // Fields set before anyone tracked them belong to a manager of their own.
        let all = strip(&ownable(
            resource,
            applier.subresource,
            &compare::compare(resource.schema.root(), &zero(resource), &current).added,
        ));
        if !all.is_empty() {
            let version = resource.api_version();
            let owner = Owner::new(
                "before-first-apply",
                "Update",
                &version,
                applier.subresource,
            );
            owners.insert(
                owner,
                Owned {
                    api_version: version,
                    time: Some(applier.now.to_owned()),
                    set: all,
                },
            );
        }
    }
    let mut result = attempt(
        resource,
        &current,
        config,
        applier,
        owners.clone(),
        applier.force,
    );
    if let Err(Refused::Conflicts(conflicts)) = &result
        && applier.manager == "kubectl"
    {
        // Fields that kubectl itself set by client-side apply are no conflict.
        let allowed = from_last_applied(resource, &current);
        let rest: Vec<Conflict> = conflicts
            .iter()
            .filter(|c| !allowed.has(&c.elements))
            .cloned()
            .collect();
        result = if rest.is_empty() {
            attempt(resource, &current, config, applier, owners, true)
        } else {
            Err(Refused::Conflicts(rest))
        };
    }
    let (mut object, owners) = result.map_err(Refused::into_failure)?;
    let annotated = object::at(&object, &["metadata", "annotations", LAST_APPLIED]).is_some();
    if applier.manager == "kubectl" && annotated {
        let mut text = config.clone();
        object::remove(&mut text, &["metadata", "annotations", LAST_APPLIED]);
        object::set(
            &mut object,
            &["metadata", "annotations", LAST_APPLIED],
            format!("{text}\n").into(),
        );
    }
    write(&mut object, &owners);
    Ok(object)
}

#[derive(Debug, Clone)]
struct Conflict {
    owner: Owner,
    elements: Vec<String>,
}

#[derive(Debug)]
enum Refused {
    Conflicts(Vec<Conflict>),
    Malformed(String),
}

impl Refused {
    fn into_failure(self) -> Failure {
        let conflicts = match self {
            Self::Malformed(message) => return Failure::plain(message),
            Self::Conflicts(conflicts) => conflicts,
        };
        let path = |c: &Conflict| fieldset::path(&c.elements);
        let message = if let [one] = conflicts.as_slice() {
            format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                one.owner.shown(),
                path(one)
            )
        } else {
            let mut lines = vec![];
            let mut last = None;
            for conflict in &conflicts {
                if last != Some(&conflict.owner) {
                    lines.push(format!("conflicts with {}:", conflict.owner.shown()));
                    last = Some(&conflict.owner);
                }
                lines.push(format!("- {}", path(conflict)));
            }
            format!(
                "Apply failed with {} conflicts: {}",
                conflicts.len(),
                lines.join("\n")
            )
        };
        let causes = conflicts
            .iter()
            .map(|c| (format!("conflict with {}", c.owner.shown()), path(c)))
            .collect();
        Failure::apply_conflict(message, causes)
    }
}

fn attempt(
    resource: &Resource,
    live: &Value,
    config: &Value,
    applier: &Applier<'_>,
    mut owners: Owners,
    force: bool,
) -> Result<(Value, Owners), Refused> {
    let root = resource.schema.root();
    let version = resource.api_version();
    let me = Owner::new(applier.manager, "Apply", &version, applier.subresource);
    let config = without_owners(config);
    let errors = typed::check(root, &config);
    if !errors.is_empty() {
        let shown = if let [one] = errors.as_slice() {
            one.clone()
        } else {
            format!("errors:\n  {}", errors.join("\n  "))
        };
        return Err(Refused::Malformed(format!(
            "failed to create typed patch object ({}/{}; {version}, Kind={}): {shown}",
            object::namespace(&config),
            object::name(&config),
            resource.kind
        )));
    }
    let merged = merge::merge(root, Some(live), Some(&config)).unwrap_or_else(|| live.clone());
    let set = ownable(
        resource,
        applier.subresource,
        &compare::to_set(root, &config),
    );
    let last = owners.get(&me).cloned();
    let time = last.as_ref().and_then(|l| l.time.clone());
    owners.insert(
        me.clone(),
        Owned {
            api_version: version,
            time,
            set,
        },
    );
    let pruned = match &last {
        Some(last) if !last.set.is_empty() => prune(root, &merged, &owners, &last.set),
        _ => merged,
    };
    let difference = compare::compare(root, live, &pruned);
    let filtered = compare::Difference {
        added: ownable(resource, applier.subresource, &difference.added),
        modified: ownable(resource, applier.subresource, &difference.modified),
        removed: ownable(resource, applier.subresource, &difference.removed),
    };
    if !force {
        let changed = filtered.modified.union(&filtered.added);
        let conflicts: Vec<Conflict> = owners
            .iter()
            .filter(|(owner, _)| **owner != me)
            .flat_map(|(owner, owned)| {
                let paths = owned.set.intersection(&changed).paths();
                paths.into_iter().map(|elements| Conflict {
                    owner: owner.clone(),
                    elements,
                })
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(Refused::Conflicts(conflicts));
        }
    }
    yield_to(&mut owners, &filtered, Some(&me));
    if let Some(mine) = owners.get_mut(&me) {
        mine.set = strip(&mine.set);
        if pruned != *live {
            mine.time = Some(applier.now.to_owned());
        }
    }
    owners.retain(|_, owned| !owned.set.is_empty());
    Ok((pruned, owners))
}

/// Removes what this manager applied last time, not this time, and nobody else owns.
fn prune(root: Node<'_>, merged: &Value, owners: &Owners, last: &Set) -> Value {
    let named = |set: &Set| set.with_named_fields(Some(root));
    let managed = owners
        .values()
        .fold(Set::default(), |all, owned| all.union(&owned.set));
    // Mostly every field applied last time is applied again.
    if last.difference(&managed).is_empty() {
        return merged.clone();
    }
    let last = named(last);
    let remove =
        |value: &Value, set: &Set| merge::remove(Some(root), value, set).unwrap_or(json!({}));
    let pruned = remove(merged, &last);
    // Put back what some owner, the present configuration included, still claims.
    let whole = named(&compare::to_set(root, merged));
    let left = named(&compare::to_set(root, &pruned)).union(&named(&managed));
    let pruned = remove(merged, &whole.difference(&left));
    // Put back what went only because its parent went.
    let left = named(&compare::to_set(root, &pruned));
    remove(merged, &whole.difference(&left).intersection(&last))
}

/// Fields of the client-side apply annotation that still have the value it gave them.
fn from_last_applied(resource: &Resource, live: &Value) -> Set {
    let text = object::text(live, &["metadata", "annotations", LAST_APPLIED]);
    let Ok(applied) = serde_json::from_str::<Value>(text) else {
        return Set::default();
    };
    if object::text(&applied, &["apiVersion"]) != resource.api_version() {
        return Set::default();
    }
    let root = resource.schema.root();
    let difference = compare::compare(root, &applied, live);
    compare::to_set(root, &applied)
        .difference(&difference.modified)
        .difference(&difference.added)
        .difference(&difference.removed)
}

/// A write that changes nothing but the times of managedFields is no write: puts the old times back.
pub fn settle_times(old: &Value, new: &mut Value) {
    if same_without(old, new, &["metadata", "managedFields", "time"]) {
        new.clone_from(old);
    }
}

/// Whether two values differ at most in the field at `path`, which leads through lists too.
fn same_without(a: &Value, b: &Value, path: &[&str]) -> bool {
    match (a, b, path) {
        (Value::Object(a), Value::Object(b), [field, rest @ ..]) => {
            let names = |map: &Map<String, Value>| {
                map.len() - usize::from(rest.is_empty() && map.contains_key(*field))
            };
            names(a) == names(b)
                && a.iter().all(|(name, value)| match b.get(name) {
                    _ if name == field && rest.is_empty() => true,
                    Some(other) if name == field => same_without(value, other, rest),
                    other => other == Some(value),
                })
        }
        (Value::Array(a), Value::Array(b), [_, ..]) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_without(a, b, path))
        }
        _ => a == b,
    }
}

/// The shape of `value` under `node`: the schema's where it fits the value, else the value's own.
fn shape(node: Option<Node<'_>>, value: &Value) -> Shape {
    let declared = node.map_or(Shape::Untyped, |n| n.shape());
    match (declared, value) {
        (Shape::Untyped, Value::Object(_)) => Shape::Map,
        (Shape::Untyped, Value::Array(_)) => Shape::AtomicList,
        (Shape::Untyped, _) => Shape::Scalar,
        (Shape::Map | Shape::AtomicMap, Value::Object(_) | Value::Null)
        | (Shape::AtomicList | Shape::Set | Shape::MapList(_), Value::Array(_) | Value::Null)
        | (Shape::Scalar, _) => node.map_or(Shape::Untyped, |n| n.shape()),
        _ => Shape::Scalar,
    }
}

/// The path element of a list item: `k:{...}` in map lists, `v:...` in sets.
fn element(node: Option<Node<'_>>, shape: &Shape, item: &Value) -> Option<String> {
    match shape {
        Shape::Set if item.is_object() || item.is_array() || item.is_null() => None,
        Shape::Set => Some(format!("v:{item}")),
        Shape::MapList(keys) => {
            let fields = item.as_object()?;
            let items = node.and_then(|n| n.items());
            let mut found = Map::new();
            for key in keys {
                let default = || {
                    items
                        .and_then(|i| i.property(key))
                        .and_then(|n| n.get("default").cloned())
                };
                if let Some(value) = fields.get(key).cloned().or_else(default) {
                    found.insert(key.clone(), value);
                }
            }
            (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Owns the local copies of watched objects, one cache per kind. It must not talk to the API server.
//!
//! A cache is a fold over watch events and over the answers to our own writes: what the operator wrote it reads back at
//! once, so no decision rests on a copy older than its own last write. Versions decide which copy is newer: within one
//! kind a larger `resourceVersion` is later (KEP-5504; true of every API server backed by etcd).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use parking_lot::RwLock;

use crate::bug::{Bug, planted};

/// Namespace and name of an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Namespace, empty for none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Place {
    /// The place of `object`.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// The copies of one kind.
pub struct Cache<K> {
    state: RwLock<State<K>>,
    owner: fn(&K) -> Option<String>,
}

struct State<K> {
    objects: BTreeMap<Place, Arc<K>>,
    owned: HashMap<String, BTreeSet<Place>>,
    listings: BTreeMap<String, Listing<K>>,
    listed: BTreeSet<String>,
    scopes: usize,
    removed: BTreeMap<Place, Removed>,
}

struct Listing<K> {
    found: BTreeMap<Place, K>,
    written: BTreeSet<Place>,
}

struct Removed {
    uid: Option<String>,
    version: u64,
}

/// An object before and after.
pub type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

impl<K: Resource + Clone> Cache<K> {
    /// An empty cache whose objects are also found by what `owner` says of them.
    pub fn new(owner: fn(&K) -> Option<String>) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            owned: HashMap::new(),
            listings: BTreeMap::new(),
            listed: BTreeSet::new(),
            scopes: 1,
            removed: BTreeMap::new(),
        };
        Self {
            state: RwLock::new(state),
            owner,
        }
    }

    /// The copy at `place`.
    pub fn get(&self, place: &Place) -> Option<Arc<K>> {
        self.state.read().objects.get(place).cloned()
    }

    /// The copies that belong to `owner`, by name.
    pub fn owned_by(&self, owner: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let places = state.owned.get(owner).into_iter().flatten();
        places
            .filter_map(|place| state.objects.get(place).cloned())
            .collect()
    }

    /// All copies, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The copies within one namespace, by name.
    pub fn within(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Place {
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let state = self.state.read();
        state
            .objects
            .range(from..)
            .take_while(|(p, _)| p.namespace == namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// Number of copies.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is no copy.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that the cache is fed by `scopes` lists, one per watched namespace.
    pub fn expect(&self, scopes: usize) {
        self.state.write().scopes = scopes;
    }

    /// Whether every list has been seen whole.
    pub fn synced(&self) -> bool {
        let state = self.state.read();
        state.listed.len() >= state.scopes
    }

    /// Folds in a newer copy. Returns the copy before, or `None` in the outer option if `object` was older or equal.
    pub fn apply(&self, object: K) -> Option<Option<Arc<K>>> {
        self.state.write().apply(object, self.owner)
    }

    /// Folds in the answer to our own write; it survives a list that began before it.
    pub fn written(&self, object: K) -> Option<Option<Arc<K>>> {
        let mut state = self.state.write();
        let place = Place::of(&object);
        for listing in state.listings.values_mut() {
            listing.written.insert(place.clone());
        }
        state.apply(object, self.owner)
    }

    /// Removes an object that is gone. `version` is that of the deletion where known.
    pub fn remove(&self, place: &Place, uid: Option<&str>, version: u64) -> Option<Arc<K>> {
        self.state.write().remove(place, uid, version, self.owner)
    }

    /// A list of `scope` (a namespace, or empty for all) begins: what it does not contain will be removed at its end.
    pub fn begin_list(&self, scope: &str) {
        let listing = Listing {
            found: BTreeMap::new(),
            written: BTreeSet::new(),
        };
        self.state
            .write()
            .listings
            .insert(scope.to_owned(), listing);
    }

    /// One object of the list.
    pub fn list_item(&self, scope: &str, object: K) {
        if let Some(listing) = self.state.write().listings.get_mut(scope) {
            listing.found.insert(Place::of(&object), object);
        }
    }

    /// An object of the list that cannot be read: what was known of it stays.
    pub fn list_unreadable(&self, scope: &str, place: Place) {
        if let Some(listing) = self.state.write().listings.get_mut(scope) {
            listing.written.insert(place);
        }
    }

    /// The list is complete. Returns (before, after) of everything that changed.
    pub fn end_list(&self, scope: &str) -> Vec<Change<K>> {
        let mut state = self.state.write();
        let Some(listing) = state.listings.remove(scope) else {
            return Vec::new();
        };
        let gone: Vec<Place> = state
            .objects
            .keys()
            .filter(|place| scope.is_empty() || place.namespace == scope)
            .filter(|place| {
                !listing.found.contains_key(*place) && !listing.written.contains(*place)
            })
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for place in gone {
            if let Some(before) = state.remove(&place, None, 0, self.owner) {
                changes.push((Some(before), None));
            }
        }
        state
            .removed
            .retain(|place, _| !scope.is_empty() && place.namespace != scope);
        for (place, object) in listing.found {
            if let Some(before) = state.apply(object, self.owner) {
                changes.push((before, state.objects.get(&place).cloned()));
            }
        }
        state.listed.insert(scope.to_owned());
        changes
    }
}

impl<K: Resource + Clone> State<K> {
    fn apply(&mut self, object: K, owner: fn(&K) -> Option<String>) -> Option<Option<Arc<K>>> {
        let place = Place::of(&object);
        let version = version(&object);
        if let Some(removed) = self.removed.get(&place) {
            let same = removed.uid.is_some() && removed.uid == object.uid();
            if same || version <= removed.version {
                return None;
            }
            self.removed.remove(&place);
        }
        let before = self.objects.get(&place).cloned();
        if before.is_some() && planted(Bug::StaleCache) {
            return None;
        }
        if let Some(before) = before.as_deref()
            && self::version(before) >= version
            && version != 0
        {
            return None;
        }
        let (old, new) = (before.as_deref().and_then(owner), owner(&object));
        if old != new {
            self.disown(old.as_deref(), &place);
        }
        if let Some(new) = new {
            self.owned.entry(new).or_default().insert(place.clone());
        }
        self.objects.insert(place, Arc::new(object));
        Some(before)
    }

    fn remove(
        &mut self,
        place: &Place,
        uid: Option<&str>,
        version: u64,
        owner: fn(&K) -> Option<String>,
    ) -> Option<Arc<K>> {
        let held = self.objects.get(place)?;
        let other =
            uid.is_some_and(|uid| held.meta().uid.as_deref().is_some_and(|held| held != uid));
        if other || (version != 0 && self::version(held.as_ref()) > version) {
            return None;
        }
        let before = self.objects.remove(place)?;
        let removed = Removed {
            uid: before.uid(),
            version: version.max(self::version(before.as_ref())),
        };
        self.removed.insert(place.clone(), removed);
        self.disown(owner(&before).as_deref(), place);
        Some(before)
    }

    fn disown(&mut self, owner: Option<&str>, place: &Place) {
        if let Some(owner) = owner
            && let Some(places) = self.owned.get_mut(owner)
        {
            places.remove(place);
            if places.is_empty() {
                self.owned.remove(owner);
            }
        }
    }
}

/// The version of `object` as a number, 0 if it has none.
pub fn version(object: &impl Resource) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// A stable digest of anything hashable, for predicates.
pub fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("ns".into());
        map.metadata.uid = Some(uid.into());
        map.metadata.resource_version = Some(version.to_string());
        map
    }

    fn place(name: &str) -> Place {
        Place {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    fn cache() -> Cache<ConfigMap> {
        Cache::new(|map| {
            map.metadata
                .uid
                .as_ref()
                .map(|uid| uid.chars().take(1).collect())
        })
    }

    #[test]
    fn older_copies_never_replace_newer_ones() {
        let cache = cache();
        assert!(cache.written(object("a", "u1", 7)).is_some());
        assert!(cache.apply(object("a", "u1", 5)).is_none());
        assert!(cache.apply(object("a", "u1", 7)).is_none());
        assert!(cache.apply(object("a", "u1", 8)).is_some());
    }

    #[test]
    fn late_events_do_not_bring_back_what_was_deleted() {
        let cache = cache();
        cache.apply(object("a", "u1", 3));
        assert!(cache.remove(&place("a"), Some("u1"), 9).is_some());
        assert!(cache.apply(object("a", "u1", 4)).is_none());
        assert!(cache.apply(object("a", "u2", 10)).is_some());
        assert!(
            cache.remove(&place("a"), Some("u1"), 9).is_none(),
            "the deletion of the predecessor"
        );
    }

    #[test]
    fn a_list_removes_what_it_lacks_but_not_what_was_written_meanwhile() {
        let cache = cache();
        cache.apply(object("a", "u1", 1));
        cache.apply(object("b", "u2", 2));
        cache.begin_list("");
        cache.list_item("", object("b", "u2", 2));
        cache.written(object("c", "u3", 5));
        assert!(!cache.synced());
        let changes = cache.end_list("");
        assert_eq!(changes.len(), 1);
        assert!(cache.synced());
        let names: Vec<String> = cache.all().iter().map(|o| o.name_any()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(cache.owned_by("u").len(), 2);
        assert_eq!(cache.within("ns").len(), 2);
        assert!(cache.within("n").is_empty());
    }

    #[test]
    fn lists_of_namespaces_do_not_touch_each_other() {
        let cache = cache();
        cache.expect(2);
        for scope in ["ns", "other"] {
            cache.begin_list(scope);
        }
        cache.list_item("ns", object("a", "u1", 1));
        cache.end_list("ns");
        assert!(!cache.synced());
        assert!(cache.end_list("other").is_empty());
        assert!(cache.synced());
        assert_eq!(cache.len(), 1);
    }
}

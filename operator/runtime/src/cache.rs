//! Owns the local copies of watched objects, one cache per kind. It must not talk to the API server.
//!
//! A cache is a fold over watch events and over the answers to our own writes: what the operator wrote it reads back at
//! once, so no decision rests on a copy older than its own last write. Versions decide which copy is newer: within one
//! kind a larger `resourceVersion` is later (KEP-5504; true of every API server backed by etcd).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bessemer_core::Object;
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;

use crate::bug::{Bug, planted};
use crate::packed::{Packed, Packer, version};

/// Namespace and name of an object within its kind. Copies share one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(Arc<str>);

impl Place {
    /// A place; `namespace` may be empty for none. Neither can contain a slash.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The place of `object`.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        Self::new(namespace, meta.name.as_deref().unwrap_or_default())
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or_default()
    }

    /// Its namespace, empty for none.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.parts().1
    }
}

/// The copies of one kind.
pub struct Cache<K> {
    state: RwLock<State<K>>,
    owner: fn(&K) -> Option<String>,
}

struct State<K> {
    objects: BTreeMap<Place, Held<K>>,
    /// By fingerprint of the owner, to keep it small: who reads compares the owner itself.
    owned: BTreeSet<(u64, Place)>,
    listings: BTreeMap<String, Listing<K>>,
    listed: BTreeSet<String>,
    scopes: usize,
    removed: BTreeMap<Place, Removed>,
    packer: Packer,
}

struct Held<K> {
    owner: Option<u64>,
    object: Packed<K>,
}

struct Listing<K> {
    found: BTreeMap<Place, Held<K>>,
    written: BTreeSet<Place>,
}

struct Removed {
    uid: Option<String>,
    version: u64,
}

/// No more deletions than this are remembered between two lists: events are late by seconds, not by thousands of objects.
const REMOVED: usize = 2048;

/// An object before and after.
pub type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

impl<K: Object> Cache<K> {
    /// An empty cache whose objects are also found by what `owner` says of them.
    pub fn new(owner: fn(&K) -> Option<String>) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            owned: BTreeSet::new(),
            listings: BTreeMap::new(),
            listed: BTreeSet::new(),
            scopes: 1,
            removed: BTreeMap::new(),
            packer: Packer::default(),
        };
        Self {
            state: RwLock::new(state),
            owner,
        }
    }

    /// The copy at `place`.
    pub fn get(&self, place: &Place) -> Option<Arc<K>> {
        let packed = self.state.read().objects.get(place)?.object.clone();
        Some(packed.unpack())
    }

    /// The copies that belong to `owner`, by name.
    pub fn owned_by(&self, owner: &str) -> Vec<Arc<K>> {
        let print = fingerprint(&owner);
        let packed: Vec<Packed<K>> = {
            let state = self.state.read();
            let places = state.owned.range((print, Place::default())..);
            places
                .take_while(|(other, _)| *other == print)
                .filter_map(|(_, place)| Some(state.objects.get(place)?.object.clone()))
                .collect()
        };
        let objects = packed.iter().map(Packed::unpack);
        objects
            .filter(|object| (self.owner)(object).as_deref() == Some(owner))
            .collect()
    }

    /// Where there are copies, by namespace and name.
    pub fn places(&self) -> Vec<Place> {
        self.state.read().objects.keys().cloned().collect()
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

    /// Folds in a newer copy. Returns what changed, or nothing if `object` was older or says nothing new.
    pub fn apply(&self, object: K) -> Option<Change<K>> {
        self.fold(Place::of(&object), object, &mut self.state.write())
    }

    /// Folds in the answer to our own write; it survives a list that began before it.
    pub fn written(&self, object: K) -> Option<Change<K>> {
        let mut state = self.state.write();
        let place = Place::of(&object);
        for listing in state.listings.values_mut() {
            listing.written.insert(place.clone());
        }
        self.fold(place, object, &mut state)
    }

    fn fold(&self, place: Place, mut object: K, state: &mut State<K>) -> Option<Change<K>> {
        let uid = object.meta().uid.as_deref();
        if !state.is_news(&place, uid, version(&object)) {
            return None;
        }
        let held = state.hold(&mut object, self.owner);
        let before = state.put(place, held)?;
        Some((before.map(|before| before.unpack()), Some(Arc::new(object))))
    }

    /// Removes an object that is gone. `version` is that of the deletion where known.
    pub fn remove(&self, place: &Place, uid: Option<&str>, version: u64) -> Option<Arc<K>> {
        let before = self.state.write().take(place, uid, version)?;
        Some(before.unpack())
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
    pub fn list_item(&self, scope: &str, mut object: K) {
        let mut state = self.state.write();
        let held = state.hold(&mut object, self.owner);
        if let Some(listing) = state.listings.get_mut(scope) {
            listing.found.insert(Place::of(&object), held);
        }
    }

    /// An object of the list that cannot be read: what was known of it stays.
    pub fn list_unreadable(&self, scope: &str, place: Place) {
        if let Some(listing) = self.state.write().listings.get_mut(scope) {
            listing.written.insert(place);
        }
    }

    /// The list is complete. Tells `changed` (before, after) of everything that changed, one after the other, since all of
    /// a large list at once would take much memory.
    pub fn end_list(&self, scope: &str, mut changed: impl FnMut(Change<K>)) {
        let mut state = self.state.write();
        let Some(listing) = state.listings.remove(scope) else {
            return;
        };
        let gone: Vec<Place> = state
            .objects
            .keys()
            .filter(|place| scope.is_empty() || place.namespace() == scope)
            .filter(|place| {
                !listing.found.contains_key(*place) && !listing.written.contains(*place)
            })
            .cloned()
            .collect();
        let mut changes: Vec<[Option<Packed<K>>; 2]> = Vec::new();
        for place in gone {
            if let Some(before) = state.take(&place, None, 0) {
                changes.push([Some(before), None]);
            }
        }
        state
            .removed
            .retain(|place, _| !scope.is_empty() && place.namespace() != scope);
        for (place, held) in listing.found {
            // The deletions of this scope have just been forgotten, and only they ask for the uid.
            if state.is_news(&place, None, held.object.version) {
                let after = held.object.clone();
                if let Some(before) = state.put(place, held) {
                    changes.push([before, Some(after)]);
                }
            }
        }
        state.listed.insert(scope.to_owned());
        drop(state);
        for change in changes {
            let [before, after] = change.map(|packed| packed.map(|packed| packed.unpack()));
            changed((before, after));
        }
    }
}

impl<K: Object> State<K> {
    fn hold(&mut self, object: &mut K, owner: fn(&K) -> Option<String>) -> Held<K> {
        Held {
            owner: owner(object).map(|owner| fingerprint(&owner.as_str())),
            object: self.packer.pack(object),
        }
    }

    /// Whether a copy is newer than what is known of its place.
    fn is_news(&mut self, place: &Place, uid: Option<&str>, version: u64) -> bool {
        if let Some(removed) = self.removed.get(place) {
            let same = removed.uid.is_some() && removed.uid.as_deref() == uid;
            if same || version <= removed.version {
                return false;
            }
            self.removed.remove(place);
        }
        let Some(before) = self.objects.get(place) else {
            return true;
        };
        !planted(Bug::StaleCache) && (version == 0 || before.object.version < version)
    }

    /// Keeps a newer copy. Returns the one before unless both say the same.
    fn put(&mut self, place: Place, held: Held<K>) -> Option<Option<Packed<K>>> {
        let known = self.objects.get_key_value(&place);
        let (place, old, same) = known.map_or((place, None, false), |(place, before)| {
            let same = before.object.says_the_same(&held.object);
            (place.clone(), before.owner, same)
        });
        if old != held.owner {
            self.disown(old, &place);
        }
        if let Some(owner) = held.owner {
            self.owned.insert((owner, place.clone()));
        }
        let before = self.objects.insert(place, held).map(|before| before.object);
        (!same).then_some(before)
    }

    fn take(&mut self, place: &Place, uid: Option<&str>, version: u64) -> Option<Packed<K>> {
        let held = self.objects.get(place)?;
        let known = held.object.unpack().uid();
        let other = uid.is_some_and(|uid| known.as_deref().is_some_and(|known| known != uid));
        if other || (version != 0 && held.object.version > version) {
            return None;
        }
        let (place, before) = self.objects.remove_entry(place)?;
        self.disown(before.owner, &place);
        let removed = Removed {
            uid: known,
            version: version.max(before.object.version),
        };
        self.removed.insert(place, removed);
        if self.removed.len() > REMOVED {
            let mut versions: Vec<u64> = self.removed.values().map(|gone| gone.version).collect();
            let (_, middle, _) = versions.select_nth_unstable(REMOVED / 2);
            let oldest = *middle;
            self.removed.retain(|_, gone| gone.version >= oldest);
        }
        Some(before.object)
    }

    fn disown(&mut self, owner: Option<u64>, place: &Place) {
        if let Some(owner) = owner {
            self.owned.remove(&(owner, place.clone()));
        }
    }
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
        map.data = Some([("version".to_owned(), version.to_string())].into());
        map
    }

    fn place(name: &str) -> Place {
        Place::new("ns", name)
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
    fn a_copy_that_says_nothing_new_is_no_change_but_its_version_counts() {
        let cache = cache();
        let copy = |version: u64| {
            let mut map = object("a", "u1", 0);
            map.metadata.resource_version = Some(version.to_string());
            map
        };
        assert!(cache.apply(copy(1)).is_some());
        assert!(cache.apply(copy(5)).is_none());
        let kept = cache.get(&place("a")).unwrap();
        assert_eq!(kept.metadata.resource_version.as_deref(), Some("5"));
        assert!(cache.apply(object("a", "u1", 4)).is_none());
        assert!(cache.apply(object("a", "u1", 6)).is_some());
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
        let mut changes = 0;
        cache.end_list("", |_| changes += 1);
        assert_eq!(changes, 1);
        assert!(cache.synced());
        assert_eq!(cache.places(), [place("b"), place("c")]);
        assert_eq!(cache.owned_by("u").len(), 2);
    }

    #[test]
    fn lists_of_namespaces_do_not_touch_each_other() {
        let cache = cache();
        cache.expect(2);
        for scope in ["ns", "other"] {
            cache.begin_list(scope);
        }
        cache.list_item("ns", object("a", "u1", 1));
        cache.end_list("ns", |_| ());
        assert!(!cache.synced());
        cache.end_list("other", |change| unreachable!("{change:?}"));
        assert!(cache.synced());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn of_many_deletions_the_latest_are_remembered() {
        let cache = cache();
        let count = 3 * REMOVED as u64;
        for version in 1..count {
            cache.apply(object("a", &format!("u{version}"), version));
            let name = format!("b{version}");
            cache.apply(object(&name, "u", version));
            assert!(cache.remove(&place(&name), None, version).is_some());
        }
        assert!(cache.state.read().removed.len() <= REMOVED);
        let late = object(&format!("b{}", count - 1), "u", count - 1);
        assert!(cache.apply(late).is_none());
    }
}

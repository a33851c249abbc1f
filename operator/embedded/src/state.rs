//! Owns the committed objects, the one resourceVersion counter and the history that watches read; must not know HTTP or kinds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::object;
use crate::storage::{Key, Memory, Storage, StorageError};

/// How many past changes a table keeps for watches and paging before it forgets the oldest.
const HISTORY: usize = 20_000;

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The object is new.
    Added,
    /// The object was replaced.
    Modified,
    /// The object is gone.
    Deleted,
}

/// One committed change.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its resourceVersion.
    pub revision: u64,
    /// What happened.
    pub change: Change,
    /// The object after the change; for a deletion the last state with the deletion's resourceVersion.
    pub object: Arc<Value>,
    /// The object before.
    pub previous: Option<Arc<Value>>,
}

type Place = (String, String);

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Place, Arc<Value>>,
    history: VecDeque<Event>,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Table {
    fn new(forgotten: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            forgotten,
            changed: watch::Sender::new(forgotten),
        }
    }
}

/// History up to the asked revision is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest revision that can still be served.
    pub oldest: u64,
}

/// All tables and the counter.
pub struct State {
    revision: u64,
    /// The revision found at start: no history reaches further back.
    opened: u64,
    /// Nobody may begin to read history before this revision.
    compacted: u64,
    tables: BTreeMap<String, Table>,
    storage: Box<dyn Storage>,
}

impl State {
    /// Reads everything `storage` holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(mut storage: Box<dyn Storage>) -> Result<Self, StorageError> {
        let image = storage.load()?;
        // A fresh store begins at 1 as etcd does, so that 0 always means "any".
        let revision = image.revision.max(1);
        let mut state = Self {
            revision,
            opened: revision,
            compacted: revision,
            tables: BTreeMap::new(),
            storage,
        };
        for (key, value) in image.objects {
            let table = state.table(&key.table);
            table
                .objects
                .insert((key.namespace, key.name), Arc::new(value));
        }
        Ok(state)
    }

    /// The present objects in memory, without their history.
    #[must_use]
    pub fn fork(&self) -> Self {
        let tables = self.tables.iter().map(|(name, table)| {
            let mut copy = Table::new(self.revision);
            copy.objects.clone_from(&table.objects);
            (name.clone(), copy)
        });
        Self {
            revision: self.revision,
            opened: self.revision,
            compacted: self.revision,
            tables: tables.collect(),
            storage: Box::new(Memory),
        }
    }

    fn table(&mut self, name: &str) -> &mut Table {
        let opened = self.opened;
        self.tables
            .entry(name.to_owned())
            .or_insert_with(|| Table::new(opened))
    }

    /// The last resourceVersion given out.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.tables
            .get(&key.table)?
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()
    }

    /// Objects of a table in (namespace, name) order; `namespace` "" means all.
    pub fn list<'a>(
        &'a self,
        table: &str,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Value>> {
        self.tables
            .get(table)
            .into_iter()
            .flat_map(|t| t.objects.iter())
            .filter(move |((ns, _), _)| namespace.is_empty() || ns == namespace)
            .map(|(_, object)| object)
    }

    /// The objects of a table as they were at `revision`.
    ///
    /// # Errors
    /// `Forgotten` when the history does not reach back so far.
    pub fn list_at(
        &self,
        table: &str,
        namespace: &str,
        revision: u64,
    ) -> Result<Vec<Arc<Value>>, Forgotten> {
        if revision < self.compacted {
            return Err(Forgotten {
                oldest: self.compacted,
            });
        }
        let Some(table) = self.tables.get(table) else {
            return Ok(Vec::new());
        };
        if revision < table.forgotten {
            return Err(Forgotten {
                oldest: table.forgotten,
            });
        }
        let mut objects = table.objects.clone();
        for event in table
            .history
            .iter()
            .rev()
            .take_while(|e| e.revision > revision)
        {
            let place = (
                object::namespace(&event.object).to_owned(),
                object::name(&event.object).to_owned(),
            );
            match &event.previous {
                Some(previous) => objects.insert(place, previous.clone()),
                None => objects.remove(&place),
            };
        }
        Ok(objects
            .into_iter()
            .filter(|((ns, _), _)| namespace.is_empty() || ns == namespace)
            .map(|(_, object)| object)
            .collect())
    }

    /// Nobody may begin to read history before this revision; readers that kept up go on.
    #[must_use]
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Changes of a table after `revision`.
    ///
    /// # Errors
    /// `Forgotten` when the history does not reach back so far.
    pub fn after(&self, table: &str, revision: u64) -> Result<Vec<Event>, Forgotten> {
        let Some(table) = self.tables.get(table) else {
            return if revision < self.opened {
                Err(Forgotten {
                    oldest: self.opened,
                })
            } else {
                Ok(Vec::new())
            };
        };
        if revision < table.forgotten {
            return Err(Forgotten {
                oldest: table.forgotten,
            });
        }
        let from = table.history.partition_point(|e| e.revision <= revision);
        Ok(table.history.range(from..).cloned().collect())
    }

    /// Wakes when a table changes.
    pub fn subscribe(&mut self, table: &str) -> watch::Receiver<u64> {
        self.table(table).changed.subscribe()
    }

    /// Writes or removes (`None`) an object and returns it with its new resourceVersion.
    ///
    /// # Errors
    /// When the store refused; then nothing changed.
    pub fn commit(&mut self, key: &Key, value: Option<Value>) -> Result<Arc<Value>, StorageError> {
        let revision = self.revision + 1;
        let previous = self.get(key);
        let (change, mut object) = match (value, &previous) {
            (Some(value), None) => (Change::Added, value),
            (Some(value), Some(_)) => (Change::Modified, value),
            (None, Some(previous)) => (Change::Deleted, (**previous).clone()),
            // Removing what is not there changes nothing.
            (None, None) => return Ok(Arc::new(Value::Null)),
        };
        object::metadata(&mut object).insert("resourceVersion".into(), revision.to_string().into());
        self.storage.commit(
            revision,
            key,
            (change != Change::Deleted).then_some(&object),
        )?;
        self.revision = revision;
        let object = Arc::new(object);
        let event = Event {
            revision,
            change,
            object: object.clone(),
            previous,
        };
        let table = self.table(&key.table);
        let place = (key.namespace.clone(), key.name.clone());
        match change {
            Change::Deleted => table.objects.remove(&place),
            _ => table.objects.insert(place, object.clone()),
        };
        table.history.push_back(event);
        if table.history.len() > HISTORY {
            table.forgotten = table
                .history
                .pop_front()
                .map_or(table.forgotten, |e| e.revision);
        }
        table.changed.send_replace(revision);
        Ok(object)
    }

    /// Forgets all history: watches and pages from earlier revisions expire, watches that have
    /// seen everything go on.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
        for table in self.tables.values_mut() {
            if let Some(last) = table.history.back() {
                table.forgotten = last.revision;
                table.history.clear();
                table.changed.send_replace(self.revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key {
            table: "t".into(),
            namespace: "n".into(),
            name: name.into(),
        }
    }

    fn object(name: &str, value: i64) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "v": value})
    }

    #[test]
    fn history_serves_the_past_until_it_is_compacted() {
        let mut state = State::open(Box::new(Memory)).unwrap();
        state.commit(&key("a"), Some(object("a", 1))).unwrap();
        let past = state.revision();
        state.commit(&key("a"), Some(object("a", 2))).unwrap();
        state.commit(&key("b"), Some(object("b", 1))).unwrap();
        state.commit(&key("a"), None).unwrap();
        let then = state.list_at("t", "", past).unwrap();
        assert_eq!(then.len(), 1);
        assert_eq!(then[0]["v"], 1);
        let changes: Vec<Change> = state
            .after("t", past)
            .unwrap()
            .iter()
            .map(|e| e.change)
            .collect();
        assert_eq!(changes, [Change::Modified, Change::Added, Change::Deleted]);
        let mut fork = state.fork();
        fork.commit(&key("c"), Some(object("c", 1))).unwrap();
        assert_eq!(fork.after("t", state.revision()).unwrap().len(), 1);
        assert!(fork.after("t", past).is_err());
        assert_eq!(fork.list("t", "").count(), 2);
        assert_eq!(state.list("t", "").count(), 1);
        state.compact();
        assert!(state.after("t", past).is_err());
        assert!(state.list_at("t", "", past).is_err());
        assert!(state.after("t", state.revision()).unwrap().is_empty());
    }
}

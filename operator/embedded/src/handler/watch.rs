//! Owns what one watch has seen and what it sends next; must not wait (the stream around it does).

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::read::Selection;
use super::{Call, Core, Reply, present};
use crate::object;
use crate::registry::Resource;
use crate::state::{Change, Event};
use crate::status::{Cause, Failure};

/// Seconds a watch lives when the client does not say.
const DEFAULT_TIMEOUT: u64 = 1_800;

/// One watch.
#[derive(Debug)]
pub struct Cursor {
    /// What is watched.
    pub resource: Arc<Resource>,
    /// Namespace, "" for all.
    pub namespace: String,
    selection: Selection,
    /// Everything up to here was sent or skipped.
    pub revision: u64,
    pending: VecDeque<WatchEvent>,
    /// The start lies before the compaction: `oldest`.
    expired: Option<u64>,
    /// Whether bookmarks were asked for.
    pub bookmarks: bool,
    /// Seconds until the server ends the watch.
    pub timeout: u64,
    /// Wakes when the table changes.
    pub changed: tokio::sync::watch::Receiver<u64>,
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub kind: &'static str,
    /// The object, or the Status of an error.
    pub object: Arc<Value>,
}

/// What a watch has to send.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// One event.
    Event(WatchEvent),
    /// Nothing now.
    Idle,
    /// This event, then the end (history was compacted).
    Last(WatchEvent),
}

/// Opens a watch.
pub(super) fn open(core: &mut Core, call: &Call) -> Result<Reply, Failure> {
    let resource = call.target.resource.clone();
    let selection = Selection::of(call)?;
    let asked = call.query.number("resourceVersion")?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let initial = call.query.flag("sendInitialEvents");
    let current = core.state.revision();
    if let Some(asked) = asked.filter(|a| *a > current) {
        return Err(Failure::too_large_resource_version(asked, current));
    }
    if call.query.get("sendInitialEvents").is_some()
        && call.query.get("resourceVersionMatch") != Some("NotOlderThan")
    {
        return Err(Failure::options(
            "ListOptions",
            &Cause::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
        ));
    }
    let mut cursor = Cursor {
        changed: core.state.subscribe(&resource.table),
        namespace: call.target.namespace.clone(),
        selection,
        revision: asked.unwrap_or(0),
        pending: VecDeque::new(),
        expired: asked
            .filter(|a| *a > 0 && *a < core.state.compacted())
            .map(|_| core.state.compacted()),
        bookmarks,
        timeout: call
            .query
            .number("timeoutSeconds")?
            .filter(|t| *t > 0)
            .unwrap_or(DEFAULT_TIMEOUT),
        resource,
    };
    // No version (or 0) means: the present state as ADDED events, then changes.
    if initial || cursor.revision == 0 {
        let present_now: Vec<WatchEvent> = core
            .state
            .list(&cursor.resource.table, &cursor.namespace)
            .map(|object| present(&cursor.resource, object))
            .filter(|object| cursor.selection.matches(object))
            .map(|object| WatchEvent {
                kind: "ADDED",
                object,
            })
            .collect();
        cursor.pending.extend(present_now);
        cursor.revision = current;
        if initial && bookmarks {
            let mut bookmark = cursor.bookmark();
            object::set(
                Arc::make_mut(&mut bookmark.object),
                &["metadata", "annotations"],
                json!({"k8s.io/initial-events-end": "true"}),
            );
            cursor.pending.push_back(bookmark);
        }
    }
    Ok(Reply::Watch(cursor))
}

impl Cursor {
    /// Takes the next thing to send.
    pub fn next(&mut self, core: &Core) -> Step {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Step::Event(event);
            }
            if let Some(oldest) = self.expired {
                return self.too_old(oldest);
            }
            match core.state.after(&self.resource.table, self.revision) {
                Err(forgotten) => return self.too_old(forgotten.oldest),
                Ok(events) if events.is_empty() => {
                    self.revision = self.revision.max(core.state.revision());
                    return Step::Idle;
                }
                Ok(events) => {
                    for event in events {
                        self.revision = event.revision;
                        let sent = self.translate(&event);
                        self.pending.extend(sent);
                    }
                }
            }
        }
    }

    fn too_old(&self, oldest: u64) -> Step {
        // kube-apiserver keeps no cache of Events, and etcd has other words than the cache.
        let failure = Failure::expired(if self.resource.table == "events" {
            "The resourceVersion for the provided watch is too old.".to_owned()
        } else {
            format!("too old resource version: {} ({oldest})", self.revision)
        });
        Step::Last(WatchEvent {
            kind: "ERROR",
            object: Arc::new(failure.to_value()),
        })
    }

    /// An event as this selection sees it: an object that leaves the selection was deleted for the watcher.
    fn translate(&self, event: &Event) -> Option<WatchEvent> {
        if !self.namespace.is_empty() && object::namespace(&event.object) != self.namespace {
            return None;
        }
        let shown = present(&self.resource, &event.object);
        let now = event.change != Change::Deleted && self.selection.matches(&shown);
        let before = event
            .previous
            .as_ref()
            .map(|previous| present(&self.resource, previous))
            .filter(|previous| self.selection.matches(previous));
        let (kind, object) = match (before, now) {
            (None, true) => ("ADDED", shown),
            (Some(_), true) => ("MODIFIED", shown),
            (Some(previous), false) => {
                // The watcher gets the last state it could see, at the revision of the change.
                let mut last = (*previous).clone();
                object::set(
                    &mut last,
                    &["metadata", "resourceVersion"],
                    event.revision.to_string().into(),
                );
                ("DELETED", Arc::new(last))
            }
            (None, false) => return None,
        };
        Some(WatchEvent { kind, object })
    }

    /// A bookmark at the cursor's revision.
    #[must_use]
    pub fn bookmark(&self) -> WatchEvent {
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string()},
        });
        WatchEvent {
            kind: "BOOKMARK",
            object: Arc::new(object),
        }
    }
}

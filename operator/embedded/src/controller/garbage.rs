//! Owner-reference garbage collection: owns the graph of owners and dependents and what it
//! calls for. It must not delete anything whose owners it has not looked for in the API.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DynamicObject, PropagationPolicy};
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::action::{Action, ActionError, execute};
use super::cache::Key;
use super::kind::{Kind, Kinds};
use super::queue::Queue;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What the collector knows of an object.
#[derive(Clone, Debug)]
struct Node {
    resource: ApiResource,
    key: Key,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
    deleting: bool,
    version: String,
}

/// Objects by uid, and dependents by their owner's uid.
#[derive(Default)]
struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    fn insert(&mut self, uid: String, node: Node) {
        self.remove(&uid);
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        self.nodes.insert(uid, node);
    }

    fn remove(&mut self, uid: &str) {
        let Some(old) = self.nodes.remove(uid) else {
            return;
        };
        for owner in old.owners {
            if let Some(all) = self.dependents.get_mut(&owner.uid) {
                all.remove(uid);
                if all.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn children(&self, uid: &str) -> Vec<(String, Node)> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|child| Some((child.clone(), self.nodes.get(child)?.clone())))
            .collect()
    }

    /// What a deleting owner calls for; empty when it waits or has nothing to do.
    fn release(&self, uid: &str, node: &Node) -> Vec<Action> {
        let children = self.children(uid);
        if node.finalizers.iter().any(|f| f == ORPHAN) {
            let mut actions: Vec<Action> = children
                .iter()
                .map(|(_, child)| disown(child, |owner| owner.uid == uid))
                .collect();
            actions.push(drop_finalizer(node, ORPHAN));
            return actions;
        }
        if !node.finalizers.iter().any(|f| f == FOREGROUND) {
            return Vec::new();
        }
        let blocks = |child: &Node| {
            child
                .owners
                .iter()
                .any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        let mut actions = Vec::new();
        for (child_uid, child) in children.iter().filter(|(_, child)| !child.deleting) {
            let owned_elsewhere = child
                .owners
                .iter()
                .any(|o| o.uid != uid && self.is_solid(&o.uid));
            if owned_elsewhere {
                actions.push(disown(child, |owner| owner.uid == uid));
                continue;
            }
            let has_children = self.dependents.contains_key(child_uid);
            let propagation = if has_children {
                PropagationPolicy::Foreground
            } else {
                PropagationPolicy::Background
            };
            actions.push(remove(child_uid, child, propagation));
        }
        if !children.iter().any(|(_, child)| blocks(child)) {
            actions.push(drop_finalizer(node, FOREGROUND));
        }
        actions
    }

    fn is_solid(&self, uid: &str) -> bool {
        self.nodes
            .get(uid)
            .is_some_and(|n| !(n.deleting && n.finalizers.iter().any(|f| f == FOREGROUND)))
    }
}

fn remove(uid: &str, node: &Node, propagation: PropagationPolicy) -> Action {
    Action::Delete {
        resource: node.resource.clone(),
        key: node.key.clone(),
        uid: uid.to_owned(),
        propagation,
    }
}

fn disown(node: &Node, gone: impl Fn(&OwnerReference) -> bool) -> Action {
    let left: Vec<&OwnerReference> = node.owners.iter().filter(|o| !gone(o)).collect();
    let patch = json!({"metadata": {"resourceVersion": node.version, "ownerReferences": left}});
    Action::Patch(node.resource.clone(), node.key.clone(), Box::new(patch))
}

fn drop_finalizer(node: &Node, name: &str) -> Action {
    let left: Vec<&String> = node.finalizers.iter().filter(|f| *f != name).collect();
    let patch = json!({"metadata": {"resourceVersion": node.version, "finalizers": left}});
    Action::Patch(node.resource.clone(), node.key.clone(), Box::new(patch))
}

/// Collects garbage of every kind in `kinds` until `shutdown`.
pub async fn run(client: Client, kinds: Kinds, shutdown: CancellationToken) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Queue::default();
    let watches = {
        let (client, graph, queue, shutdown) = (
            client.clone(),
            graph.clone(),
            queue.clone(),
            shutdown.clone(),
        );
        kinds.clone().for_each(shutdown.clone(), move |kind| {
            tokio::spawn(watch(
                client.clone(),
                kind,
                graph.clone(),
                queue.clone(),
                shutdown.clone(),
            ));
        })
    };
    let work = queue.run("garbage", shutdown, |key| {
        let (client, kinds, graph) = (client.clone(), kinds.clone(), graph.clone());
        async move { collect(&client, &kinds, &graph, &key.name).await }
    });
    tokio::join!(watches, work);
}

async fn watch(
    client: Client,
    kind: Kind,
    graph: Arc<Mutex<Graph>>,
    queue: Queue,
    shutdown: CancellationToken,
) {
    let api: Api<DynamicObject> = Api::all_with(client, &kind.resource);
    let mut events = watcher::watcher(api, watcher::Config::default().timeout(200))
        .default_backoff()
        .boxed();
    let mut listed: Option<BTreeSet<String>> = None;
    let mut mine: BTreeSet<String> = BTreeSet::new();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let gone: Vec<String> = match event {
            Some(Ok(Event::Init)) => {
                listed = Some(BTreeSet::new());
                Vec::new()
            }
            Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                let uid = object.uid().unwrap_or_default();
                if let Some(listed) = listed.as_mut() {
                    listed.insert(uid.clone());
                }
                mine.insert(uid.clone());
                seen(&graph, &queue, uid, &kind.resource, &object);
                Vec::new()
            }
            Some(Ok(Event::InitDone)) => {
                let listed = listed.take().unwrap_or_default();
                mine.difference(&listed).cloned().collect()
            }
            Some(Ok(Event::Delete(object))) => vec![object.uid().unwrap_or_default()],
            Some(Err(_)) => Vec::new(),
            None => return,
        };
        for uid in gone {
            mine.remove(&uid);
            let mut graph = graph.lock();
            let owners = graph
                .nodes
                .get(&uid)
                .map(|n| n.owners.clone())
                .unwrap_or_default();
            graph.remove(&uid);
            let children = graph.children(&uid);
            drop(graph);
            children
                .into_iter()
                .for_each(|(child, _)| queue.add(by_uid(child)));
            owners
                .into_iter()
                .for_each(|owner| queue.add(by_uid(owner.uid)));
        }
    }
}

fn by_uid(uid: String) -> Key {
    Key {
        namespace: String::new(),
        name: uid,
    }
}

fn seen(
    graph: &Mutex<Graph>,
    queue: &Queue,
    uid: String,
    resource: &ApiResource,
    object: &DynamicObject,
) {
    let node = Node {
        resource: resource.clone(),
        key: Key::of(object),
        owners: object.owner_references().to_vec(),
        finalizers: object.finalizers().to_vec(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        version: object.resource_version().unwrap_or_default(),
    };
    let concerned = node.deleting || !node.owners.is_empty();
    let owners = node.owners.clone();
    let mut graph = graph.lock();
    graph.insert(uid.clone(), node);
    // An owner that waits for its dependents must learn of a new or changed one.
    let waiting = owners
        .into_iter()
        .filter(|o| graph.nodes.get(&o.uid).is_some_and(|n| n.deleting));
    let waiting: Vec<String> = waiting.map(|o| o.uid).collect();
    drop(graph);
    if concerned {
        queue.add(by_uid(uid));
    }
    waiting
        .into_iter()
        .for_each(|owner| queue.add(by_uid(owner)));
}

async fn collect(
    client: &Client,
    kinds: &Kinds,
    graph: &Mutex<Graph>,
    uid: &str,
) -> Result<Option<Duration>, ActionError> {
    let (node, actions) = {
        let graph = graph.lock();
        let Some(node) = graph.nodes.get(uid).cloned() else {
            return Ok(None);
        };
        let actions = if node.deleting {
            graph.release(uid, &node)
        } else {
            Vec::new()
        };
        (node, actions)
    };
    if node.deleting {
        execute(client, jiff::Timestamp::UNIX_EPOCH, actions).await?;
        return Ok(None);
    }
    let mut absent = BTreeSet::new();
    for owner in &node.owners {
        let known = graph.lock().nodes.contains_key(&owner.uid);
        if !known && missing(client, kinds, &node.key, owner).await? {
            absent.insert(owner.uid.clone());
        }
    }
    if absent.is_empty() {
        return Ok(None);
    }
    let action = if absent.len() == node.owners.len() {
        remove(uid, &node, PropagationPolicy::Background)
    } else {
        disown(&node, |owner| absent.contains(&owner.uid))
    };
    execute(client, jiff::Timestamp::UNIX_EPOCH, vec![action]).await?;
    Ok(None)
}

/// Whether the API itself says that the owner is gone. A kind nobody knows proves nothing.
async fn missing(
    client: &Client,
    kinds: &Kinds,
    key: &Key,
    owner: &OwnerReference,
) -> Result<bool, ActionError> {
    let Some(kind) = kinds.find(&owner.api_version, &owner.kind) else {
        return Ok(false);
    };
    let api: Api<DynamicObject> = if kind.namespaced {
        Api::namespaced_with(client.clone(), &key.namespace, &kind.resource)
    } else {
        Api::all_with(client.clone(), &kind.resource)
    };
    match api.get_opt(&owner.name).await {
        Ok(found) => Ok(found.and_then(|o| o.uid()).as_ref() != Some(&owner.uid)),
        Err(error) => Err(ActionError::Api {
            what: format!("read {} {}", owner.kind, owner.name),
            source: Box::new(error),
        }),
    }
}

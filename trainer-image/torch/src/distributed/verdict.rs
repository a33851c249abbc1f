//! Owns the finding of a lost rank. Every rank writes a heartbeat into the store; after a failure the survivors look
//! whose heart stands still, and the first finding holds for all of them. It must not end anything.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Error, Store};

/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(500);
/// A heart that stands still for so long is that of a lost rank.
const STILL: Duration = Duration::from_secs(5);
/// Patience with the store of a rank 0 that may be lost; its machine may be gone without a word.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks into the store.
const LOOK: Duration = Duration::from_millis(100);
const VERDICT: &str = "verdict";

fn beat(rank: usize) -> String {
    format!("beat/{rank}")
}

fn heard(rank: usize) -> String {
    format!("heard/{rank}")
}

/// The heartbeat of this rank.
#[derive(Debug)]
pub(super) struct Pulse {
    doing: Arc<Mutex<String>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Begins to beat; the first beat is in the store when this returns. `store` is a connection of its own, so that
    /// nothing that waits in another keeps the heart from beating.
    pub fn start(store: Store, rank: usize) -> Result<Self, Error> {
        store.set(&beat(rank), b"0 joining")?;
        let doing = Arc::new(Mutex::new("joining".to_owned()));
        let (stop, stopped) = mpsc::channel();
        let told = doing.clone();
        let thread = std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || {
                let mut number = 0u64;
                let mut open = true;
                while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                    number += 1;
                    let text = {
                        let doing = told.lock().unwrap_or_else(PoisonError::into_inner);
                        format!("{number} {doing}")
                    };
                    let mut write = || -> Result<(), Error> {
                        store.set(&beat(rank), text.as_bytes())?;
                        if open && store.has(VERDICT)? {
                            open = false;
                            store.set(&heard(rank), b"")?;
                        }
                        Ok(())
                    };
                    // Without the store nobody listens; the next operation of the group tells why.
                    if write().is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| crate::Error(format!("no thread for the heartbeat: {error}")))?;
        Ok(Self {
            doing,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What the next beats tell of this rank.
    pub fn tell(&self, doing: &str) {
        let mut told = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing.clone_into(&mut told);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}

/// Ranks and the addresses from which they came.
pub(super) type Peers = BTreeMap<usize, String>;

/// Why the others stopped, as all living ranks will say it. `rank` is this one, `peers` are the others.
pub(super) fn find(store: &Arc<Store>, rank: usize, peers: &Peers) -> String {
    let (give, given) = mpsc::channel();
    let (asked, others) = (store.clone(), peers.clone());
    std::thread::spawn(move || {
        // Nobody listens any more when the patience is over.
        let _ = give.send(inquire(&asked, &others));
    });
    match given.recv_timeout(PATIENCE) {
        Ok(Ok(verdict)) => {
            if rank == 0 {
                linger(store, peers, &verdict);
            }
            verdict
        }
        Ok(Err(_)) | Err(_) => lost(0, store.address()),
    }
}

/// Tells the others why this rank leaves; the first verdict holds.
pub(super) fn leave(store: &Store, rank: usize, peers: &Peers, reason: &str) -> Result<(), Error> {
    store.first(VERDICT, format!("rank {rank} ended: {reason}").as_bytes())?;
    if rank == 0 {
        linger(store, peers, "");
    }
    Ok(())
}

fn inquire(store: &Store, peers: &Peers) -> Result<String, Error> {
    let read = |key: &str| -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&store.get(key, STILL)?).into_owned())
    };
    let mut still = BTreeMap::new();
    for &peer in peers.keys() {
        still.insert(peer, read(&beat(peer))?);
    }
    let deadline = Instant::now() + STILL;
    let mut places = BTreeMap::new();
    while !still.is_empty() && Instant::now() < deadline {
        if store.has(VERDICT)? {
            return read(VERDICT);
        }
        std::thread::sleep(LOOK);
        for &peer in peers.keys() {
            let now = read(&beat(peer))?;
            if still.get(&peer).is_some_and(|before| *before != now) {
                still.remove(&peer);
                let doing = now.split_once(' ').map_or("", |(_, doing)| doing);
                places.insert(peer, doing.to_owned());
            }
        }
    }
    let found: Vec<String> = peers
        .iter()
        .filter(|(peer, _)| still.contains_key(peer))
        .map(|(&peer, address)| lost(peer, address))
        .collect();
    let verdict = if found.is_empty() {
        let at: Vec<String> = places
            .iter()
            .map(|(peer, doing)| {
                let address = peers.get(peer).map_or("", String::as_str);
                format!("rank {peer} at {address} is alive in {doing}")
            })
            .collect();
        format!("no rank is lost; {}", at.join(", "))
    } else {
        found.join(", ")
    };
    let agreed = store.first(VERDICT, verdict.as_bytes())?;
    Ok(String::from_utf8_lossy(&agreed).into_owned())
}

fn lost(rank: usize, address: &str) -> String {
    format!("rank {rank} at {address} is lost")
}

/// Serves the store until every living rank has heard the verdict, so that nobody takes rank 0 for the lost one.
fn linger(store: &Store, peers: &Peers, verdict: &str) {
    let deadline = Instant::now() + STILL;
    let living = peers
        .iter()
        .filter(|(peer, address)| !verdict.contains(&lost(**peer, address)));
    for (&peer, _) in living {
        let left = deadline.saturating_duration_since(Instant::now());
        // One that was lost since never hears it.
        let _ = store.wait(&heard(peer), left.max(Duration::from_millis(1)));
    }
}

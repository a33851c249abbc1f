//! Owns the work queue: which objects wait, which are being worked on and which come back later.
//! It must not know what is done with an object.
//!
//! # Invariants
//! - an object is handed out at most once at a time; a trigger during its work runs it once more afterwards;
//! - an object waits at most once; of several delays the earliest counts;
//! - objects nobody has looked at go before the others, each group first in, first out; of any few turns one is of the
//!   others, so no object can hold back another for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A queue of keys with deduplication and delays.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

/// While both groups wait, one turn in so many is not of the new ones.
const TURNS: usize = 16;

struct State<K> {
    new: VecDeque<K>,
    ready: VecDeque<K>,
    turn: usize,
    waiting: BTreeMap<K, Instant>,
    active: BTreeMap<K, Instant>,
    again: BTreeSet<K>,
    due: BTreeSet<(Instant, Arc<K>)>,
    due_of: BTreeMap<Arc<K>, Instant>,
    closed: bool,
}

/// What the queue holds at a moment, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Objects ready to be worked on.
    pub ready: usize,
    /// Objects being worked on.
    pub active: usize,
    /// Objects that come back later.
    pub delayed: usize,
    /// Age of the oldest work in progress.
    pub longest_active: Duration,
}

/// An object handed out, with the time it waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<K> {
    /// The object.
    pub key: K,
    /// How long it was ready before it was taken.
    pub waited: Duration,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            new: VecDeque::new(),
            ready: VecDeque::new(),
            turn: 0,
            waiting: BTreeMap::new(),
            active: BTreeMap::new(),
            again: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// Asks for work on `key` now. Returns whether it was not waiting already.
    pub fn add(&self, key: K) -> bool {
        self.ask(key, false)
    }

    /// As [`Queue::add`]; one that is `new`, that nobody has looked at yet, goes before those that are known.
    pub fn ask(&self, key: K, new: bool) -> bool {
        let added = self.state.lock().add(key, new, Instant::now());
        if added {
            self.changed.notify_one();
        }
        added
    }

    /// Asks for work on `key` after `delay`; an earlier request stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        {
            let mut state = self.state.lock();
            if state.due_of.get(&key).is_some_and(|earlier| *earlier <= at) {
                return;
            }
            state.no_longer_due(&key);
            let key = Arc::new(key);
            state.due.insert((at, key.clone()));
            state.due_of.insert(key, at);
        }
        self.changed.notify_one();
    }

    /// Waits for the next object; `None` once the queue is closed.
    ///
    /// # Cancel safety
    /// Nothing is handed out when the future is dropped before it is ready.
    pub async fn next(&self) -> Option<Taken<K>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wake = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.promote(now);
                if let Some(taken) = state.take(now) {
                    // Another worker may have lost this wake-up to us while more is ready.
                    if !state.waiting.is_empty() || !state.due.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(taken);
                }
                state.due.first().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Reports the end of work on `key`, which may be handed out again from now on.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.active.remove(key);
        if state.again.remove(key) {
            state.add(key.clone(), false, Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Ends the queue: every waiting and later `next` returns `None`.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// What the queue holds now.
    pub fn load(&self) -> Load {
        let state = self.state.lock();
        let now = Instant::now();
        Load {
            ready: state.waiting.len(),
            active: state.active.len(),
            delayed: state.due.len(),
            longest_active: state
                .active
                .values()
                .map(|since| now.duration_since(*since))
                .max()
                .unwrap_or_default(),
        }
    }
}

impl<K: Ord + Clone> State<K> {
    fn add(&mut self, key: K, new: bool, now: Instant) -> bool {
        if self.active.contains_key(&key) {
            return self.again.insert(key);
        }
        if self.waiting.contains_key(&key) {
            return false;
        }
        self.waiting.insert(key.clone(), now);
        let group = if new { &mut self.new } else { &mut self.ready };
        group.push_back(key);
        true
    }

    fn no_longer_due(&mut self, key: &K) {
        if let Some((key, at)) = self.due_of.remove_entry(key) {
            self.due.remove(&(at, key));
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.no_longer_due(&key);
            self.add(Arc::unwrap_or_clone(key), false, now);
        }
    }

    fn take(&mut self, now: Instant) -> Option<Taken<K>> {
        self.turn = (self.turn + 1) % TURNS;
        let (first, then) = match self.turn {
            0 => (&mut self.ready, &mut self.new),
            _ => (&mut self.new, &mut self.ready),
        };
        let key = first.pop_front().or_else(|| then.pop_front())?;
        let since = self.waiting.remove(&key).unwrap_or(now);
        // The work to come decides anew when the object must come back.
        self.no_longer_due(&key);
        self.active.insert(key.clone(), now);
        Some(Taken {
            key,
            waited: now.duration_since(since),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(queue: &Queue<u32>) -> Option<u32> {
        tokio::time::timeout(Duration::from_millis(1), queue.next())
            .await
            .ok()
            .flatten()
            .map(|t| t.key)
    }

    #[tokio::test(start_paused = true)]
    async fn hands_out_once_and_again_after_done() {
        let queue = Queue::new();
        assert!(queue.add(1));
        assert!(!queue.add(1));
        assert_eq!(take(&queue).await, Some(1));
        queue.add(1);
        assert_eq!(take(&queue).await, None);
        queue.done(&1);
        assert_eq!(take(&queue).await, Some(1));
        queue.done(&1);
        assert_eq!(take(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn new_objects_go_first_and_hold_nobody_back() {
        let queue = Queue::new();
        for key in 0..20 {
            queue.add(key);
            queue.ask(100 + key, true);
        }
        queue.ask(0, true);
        assert_eq!(queue.load().ready, 40);
        let mut order = Vec::new();
        while let Some(key) = take(&queue).await {
            queue.done(&key);
            order.push(key);
        }
        let new: Vec<u32> = order.iter().copied().filter(|key| *key >= 100).collect();
        assert_eq!(new, (100..120).collect::<Vec<_>>());
        let known: Vec<u32> = order.iter().copied().filter(|key| *key < 100).collect();
        assert_eq!(known, (0..20).collect::<Vec<_>>());
        let first = order.iter().position(|key| *key == 0);
        assert_eq!(first, Some(TURNS - 1), "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn earliest_delay_counts_and_work_cancels_it() {
        let queue = Queue::new();
        queue.add_after(1, Duration::from_secs(60));
        queue.add_after(1, Duration::from_secs(5));
        queue.add_after(1, Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(queue.next().await.map(|t| t.key), Some(1));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&1);
        assert_eq!(queue.load().delayed, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn wakes_every_worker_for_every_object() {
        let queue = std::sync::Arc::new(Queue::new());
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let queue = queue.clone();
            workers.spawn(async move {
                let mut seen = Vec::new();
                while let Some(taken) = queue.next().await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    seen.push(taken.key);
                    queue.done(&taken.key);
                }
                seen
            });
        }
        tokio::task::yield_now().await;
        for key in 0..100 {
            if key % 2 == 0 {
                queue.add(key);
            } else {
                queue.add_after(key, Duration::from_millis(key.into()));
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        queue.close();
        let mut all: Vec<u32> = workers.join_all().await.concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}

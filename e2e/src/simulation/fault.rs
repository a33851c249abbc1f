//! Owns which disturbance happens when: a seeded budget of faults, drawn at the operator's own calls.
//! It must not know what a fault means for the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_embedded::fault::{After, Before, Delivery, Fault as Disturb, View};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// A disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The request never arrives.
    LostRequest,
    /// The request is carried out, its answer never arrives.
    LostAnswer,
    /// HTTP 409.
    Conflict,
    /// HTTP 429.
    TooMany,
    /// HTTP 500 or 503.
    ServerError,
    /// The answer is late.
    Slow,
    /// The operator dies before the request is carried out.
    CrashBefore,
    /// The operator dies after the request was carried out.
    CrashAfter,
    /// A watch ends before an event.
    WatchClosed,
    /// A watch breaks in the middle of an event.
    WatchTruncated,
    /// A watch falls behind.
    WatchLag,
    /// An event arrives twice.
    WatchTwice,
    /// The resourceVersion of a watch is too old.
    Expired,
    /// The object store, or a router, does not answer.
    OutsideError,
    /// The object store, or a router, answers late.
    OutsideSlow,
}

/// Where in the operator's work a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Lists and watches.
    Observe,
    /// Questions to the object store and to routers.
    Ask,
    /// Writes of children, finalizers and Jobs.
    Execute,
    /// Writes of status and Events.
    Publish,
}

use Fault::{
    Conflict, CrashAfter, CrashBefore, Expired, LostAnswer, LostRequest, OutsideError, OutsideSlow,
    ServerError, Slow, TooMany, WatchClosed, WatchLag, WatchTruncated, WatchTwice,
};

/// Every fault that makes sense at a step.
#[must_use]
pub const fn possible(step: Step) -> &'static [Fault] {
    match step {
        Step::Observe => &[WatchClosed, WatchTruncated, WatchLag, WatchTwice, Expired],
        Step::Ask => &[OutsideError, OutsideSlow],
        Step::Execute | Step::Publish => &[
            LostRequest,
            LostAnswer,
            Conflict,
            TooMany,
            ServerError,
            Slow,
            CrashBefore,
            CrashAfter,
        ],
    }
}

/// The steps in order.
pub const STEPS: [Step; 4] = [Step::Observe, Step::Ask, Step::Execute, Step::Publish];

/// How often each (kind, step, fault) was injected.
pub type Coverage = BTreeMap<(Kind, Step, Fault), u64>;

struct State {
    random: ChaCha8Rng,
    budget: u32,
    injected: Coverage,
    /// The one request index at which the operator dies, for the exhaustive crash test.
    crash_at: Option<u64>,
    writes: u64,
    expired: bool,
}

/// Draws faults until its budget is used up.
#[derive(Clone)]
pub struct Plan(Arc<Mutex<State>>);

/// Chance of a fault at a call, while the budget lasts.
const CHANCE: f64 = 0.12;

impl Plan {
    /// `budget` faults, drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64, budget: u32) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed ^ 0xFA17);
        let state = State {
            random,
            budget,
            injected: Coverage::new(),
            crash_at: None,
            writes: 0,
            expired: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// One crash, before (even) or after (odd) write number `index / 2`, and no other fault.
    #[must_use]
    pub fn crash_at(index: u64) -> Self {
        let plan = Self::new(index, 0);
        plan.0.lock().crash_at = Some(index);
        plan
    }

    /// Draws a fault for a call that concerns `kind` at `step`.
    pub fn draw(&self, kind: Kind, step: Step) -> Option<Fault> {
        let mut state = self.0.lock();
        if matches!(step, Step::Execute | Step::Publish) {
            let write = state.writes;
            state.writes += 1;
            if let Some(at) = state.crash_at
                && at / 2 == write
            {
                state.crash_at = None;
                let fault = if at % 2 == 0 { CrashBefore } else { CrashAfter };
                *state.injected.entry((kind, step, fault)).or_default() += 1;
                return Some(fault);
            }
        }
        if state.budget == 0 || !state.random.random_bool(CHANCE) {
            return None;
        }
        let all = possible(step);
        let index = state.random.random_range(0..all.len());
        let fault = *all.get(index)?;
        state.budget -= 1;
        *state.injected.entry((kind, step, fault)).or_default() += 1;
        Some(fault)
    }

    /// A delay between `low` and `high` milliseconds.
    #[must_use]
    pub fn delay(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.0.lock().random.random_range(low..=high))
    }

    /// Whether the next watch is to find its version too old; asked once.
    #[must_use]
    pub fn take_expired(&self) -> bool {
        std::mem::take(&mut self.0.lock().expired)
    }

    /// A coin.
    #[must_use]
    pub fn coin(&self) -> bool {
        self.0.lock().random.random_bool(0.5)
    }

    /// No more faults.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.budget = 0;
        state.crash_at = None;
    }

    /// Faults that are still to come.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.0.lock().budget
    }

    /// Writes seen so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    /// What was injected.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.0.lock().injected.clone()
    }
}

/// The kind an object of a watch concerns: its own, or that of its owner.
#[must_use]
pub fn kind_of(object: &Value) -> Option<Kind> {
    let word = if object
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_some_and(|v| v.starts_with("bessemer.dev/"))
    {
        object.get("kind").and_then(Value::as_str)
    } else {
        object
            .pointer("/metadata/labels/bessemer.dev~1kind")
            .and_then(Value::as_str)
    }?;
    Kind::ALL.into_iter().find(|kind| kind.name() == word)
}

/// The same plan at the watches of the API server.
pub struct Watches(pub Plan);

impl Disturb for Watches {
    fn before(&self, _view: &View<'_>) -> Before {
        Before::Proceed
    }

    fn after(&self, _view: &View<'_>, _code: u16) -> After {
        After::Deliver
    }

    fn deliver(&self, _table: &str, event: &Value) -> Delivery {
        let object = event.get("object").unwrap_or(event);
        let Some(kind) = kind_of(object) else {
            return Delivery::Deliver;
        };
        match self.0.draw(kind, Step::Observe) {
            Some(WatchClosed) => Delivery::Close,
            Some(WatchTruncated) => Delivery::Truncate,
            Some(WatchLag) => Delivery::Lag(self.0.delay(500, 20_000)),
            Some(WatchTwice) => Delivery::Twice,
            // The watch ends, and by the time it is taken up again its version is too old (the wire compacts).
            Some(Expired) => {
                self.0.0.lock().expired = true;
                Delivery::Close
            }
            _ => Delivery::Deliver,
        }
    }
}

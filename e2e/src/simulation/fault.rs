//! Owns which disturbance happens when: a seeded budget of faults, drawn at the operator's own calls.
//! It must not know what a fault means for the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bessemer_api::Kind;
use bessemer_embedded::fault::{After, Before, Delivery, Fault as Disturb, View};
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
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
    /// A watch is late and shows only the last of what happened to an object.
    WatchSkip,
    /// The resourceVersion of a watch is too old.
    Expired,
    /// Somebody else has just made an object of the name that is to be created.
    NameTaken,
    /// The object store, or a router, does not answer.
    OutsideError,
    /// The object store, or a router, answers late.
    OutsideSlow,
}

/// Where in the operator's work a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Lists, gets, and the start of watches.
    Read,
    /// Events of watches.
    Observe,
    /// Questions to the object store and to routers.
    Ask,
    /// Writes of children, finalizers and Jobs.
    Execute,
    /// Writes of status and Events.
    Publish,
}

use Fault::{
    Conflict, CrashAfter, CrashBefore, Expired, LostAnswer, LostRequest, NameTaken, OutsideError,
    OutsideSlow, ServerError, Slow, TooMany, WatchClosed, WatchLag, WatchSkip, WatchTruncated,
    WatchTwice,
};

const WRITE: [Fault; 9] = [
    LostRequest,
    LostAnswer,
    Conflict,
    TooMany,
    ServerError,
    Slow,
    CrashBefore,
    CrashAfter,
    NameTaken,
];

/// Every fault that makes sense at a step.
#[must_use]
pub fn possible(step: Step) -> &'static [Fault] {
    match step {
        Step::Read => &[
            LostRequest,
            LostAnswer,
            TooMany,
            ServerError,
            Slow,
            CrashBefore,
            CrashAfter,
        ],
        Step::Observe => &[
            WatchClosed,
            WatchTruncated,
            WatchLag,
            WatchTwice,
            WatchSkip,
            Expired,
        ],
        Step::Ask => &[OutsideError, OutsideSlow],
        Step::Execute => &WRITE,
        // Status is applied to an object that exists and an Event is nobody's: no name can be taken.
        Step::Publish => WRITE.split_last().map_or(&[], |(_, rest)| rest),
    }
}

/// The steps in order.
pub const STEPS: [Step; 5] = [
    Step::Read,
    Step::Observe,
    Step::Ask,
    Step::Execute,
    Step::Publish,
];

/// How a step's calls weigh beside others: reads and events are many and stand at the beginning of a life, they must not
/// use up the budget; writes of children are few.
fn weight(step: Step) -> f64 {
    match step {
        Step::Read => 0.25,
        Step::Observe => 0.5,
        Step::Publish => 1.0,
        Step::Ask => 3.0,
        Step::Execute => 4.0,
    }
}

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
    chance: f64,
    /// O6: every watch shows only the last of what happened to an object, always.
    skip: bool,
}

/// Draws faults until its budget is used up.
#[derive(Clone)]
pub struct Plan(Arc<Mutex<State>>);

/// Chances of a fault at a call, while the budget lasts: early ones strike the beginning of a life, rare ones its end.
const CHANCES: [f64; 3] = [0.2, 0.08, 0.03];

impl Plan {
    /// `budget` faults, drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64, budget: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xFA17);
        let chance = CHANCES.choose(&mut random).copied().unwrap_or(1.0);
        let state = State {
            random,
            budget,
            injected: Coverage::new(),
            crash_at: None,
            writes: 0,
            expired: false,
            chance,
            skip: false,
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

    /// The same plan where watches always skip (O6).
    #[must_use]
    pub fn skipping(self) -> Self {
        self.0.lock().skip = true;
        self
    }

    /// Every call is struck until the budget is used up.
    pub fn hurry(&self) {
        self.0.lock().chance = 1.0;
    }

    /// Draws a fault for a call that concerns `kind` at `step`; `creates` says that it is a creation by name.
    pub fn draw(&self, kind: Kind, step: Step, creates: bool) -> Option<Fault> {
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
        let chance = (weight(step) * state.chance).min(1.0);
        if state.budget == 0 || !state.random.random_bool(chance) {
            return None;
        }
        let fault = *possible(step).choose(&mut state.random)?;
        if fault == NameTaken && !creates {
            return None;
        }
        state.budget -= 1;
        *state.injected.entry((kind, step, fault)).or_default() += 1;
        Some(fault)
    }

    /// Draws a fault for a list, a get or the start of a watch; `kind` is what it concerns, of what concerns all kinds one.
    pub fn draw_read(&self, kind: Option<Kind>) -> Option<Fault> {
        let any = || Kind::ALL.choose(&mut self.0.lock().random).copied();
        self.draw(kind.or_else(any)?, Step::Read, false)
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

    /// How many faults were injected.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.0.lock().injected.values().sum()
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

    fn deliver(&self, _table: &str, object: &Value) -> Delivery {
        let Some(kind) = kind_of(object) else {
            return Delivery::Deliver;
        };
        if self.0.0.lock().skip {
            return Delivery::Skip(self.0.delay(500, 15_000));
        }
        match self.0.draw(kind, Step::Observe, false) {
            Some(WatchClosed) => Delivery::Close,
            Some(WatchTruncated) => Delivery::Truncate,
            Some(WatchLag) => Delivery::Lag(self.0.delay(500, 20_000)),
            Some(WatchTwice) => Delivery::Twice,
            Some(WatchSkip) => Delivery::Skip(self.0.delay(500, 60_000)),
            // The watch ends, and by the time it is taken up again its version is too old (the wire compacts).
            Some(Expired) => {
                self.0.0.lock().expired = true;
                Delivery::Close
            }
            _ => Delivery::Deliver,
        }
    }
}

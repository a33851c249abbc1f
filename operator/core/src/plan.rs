//! Owns the form of a plan: the only output of a decision. It must not decide.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::Action;
use crate::query::Query;

/// What has to happen now for one object.
///
/// If `queries` is not empty, the runtime answers them, adds the answers to the facts and plans again at once;
/// nothing else of such a plan is used. Otherwise it executes `actions` in order, stops at the first error,
/// and after success applies `status` to the status subresource if it differs from the live one, then emits
/// `events`. Facts are kept for one pass only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Facts that are needed before anything can be decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<Query>,
    /// Effects, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// The whole status for server-side apply; `None` leaves it alone (the object is going away).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// Told to people, once per transition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Seconds after which to look again if nothing happens; `None` waits for a change (and the resync).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requeue: Option<u64>,
}

impl Plan {
    /// A plan that only asks.
    pub fn ask(queries: Vec<Query>) -> Self {
        Self {
            queries,
            ..Self::default()
        }
    }

    /// Brings the next look forward to `seconds` from now.
    pub fn look_again(&mut self, seconds: u64) {
        let seconds = seconds.max(1);
        self.requeue = Some(self.requeue.map_or(seconds, |known| known.min(seconds)));
    }
}

/// A Kubernetes Event about the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Warning instead of Normal.
    pub warning: bool,
    /// PascalCase reason.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

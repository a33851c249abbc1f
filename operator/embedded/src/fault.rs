//! Owns the points at which a simulation may disturb requests and watches; must not decide when (the simulation does).

use std::time::Duration;

use serde_json::Value;

use crate::request::Verb;

/// What a fault sees of a request.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// How many requests came before this one.
    pub index: u64,
    /// What it does.
    pub verb: Verb,
    /// Table, such as `deployments.apps`.
    pub table: &'a str,
    /// Namespace, "" for cluster scope.
    pub namespace: &'a str,
    /// Name, "" for collections.
    pub name: &'a str,
    /// Subresource, "" for the object.
    pub subresource: &'a str,
    /// User-Agent, to tell clients apart.
    pub agent: &'a str,
}

/// What happens to a request before it is carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    #[default]
    Proceed,
    /// It waits, then goes on.
    Delay(Duration),
    /// It is lost: the client sees a broken connection and nothing was done.
    Drop,
    /// It is refused with this HTTP status (409, 429, 500, 503, 504).
    Refuse(u16),
    /// History is compacted first: old watches and pages expire.
    Compact,
}

/// What happens to the answer of a request that was carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    #[default]
    Deliver,
    /// It arrives late.
    Delay(Duration),
    /// It is lost: the client sees a broken connection, the change is committed.
    Drop,
    /// The client sees this HTTP status although the change is committed.
    Refuse(u16),
}

/// What happens to one event of a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing.
    #[default]
    Deliver,
    /// It and all later ones arrive this much later.
    Lag(Duration),
    /// The watch ends before it.
    Close,
    /// The watch breaks in the middle of its text.
    Truncate,
    /// It arrives twice.
    Twice,
    /// It is held back this long; of what happens to an object meanwhile only the last arrives.
    Skip(Duration),
}

/// Disturbs requests. All methods are called in the order of requests, so a seeded fault is reproducible.
pub trait Fault: Send + Sync {
    /// Called before a request is carried out.
    fn before(&self, view: &View<'_>) -> Before;
    /// Called after a request was carried out with HTTP status `code`.
    fn after(&self, view: &View<'_>, code: u16) -> After;
    /// Called for each event of a watch on `table`, with its object.
    fn deliver(&self, table: &str, object: &Value) -> Delivery;
}

//! Owns conditions: their types, and the one function that sets them. It must not decide their values.
//!
//! kstatus reads them so: Reconciling True is InProgress, Stalled True is Failed, else Ready True is Current and
//! Ready False or Unknown is InProgress. Reconciling, Stalled, Suspended and InputsChanged are absent when they do
//! not apply: a False condition of ours never means that all is well.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::peer::Standing;
use crate::reason::Reason;

/// The object is what its spec asks for. Always present.
pub const READY: &str = "Ready";
/// Work goes on. Present only when True.
pub const RECONCILING: &str = "Reconciling";
/// Nothing will happen until someone changes something. Present only when True.
pub const STALLED: &str = "Stalled";
/// spec.suspend is in force. Present only when True.
pub const SUSPENDED: &str = "Suspended";
/// The run has its artefact. Present only when True.
pub const COMPLETE: &str = "Complete";
/// The run failed for good. Present only when True.
pub const FAILED: &str = "Failed";
/// Inputs have newer versions than the run used. Present only when True.
pub const INPUTS_CHANGED: &str = "InputsChanged";
/// Some revision takes traffic (Deployment).
pub const AVAILABLE: &str = "Available";

/// What an object's conditions add up to. One value decides all conditions, so they cannot contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Work goes on.
    InProgress,
    /// A person has to act.
    Stalled,
    /// A run failed for good.
    Failed,
    /// A run has its artefact.
    Complete,
    /// The desired state is reached (no run).
    Ready,
    /// Suspended, nothing runs.
    Suspended,
}

/// The wanted value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Type.
    pub kind: &'static str,
    /// True, False or Unknown.
    pub status: &'static str,
    /// PascalCase reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The conditions of `verdict`, in a fixed order.
pub fn wanted(verdict: Verdict, reason: Reason, message: &str) -> Vec<Wanted> {
    let of = |kind, status| Wanted {
        kind,
        status,
        reason: reason.word,
        message: message.to_owned(),
    };
    match verdict {
        Verdict::InProgress => vec![of(READY, "False"), of(RECONCILING, "True")],
        Verdict::Stalled => vec![of(READY, "False"), of(STALLED, "True")],
        Verdict::Failed => vec![of(READY, "False"), of(STALLED, "True"), of(FAILED, "True")],
        Verdict::Complete => vec![of(READY, "True"), of(COMPLETE, "True")],
        Verdict::Ready => vec![of(READY, "True")],
        Verdict::Suspended => vec![of(READY, "False"), of(SUSPENDED, "True")],
    }
}

/// Sets conditions: exactly the wanted ones remain, each with the generation it describes; lastTransitionTime moves
/// only when the status of a type changes.
pub fn set(
    old: &[Condition],
    wanted: Vec<Wanted>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|want| {
            let since = find(old, want.kind)
                .filter(|known| known.status == want.status)
                .map_or_else(
                    || Time(whole_seconds(now)),
                    |known| known.last_transition_time.clone(),
                );
            Condition {
                type_: want.kind.into(),
                status: want.status.into(),
                reason: want.reason.into(),
                message: limit(want.message),
                observed_generation: Some(generation),
                last_transition_time: since,
            }
        })
        .collect()
}

/// The condition of type `kind`.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of type `kind` is True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// What the conditions of an object add up to for those that depend on it.
pub fn standing(
    conditions: &[Condition],
    deleting: bool,
    generation: i64,
    observed: Option<i64>,
) -> Standing {
    if deleting {
        Standing::Deleting
    } else if observed != Some(generation) || is_true(conditions, RECONCILING) {
        Standing::Pending
    } else if is_true(conditions, STALLED) || is_true(conditions, FAILED) {
        Standing::Failed
    } else if is_true(conditions, SUSPENDED) {
        Standing::Suspended
    } else if is_true(conditions, READY) {
        Standing::Ready
    } else {
        Standing::Pending
    }
}

/// Kubernetes keeps whole seconds; writing more would differ from what is read back.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A message as long as the API allows (32,768 bytes) and a person reads.
fn limit(mut message: String) -> String {
    const LONGEST: usize = 2048;
    if message.len() > LONGEST {
        let mut end = LONGEST;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn times_move_only_with_the_status_and_what_no_longer_applies_goes() {
        let first = set(
            &[],
            wanted(Verdict::InProgress, reason::STARTING, "a"),
            1,
            at(10),
        );
        let second = set(
            &first,
            wanted(Verdict::InProgress, reason::RUNNING, "b"),
            2,
            at(20),
        );
        assert_eq!(second[0].last_transition_time.0, at(10));
        assert_eq!(
            (second[0].reason.as_str(), second[0].observed_generation),
            ("Running", Some(2))
        );
        let third = set(
            &second,
            wanted(Verdict::Complete, reason::COMPLETE, "c"),
            2,
            at(30),
        );
        assert_eq!(third[0].last_transition_time.0, at(30));
        assert!(find(&third, RECONCILING).is_none() && is_true(&third, COMPLETE));
    }

    #[test]
    fn no_verdict_contradicts_itself() {
        use Verdict::*;
        for verdict in [InProgress, Stalled, Failed, Complete, Ready, Suspended] {
            let all = set(&[], wanted(verdict, reason::ACCEPTED, "m"), 1, at(1));
            assert_eq!(all[0].type_, READY);
            assert!(!(is_true(&all, RECONCILING) && is_true(&all, STALLED)));
            assert_eq!(is_true(&all, READY), matches!(verdict, Complete | Ready));
            let standing = standing(&all, false, 1, Some(1));
            assert_eq!(
                standing == Standing::Ready,
                matches!(verdict, Complete | Ready)
            );
        }
    }
}

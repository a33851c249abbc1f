//! Owns the closed list of reasons, each with the next step in words, and the error that carries one. It must
//! not decide which applies.

use serde::Serialize;
use thiserror::Error;

use crate::query::Query;

/// Why an object is in the state it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Reason {
    /// Stable PascalCase word: condition reason, event reason, metric label.
    pub word: &'static str,
    /// What to do, one sentence; empty when there is nothing to do but wait.
    pub next: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $next:literal;)*) => {
        $($(#[$doc])* pub const $name: Reason = Reason { word: $word, next: $next };)*
        /// Every reason, in the order of a life.
        pub const ALL: &[Reason] = &[$($name),*];
    };
}

reasons! {
    /// First sight of an object.
    ACCEPTED = "Accepted", "";
    /// The spec asks for something that is not built yet.
    NOT_IMPLEMENTED = "NotImplemented", "Take the named field out of the spec.";
    /// The spec cannot be carried out as it stands.
    INVALID_SPEC = "InvalidSpec", "Change the named field.";
    /// The object depends on itself.
    CYCLE = "Cycle", "Take one of the named references out.";
    /// A referenced object does not exist.
    DEPENDENCY_MISSING = "DependencyMissing", "Apply the named object.";
    /// A referenced object is not ready yet.
    DEPENDENCY_NOT_READY = "DependencyNotReady", "";
    /// A referenced object has failed.
    DEPENDENCY_FAILED = "DependencyFailed", "Look at the named object with `bessemer why`.";
    /// A referenced object is suspended.
    DEPENDENCY_SUSPENDED = "DependencySuspended", "Set spec.suspend of the named object to false.";
    /// A referenced object is being deleted.
    DEPENDENCY_DELETING = "DependencyDeleting", "Refer to another object, or apply the named one again.";
    /// A referenced object is of no use here.
    DEPENDENCY_UNFIT = "DependencyUnfit", "Refer to an object that fits.";
    /// The object store does not answer.
    STORAGE_UNAVAILABLE = "StorageUnavailable", "Check the endpoint and the Secret bessemer-storage of the namespace.";
    /// An artefact is not what its digest says.
    ARTIFACT_CORRUPT = "ArtifactCorrupt", "Delete the named artefact and build it again; its bytes were changed.";
    /// spec.suspend.
    SUSPENDED = "Suspended", "Set spec.suspend to false.";
    /// Pods are ending after spec.suspend was set.
    SUSPENDING = "Suspending", "";
    /// Kueue has not admitted the Job.
    QUEUED = "Queued", "Wait for quota, or look at the Kueue Workload of the Job.";
    /// The Job has no running pod yet.
    STARTING = "Starting", "";
    /// Something refuses the pod before any node sees it.
    POD_REFUSED = "PodRefused", "Raise the namespace's quota or change its policy, or ask for less.";
    /// The node of a worker does not answer.
    NODE_LOST = "NodeLost", "The work goes on elsewhere by itself; look at the node of the named pod.";
    /// No node takes the pod.
    UNSCHEDULABLE = "Unschedulable", "Ask for less, or add nodes that fit.";
    /// The image cannot be pulled.
    IMAGE_UNAVAILABLE = "ImageUnavailable", "Check the image name and spec.pod.imagePullSecrets.";
    /// A container cannot be made from its configuration.
    CONTAINER_CONFIG = "ContainerConfigInvalid", "Check the Secrets and ConfigMaps that the pod names.";
    /// The worker works.
    RUNNING = "Running", "";
    /// An attempt failed; the next one waits.
    RETRYING = "Retrying", "";
    /// The worker has ended; its result is being read.
    COLLECTING = "Collecting", "";
    /// The run has its artefact.
    COMPLETE = "Complete", "";
    /// An artefact of the same content was found; nothing had to run.
    CACHED = "Cached", "";
    /// The worker refused its configuration.
    BAD_CONFIG = "BadConfig", "Change the spec as the message says.";
    /// The worker refused its data.
    BAD_DATA = "BadData", "Correct the data, then set spec.restartNonce to a new value.";
    /// The worker did not find an input, or not as its digest says.
    MISSING_INPUT = "MissingInput", "Restore the named input, then set spec.restartNonce to a new value.";
    /// The worker cannot work in its environment.
    ENVIRONMENT = "Environment", "Give the pod what the message names, then set spec.restartNonce to a new value.";
    /// All attempts failed.
    RETRIES_EXHAUSTED = "RetriesExhausted", "Look at the logs, then set spec.restartNonce to a new value.";
    /// spec.activeDeadlineSeconds is over.
    DEADLINE_EXCEEDED = "DeadlineExceeded", "Raise spec.activeDeadlineSeconds, or ask for less work.";
    /// The Job ended well but no artefact is in the store.
    RESULT_MISSING = "ResultMissing", "Check that operator and worker use the same object store.";
    /// The inputs of a finished run have newer versions.
    INPUTS_CHANGED = "InputsChanged", "Set spec.restartNonce to a new value to build from them.";
    /// The gates wait for results about the candidate.
    GATE_PENDING = "GatePending", "";
    /// A gate's expression is false for the candidate.
    GATE_FAILED = "GateFailed", "Improve the model, or change the gate.";
    /// A gate's expression cannot be evaluated.
    GATE_INVALID = "GateInvalid", "Correct the expression of the named gate.";
    /// The candidate's pods are starting.
    CANDIDATE_STARTING = "CandidateStarting", "";
    /// The candidate is asked for one completion.
    CANDIDATE_CHECKING = "CandidateChecking", "";
    /// The candidate did not come up or did not answer.
    CANDIDATE_UNHEALTHY = "CandidateUnhealthy", "Look at the logs of the candidate's pods; change the spec to try again.";
    /// The router is starting.
    ROUTER_STARTING = "RouterStarting", "";
    /// The Gateway API is not there for spec.route.
    GATEWAY_UNAVAILABLE = "GatewayUnavailable", "Install the Gateway API's definitions and upgrade the chart, or remove spec.route.";
    /// A Gateway does not use the HTTPRoute.
    ROUTE_NOT_ACCEPTED = "RouteNotAccepted", "Look at the status of the HTTPRoute and of the Gateways of spec.route.parentRefs.";
    /// Traffic moves to the candidate in steps.
    ROLLING_OUT = "RollingOut", "";
    /// The candidate broke a limit of spec.rollout.abort.
    ROLLOUT_ABORTED = "RolloutAborted", "Look at the candidate's errors and speed; change the spec to try again.";
    /// The old revision finishes its answers.
    DRAINING = "Draining", "";
    /// The revision asked for takes all traffic.
    SERVING = "Serving", "";
    /// Pods are fewer than asked for.
    SCALING = "Scaling", "";
    /// The object is being deleted.
    DELETING = "Deleting", "";
    /// The finalizer gave up.
    CLEANUP_ABANDONED = "CleanupAbandoned", "Delete the named artefacts by hand.";
}

/// The reason with this word.
pub fn find(word: &str) -> Option<Reason> {
    ALL.iter().copied().find(|reason| reason.word == word)
}

/// Why there is no desired state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Invalid {
    /// The dominant reason.
    pub reason: Reason,
    /// What exactly, one sentence that names fields and objects.
    pub message: String,
    /// Whether only a change of this object's spec (or of the world by a person) helps: Stalled instead of Reconciling.
    pub terminal: bool,
}

impl Invalid {
    /// Waits for something that will come by itself.
    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            terminal: false,
        }
    }

    /// Waits for a person.
    pub fn terminal(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            terminal: true,
        }
    }

    /// Stable PascalCase word.
    pub fn category(&self) -> &'static str {
        self.reason.word
    }
}

/// Why [`crate::Kind::resolve`] did not end in a desired state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Halt {
    /// A fact is missing.
    #[error("facts are missing")]
    Ask(Vec<Query>),
    /// There is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn words_are_pascal_case_and_unique_and_steps_are_sentences() {
        let words: BTreeSet<_> = ALL.iter().map(|reason| reason.word).collect();
        assert_eq!(words.len(), ALL.len());
        for reason in ALL {
            assert!(
                reason.word.starts_with(|c: char| c.is_ascii_uppercase()),
                "{}",
                reason.word
            );
            assert!(
                reason.word.chars().all(|c| c.is_ascii_alphanumeric()),
                "{}",
                reason.word
            );
            assert!(
                reason.next.is_empty() || reason.next.ends_with('.'),
                "{}",
                reason.word
            );
            assert_eq!(find(reason.word), Some(*reason));
        }
    }
}

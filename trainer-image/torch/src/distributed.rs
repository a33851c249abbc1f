//! Owns processes that compute together: a key-value store over TCP, collective operations over Gloo, and the finding
//! of the rank that was lost; it must not know what is computed.
//!
//! ```text
//! group (ranks, operations) ──┬─ store   TCPStore of libtorch, served by rank 0
//!                             └─ verdict heartbeats in the store; which rank the others stopped for
//! ```

mod group;
mod store;
mod verdict;

pub use group::{Group, Membership};
pub use store::Store;

/// Why ranks cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host name that no resolver knows.
    #[error(
        "the address of rank 0, {address}, could not be resolved within {seconds} s: {problem}"
    )]
    Unresolvable {
        /// Host and port.
        address: String,
        /// How long it was tried.
        seconds: u64,
        /// What the resolver says.
        problem: String,
    },
    /// Nobody listens there.
    #[error("rank 0 did not answer at {address} within {seconds} s: {problem}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// How long it was tried.
        seconds: u64,
        /// What the system says.
        problem: String,
    },
    /// Rank 0 cannot serve the store.
    #[error("rank 0 cannot listen on {address}: {problem}")]
    Listen {
        /// Address and port.
        address: String,
        /// What the system says.
        problem: String,
    },
    /// A rank that never came.
    #[error("rank {rank} of {size} did not come to {address} within {seconds} s")]
    Absent {
        /// Which.
        rank: usize,
        /// How many there should be.
        size: usize,
        /// Where it was awaited.
        address: String,
        /// How long.
        seconds: u64,
    },
    /// The ranks do not fit together.
    #[error("rank {rank} cannot join at {address}: {problem}")]
    Refused {
        /// Which.
        rank: usize,
        /// Where.
        address: String,
        /// What does not fit.
        problem: String,
    },
    /// An operation of all ranks that did not come to its end.
    #[error("{operation} of rank {rank} failed: {verdict} ({detail})")]
    Failed {
        /// Name and number of the operation.
        operation: String,
        /// This rank.
        rank: usize,
        /// On what all living ranks agree: which rank was lost and its address, or where each one stood.
        verdict: String,
        /// In libtorch's words.
        detail: String,
    },
    /// A key that was not set in time, or a store that is gone.
    #[error(
        "{operation} of key {key} in the store at {address} failed after {seconds} s: {detail}"
    )]
    Store {
        /// `set`, `get`, `wait` or `add`.
        operation: &'static str,
        /// Which key.
        key: String,
        /// Host and port.
        address: String,
        /// How long it took.
        seconds: u64,
        /// In libtorch's words.
        detail: String,
    },
    /// Asked to stop while the others were awaited.
    #[error("stopped while waiting for the other ranks")]
    Stopped,
    /// libtorch refused something that has no peer.
    #[error(transparent)]
    Torch(#[from] super::Error),
}

impl Error {
    /// Stable word for conditions, events and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unresolvable { .. } => "RendezvousUnresolvable",
            Self::Unreachable { .. } | Self::Listen { .. } => "RendezvousUnreachable",
            Self::Absent { .. } => "RankAbsent",
            Self::Refused { .. } => "RankRefused",
            Self::Failed { .. } | Self::Store { .. } => "RankLost",
            Self::Stopped => "Interrupted",
            Self::Torch(error) => error.category(),
        }
    }
}

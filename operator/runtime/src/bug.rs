//! Owns bugs that can be planted, one at a time, to show that the simulation finds them. Without the feature `planted`
//! none of them exists; it must never be enabled in a release.

/// A planted bug, each of a kind that real operators had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The time at which a plan wants to look again is forgotten.
    MissedRequeue,
    /// A reconcile that failed is not tried again.
    MissedRetry,
    /// A changed upstream object wakes nobody.
    MissedReference,
    /// A status is written without uid and resourceVersion.
    LostPrecondition,
    /// A deletion carries no uid.
    BlindDelete,
    /// Every creation takes a new name.
    DuplicateCreate,
    /// The first copy of an object is kept for ever.
    StaleCache,
    /// The finalizer is never added.
    SkippedFinalizer,
    /// The finalizer is removed but nothing is cleaned up.
    SkippedCleanup,
    /// An object of someone else with the same name is taken as ours.
    ForeignAdopted,
    /// The status is written whether it differs or not.
    UnconditionalStatus,
    /// A watch that failed is not started again.
    DeadWatch,
    /// The Lease is taken although its holder renews it.
    StolenLease,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::MissedRequeue,
        Self::MissedRetry,
        Self::MissedReference,
        Self::LostPrecondition,
        Self::BlindDelete,
        Self::DuplicateCreate,
        Self::StaleCache,
        Self::SkippedFinalizer,
        Self::SkippedCleanup,
        Self::ForeignAdopted,
        Self::UnconditionalStatus,
        Self::DeadWatch,
        Self::StolenLease,
    ];
}

#[cfg(feature = "planted")]
mod active {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants `bug` in this thread, or removes it.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.with(|active| active.set(bug));
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        ACTIVE.with(|active| active.get() == Some(bug))
    }
}

#[cfg(not(feature = "planted"))]
mod active {
    pub(crate) const fn planted(_bug: super::Bug) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
pub use active::plant;
pub(crate) use active::planted;

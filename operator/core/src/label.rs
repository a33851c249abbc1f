//! Owns the names of labels, annotations, finalizers, field managers and children. It must not build objects.

use bessemer_api::Kind as KindName;
use sha2::{Digest, Sha256};

/// Kind of the owner, PascalCase; on every child.
pub const KIND: &str = "bessemer.dev/kind";
/// Name of the owner; on every child.
pub const NAME: &str = "bessemer.dev/name";
/// Short identity of the run or revision; on every child that belongs to one.
pub const RUN: &str = "bessemer.dev/run";
/// Part that a child plays (`worker`, `server`, `router`).
pub const ROLE: &str = "bessemer.dev/role";
/// Kueue's label.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// Annotation: counts the attempts of a run, from 0.
pub const ATTEMPT: &str = "bessemer.dev/attempt";
/// Annotation: generation of the owner that a child was rendered from.
pub const GENERATION: &str = "bessemer.dev/generation";
/// Annotation: version of the template a child was rendered with.
pub const TEMPLATE: &str = "bessemer.dev/template-version";
/// Annotation: hash of the pod template.
pub const TEMPLATE_HASH: &str = "bessemer.dev/template-hash";
/// Annotation: seconds of work lost before an attempt.
pub const LOST: &str = "bessemer.dev/lost-seconds";
/// Annotation: restartNonce of the run.
pub const NONCE: &str = "bessemer.dev/restart-nonce";
/// Annotation: hash of what we last applied; equal means nothing to do.
pub const APPLIED: &str = "bessemer.dev/applied";
/// Annotation of a revision: why it was rejected, `Reason: sentence`.
pub const REJECTED: &str = "bessemer.dev/rejected";
/// Annotation of a router's configuration: when the present weights were set.
pub const SINCE: &str = "bessemer.dev/since";
/// Annotation of a router's configuration: index of the rollout step in force.
pub const STEP: &str = "bessemer.dev/step";
/// Annotation of a router's configuration: `requests/errors` of the candidate when its rollout began.
pub const BASELINE: &str = "bessemer.dev/baseline";
/// Annotation of a router's configuration: what tells a Gateway of it.
pub const GATEWAY: &str = "bessemer.dev/gateway";
/// Annotation of a router's configuration: the revision that has passed its rollout.
pub const STABLE: &str = "bessemer.dev/stable";
/// Annotation of a router's configuration: the stable revision before.
pub const PREVIOUS: &str = "bessemer.dev/previous";
/// Annotation of a revision: digest of its weights.
pub const DIGEST: &str = "bessemer.dev/digest";
/// Annotation of a router's pod: the revision of the configuration that its kubelet was told of.
pub const CONFIGURED: &str = "bessemer.dev/configured";
/// Annotation for users: `true` stops all actions on the object; its status goes on.
pub const PAUSED: &str = "bessemer.dev/paused";
/// Annotation for users: `true` drops the cleanup of a deleted object.
pub const SKIP_CLEANUP: &str = "bessemer.dev/skip-cleanup";

/// Finalizer of objects with `artifactPolicy: Delete`.
pub const FINALIZER: &str = "bessemer.dev/artifacts";

/// Port of every server and router.
pub const PORT: u16 = 8080;

/// Field manager of children of a kind; constant for ever.
pub fn manager(kind: KindName) -> String {
    format!("bessemer/{}", kind.name().to_lowercase())
}

/// Field manager of the status of a kind; constant for ever.
pub fn status_manager(kind: KindName) -> String {
    format!("bessemer/{}-status", kind.name().to_lowercase())
}

/// Hex SHA-256 of the parts, each ended by a zero byte.
pub fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hex::encode(hasher.finalize())
}

/// The first `length` hexadecimal digits of [`hash`].
pub fn short_hash(parts: &[&str], length: usize) -> String {
    hash(parts).chars().take(length).collect()
}

/// Name of a child: `<short kind>-<name>-<suffix>`; at most 58 characters for a name of 40 and a suffix of 11, so
/// that an index still fits into a host name.
pub fn child(kind: KindName, name: &str, suffix: &str) -> String {
    format!("{}-{name}-{suffix}", kind.short())
}

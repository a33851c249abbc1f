//! Owns the look at what an object depends on: which of its references holds it up, and why. It must not know kinds'
//! specs.

use std::collections::BTreeSet;

use bessemer_api::{Kind as KindName, ModelRef};
use bessemer_protocol::{Input, InputRole};

use crate::kind::{Kind, Observed};
use crate::peer::{Edge, Key, Peer, Reference, Standing};
use crate::query::{Answer, Query};
use crate::reason::{self, Halt, Invalid};

/// The reference that a model field makes, if it names an object.
pub fn model_reference(model: &ModelRef, namespace: &str, field: &str) -> Option<Reference> {
    let (kind, name) = (model.kind?, model.name.clone()?);
    let to = Key {
        kind: kind.into(),
        namespace: namespace.into(),
        name,
    };
    Some(Reference {
        to,
        edge: Edge::Build,
        field: field.into(),
    })
}

/// The reference to a dataset.
pub fn dataset_reference(name: &str, namespace: &str, field: impl Into<String>) -> Reference {
    let to = Key {
        kind: KindName::Dataset,
        namespace: namespace.into(),
        name: name.into(),
    };
    Reference {
        to,
        edge: Edge::Build,
        field: field.into(),
    }
}

/// Refuses a cycle, then names the reference that holds `observed` up most.
///
/// # Errors
/// One dominant reason: a cycle, then a missing, deleted, failed, suspended, at last an unfinished dependency.
pub fn check<K: Kind>(observed: &Observed<K>) -> Result<(), Invalid> {
    if let Some(path) = cycle(observed) {
        let path: Vec<String> = path.iter().map(Key::to_string).collect();
        return Err(Invalid::terminal(
            reason::CYCLE,
            format!("depends on itself: {}", path.join(" -> ")),
        ));
    }
    check_of(observed, &observed.object.references())
}

/// Names the one of `references` that holds `observed` up most.
///
/// # Errors
/// As [`check`], but for cycles.
pub fn check_of<K: Kind>(observed: &Observed<K>, references: &[Reference]) -> Result<(), Invalid> {
    let mut worst: Option<(u8, Invalid)> = None;
    for reference in references {
        if reference.edge != Edge::Build {
            continue;
        }
        if let Some((rank, invalid)) = state_of(observed.peers.get(&reference.to), reference)
            && worst.as_ref().is_none_or(|(known, _)| rank < *known)
        {
            worst = Some((rank, invalid));
        }
    }
    worst.map_or(Ok(()), |(_, invalid)| Err(invalid))
}

fn state_of(peer: Option<&Peer>, reference: &Reference) -> Option<(u8, Invalid)> {
    let (to, field) = (&reference.to, &reference.field);
    let Some(peer) = peer else {
        let message = format!("{field} names {to}, which does not exist");
        return Some((0, Invalid::waiting(reason::DEPENDENCY_MISSING, message)));
    };
    match peer.standing {
        Standing::Deleting => Some((
            1,
            Invalid::waiting(
                reason::DEPENDENCY_DELETING,
                format!("{to} is being deleted"),
            ),
        )),
        Standing::Failed => {
            let message = format!("{to} failed ({}): {}", peer.reason, peer.message);
            Some((2, Invalid::terminal(reason::DEPENDENCY_FAILED, message)))
        }
        Standing::Suspended => Some((
            3,
            Invalid::waiting(reason::DEPENDENCY_SUSPENDED, format!("{to} is suspended")),
        )),
        Standing::Pending => {
            let why = if peer.reason.is_empty() {
                String::new()
            } else {
                format!(" ({})", peer.reason)
            };
            Some((
                4,
                Invalid::waiting(
                    reason::DEPENDENCY_NOT_READY,
                    format!("{to} is not ready yet{why}"),
                ),
            ))
        }
        Standing::Ready if peer.artifact.is_none() && to.kind != KindName::Deployment => Some((
            4,
            Invalid::waiting(
                reason::DEPENDENCY_NOT_READY,
                format!("{to} shows no artefact yet"),
            ),
        )),
        Standing::Ready => None,
    }
}

/// The path from the object over build edges back to itself.
fn cycle<K: Kind>(observed: &Observed<K>) -> Option<Vec<Key>> {
    let own = observed.object.key();
    let mut seen = BTreeSet::new();
    let first = observed.object.references();
    let mut open: Vec<Vec<Key>> = first
        .into_iter()
        .filter(|r| r.edge == Edge::Build)
        .map(|r| vec![own.clone(), r.to])
        .collect();
    while let Some(path) = open.pop() {
        let last = path.last()?;
        if *last == own {
            return Some(path);
        }
        if !seen.insert(last.clone()) {
            continue;
        }
        for next in observed
            .peers
            .get(last)
            .iter()
            .flat_map(|peer| &peer.references)
        {
            if next.edge == Edge::Build {
                let mut longer = path.clone();
                longer.push(next.to.clone());
                open.push(longer);
            }
        }
    }
    None
}

/// The input that a dataset is, after [`check`].
///
/// # Errors
/// When its purpose is not among `purposes`.
pub fn dataset_input<K: Kind>(
    observed: &Observed<K>,
    reference: &Reference,
    role: InputRole,
    purposes: &[&str],
) -> Result<Input, Invalid> {
    let input = object_input(observed, reference, role)?;
    let purpose = observed
        .peers
        .get(&reference.to)
        .and_then(|peer| peer.purpose.clone())
        .unwrap_or_default();
    if !purposes.is_empty() && !purposes.contains(&purpose.as_str()) {
        let message = format!(
            "{} names {}, whose purpose is {purpose}; it must be {}",
            reference.field,
            reference.to,
            purposes.join(" or ")
        );
        return Err(Invalid::terminal(reason::DEPENDENCY_UNFIT, message));
    }
    Ok(input)
}

/// The input that a model is: the artefact of an object, or the artefact at a URI.
///
/// # Errors
/// Asks for the manifest of a URI; refuses one that is missing or not a model.
pub fn model_input<K: Kind>(
    observed: &Observed<K>,
    model: &ModelRef,
    role: InputRole,
    field: &str,
) -> Result<Input, Halt> {
    let namespace = observed.object.key().namespace;
    if let Some(reference) = model_reference(model, &namespace, field) {
        return Ok(object_input(observed, &reference, role)?);
    }
    let Some(uri) = model.uri.clone() else {
        let message = format!("{field} names neither an object nor a uri");
        return Err(Invalid::terminal(reason::INVALID_SPEC, message).into());
    };
    let query = Query::Manifest { uri: uri.clone() };
    match observed.facts.get(&query) {
        None => Err(Halt::Ask(vec![query])),
        Some(Answer::Run(Some(found)))
            if found.kind == "PretrainJob" || found.kind == "FineTune" =>
        {
            Ok(Input {
                role,
                kind: found.kind.clone(),
                name: field.into(),
                digest: found.digest.clone(),
                uri,
            })
        }
        Some(Answer::Run(Some(found))) => {
            let message = format!(
                "{field}.uri holds an artefact of kind {}, not a model",
                found.kind
            );
            Err(Invalid::terminal(reason::DEPENDENCY_UNFIT, message).into())
        }
        Some(Answer::Run(None)) => {
            let message = format!("{field}.uri {uri} holds no manifest.json");
            Err(Invalid::waiting(reason::DEPENDENCY_MISSING, message).into())
        }
        Some(Answer::Refused(why)) => {
            Err(Invalid::terminal(reason::ARTIFACT_CORRUPT, why.clone()).into())
        }
        Some(Answer::Unavailable(why)) => {
            Err(Invalid::waiting(reason::STORAGE_UNAVAILABLE, why.clone()).into())
        }
        Some(_) => Err(Invalid::waiting(
            reason::STORAGE_UNAVAILABLE,
            "the answer does not fit the question",
        )
        .into()),
    }
}

fn object_input<K: Kind>(
    observed: &Observed<K>,
    reference: &Reference,
    role: InputRole,
) -> Result<Input, Invalid> {
    let artifact = observed
        .peers
        .get(&reference.to)
        .and_then(|peer| peer.artifact.clone());
    let Some(artifact) = artifact else {
        let message = format!("{} shows no artefact yet", reference.to);
        return Err(Invalid::waiting(reason::DEPENDENCY_NOT_READY, message));
    };
    Ok(Input {
        role,
        kind: reference.to.kind.name().into(),
        name: reference.to.name.clone(),
        digest: artifact.digest,
        uri: artifact.uri,
    })
}

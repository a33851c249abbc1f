//! Owns the answer to "why is it not ready?": the chain of dominant reasons down to the cause. It only reads.

use std::collections::BTreeSet;

use bessemer_api::Kind;
use kube::Client;

use crate::error::Error;
use crate::object::{self, State};

/// Prints the chain of reasons of an object.
pub async fn print(client: &Client, namespace: &str, reference: &str) -> Result<(), Error> {
    let (kind, name) = object::parse(reference)?;
    for line in explain(client, namespace, kind, name).await? {
        println!("{line}");
    }
    Ok(())
}

/// The chain of reasons, one line per object, causes indented below.
pub async fn explain(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(0, kind, name.to_string())];
    while let Some((depth, kind, name)) = open.pop() {
        if !seen.insert((kind, name.clone())) {
            continue;
        }
        let indent = "  ".repeat(depth);
        let Some(found) = object::api(client, kind, namespace).get_opt(&name).await? else {
            lines.push(format!("{indent}{kind}/{name} does not exist; apply it"));
            continue;
        };
        let state = object::state(&found);
        match &state {
            State::Ready => {
                if depth == 0 {
                    lines.push(format!("{indent}{kind}/{name} is ready"));
                }
                continue;
            }
            State::Failed(reason) => lines.push(format!("{indent}{kind}/{name} failed. {reason}")),
            State::Pending(reason) => {
                let progress = object::text(&found, "/status/progress/summary");
                let progress = progress
                    .map(|text| format!(" ({text})"))
                    .unwrap_or_default();
                lines.push(format!(
                    "{indent}{kind}/{name} is not ready{progress}. {reason}"
                ));
            }
        }
        let causes = object::references(kind, &found);
        open.extend(
            causes
                .into_iter()
                .rev()
                .map(|(kind, name)| (depth + 1, kind, name)),
        );
    }
    Ok(lines)
}

//! Owns the printing of digests from an object down to its sources. It only reads.

use std::collections::BTreeSet;

use bessemer_api::Kind;
use kube::Client;
use serde_json::Value;

use crate::error::Error;
use crate::object;

/// Prints what an object was made from.
pub async fn print(client: &Client, namespace: &str, reference: &str) -> Result<(), Error> {
    let (kind, name) = object::parse(reference)?;
    for line in trace(client, namespace, kind, name).await? {
        println!("{line}");
    }
    Ok(())
}

/// One line per artefact, inputs indented below.
pub async fn trace(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(0, kind, name.to_string(), None::<String>)];
    while let Some((depth, kind, name, pinned)) = open.pop() {
        let indent = "  ".repeat(depth);
        let Some(found) = object::api(client, kind, namespace).get_opt(&name).await? else {
            let pinned = pinned.unwrap_or_default();
            lines.push(format!(
                "{indent}{kind}/{name} {pinned} (the object was deleted; its artefact may remain)"
            ));
            continue;
        };
        // A Deployment has no artefact of its own; what it serves stands for it.
        let own = object::text(&found, "/status/artifact/digest")
            .or_else(|| object::text(&found, "/status/traffic/0/digest"))
            .map(str::to_string);
        let digest = pinned
            .clone()
            .or_else(|| own.clone())
            .unwrap_or_else(|| "no digest yet".into());
        let note = match (&pinned, &own) {
            (Some(pinned), Some(own)) if pinned != own => " (a newer one exists)",
            _ => "",
        };
        let first = seen.insert((kind, name.clone(), digest.clone()));
        lines.push(format!(
            "{indent}{kind}/{name} {digest}{note}{}",
            if first { "" } else { " (see above)" }
        ));
        if !first {
            continue;
        }
        for source in found
            .data
            .pointer("/spec/sources")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |field: &str| source.get(field).and_then(Value::as_str).unwrap_or("-");
            lines.push(format!(
                "{indent}  source {} {} (licence {})",
                text("name"),
                text("uri"),
                text("license")
            ));
        }
        let inputs = found
            .data
            .pointer("/status/inputs")
            .and_then(Value::as_array);
        let mut next: Vec<_> = inputs
            .into_iter()
            .flatten()
            .filter_map(|input| {
                let text = |field: &str| input.get(field).and_then(Value::as_str);
                Some((
                    depth + 1,
                    object::kind_of(text("kind")?)?,
                    text("name")?.to_string(),
                    text("digest").map(str::to_string),
                ))
            })
            .collect();
        next.reverse();
        open.extend(next);
    }
    Ok(lines)
}

//! Owns what is printed when a chain is ready: digests, the training curve, the numbers, how to ask the model.

use bessemer_api::Kind;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::error::Error;
use crate::local::Place;
use crate::{object, plot};

/// File of a model's artefact that holds its training curve.
const CURVE_FILE: &str = "training.json";

/// Prints the summary of the objects that were applied.
pub async fn print(
    client: &Client,
    place: &Place,
    applied: &[(Kind, String, String)],
) -> Result<(), Error> {
    let mut objects = Vec::new();
    for (kind, namespace, name) in applied {
        if let Some(found) = object::api(client, *kind, namespace).get_opt(name).await? {
            objects.push((*kind, found));
        }
    }
    println!("\nThe chain");
    for (kind, found) in &objects {
        let digest = object::text(found, "/status/artifact/digest")
            .or_else(|| object::text(found, "/status/traffic/0/digest"))
            .unwrap_or("-");
        println!("  {:<28} {digest}", object::title(*kind, found));
    }
    for (kind, found) in &objects {
        if matches!(kind, Kind::PretrainJob | Kind::FineTune) {
            print_curve(place, *kind, found);
        }
    }
    for (_, found) in objects.iter().filter(|(kind, _)| *kind == Kind::Evaluation) {
        println!("\nResults of {}", object::title(Kind::Evaluation, found));
        for result in found
            .data
            .pointer("/status/results")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            print_result(result);
        }
    }
    for (_, found) in objects.iter().filter(|(kind, _)| *kind == Kind::Deployment) {
        print_deployment(found);
    }
    Ok(())
}

fn print_curve(place: &Place, kind: Kind, found: &DynamicObject) {
    // The local store is a directory of this machine, so the file can be read without a client.
    let Some(uri) = object::text(found, "/status/artifact/uri") else {
        return;
    };
    let path = place
        .objects()
        .join(uri.trim_start_matches("s3://"))
        .join(CURVE_FILE);
    let Ok(text) = std::fs::read(&path) else {
        return;
    };
    let Ok(training) = serde_json::from_slice::<Value>(&text) else {
        return;
    };
    let points: Vec<(f64, f64)> = training
        .get("curve")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|point| Some((point.get("step")?.as_f64()?, point.get("loss")?.as_f64()?)))
        .collect();
    let lines = plot::curve(&points, 60, 6);
    if !lines.is_empty() {
        println!(
            "\nTraining loss of {} over steps",
            object::title(kind, found)
        );
        lines.iter().for_each(|line| println!("{line}"));
    }
    let loss = |field: &str| {
        found
            .data
            .pointer(&format!("/status/losses/{field}"))
            .and_then(Value::as_f64)
    };
    if let (Some(before), Some(after)) = (loss("initialValidation"), loss("validation")) {
        println!("         held-out loss {before:.3} -> {after:.3}");
    }
}

fn print_result(result: &Value) {
    let text = |field: &str| result.get(field).and_then(Value::as_str).unwrap_or("-");
    let number = |field: &str| result.get(field).and_then(Value::as_f64);
    let value = number("value").map_or("missing".into(), |value| format!("{value:.4}"));
    let interval = match (number("low"), number("high")) {
        (Some(low), Some(high)) => format!("  [{low:.4}, {high:.4}]"),
        _ => String::new(),
    };
    println!(
        "  {:<14} {:<24} {value:>12}{interval}",
        text("suite"),
        text("metric")
    );
}

fn print_deployment(found: &DynamicObject) {
    let title = object::title(Kind::Deployment, found);
    for gate in found
        .data
        .pointer("/status/gates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |field: &str| gate.get(field).and_then(Value::as_str).unwrap_or_default();
        println!(
            "\nGate of {title}: {} {}",
            text("expression"),
            text("verdict")
        );
    }
    if let Some(url) = object::text(found, "/status/url") {
        let name = found.metadata.name.as_deref().unwrap_or_default();
        println!("\nAsk {title}:");
        println!(
            "  curl -s {url}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{{\"model\": \"{name}\", \"max_tokens\": 48, \"messages\": [{{\"role\": \"user\", \"content\": \"What does pub fn len(&self) -> usize do?\"}}]}}'"
        );
    }
}

//! Owns O10: specs drawn from the schemas, as far as the API accepts them, must lead to a condition and never to a panic.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use bessemer_api::Kind;
use http::Method;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::fault::Plan;
use super::{Report, Simulation, alone, object, oracle, server};

/// Objects of each kind in one round.
const EACH: usize = 3;
/// Virtual time within which every accepted object has a condition for its generation.
const PATIENCE: Duration = Duration::from_secs(600);
/// Texts of the forms that fields ask for; the API refuses those that do not fit.
const WORDS: [&str; 16] = [
    "a",
    "n0",
    "d1",
    "4k",
    "1M",
    "0.5",
    "25%",
    "10Gi",
    "30s",
    "1h",
    "s3://bucket/x",
    "https://example.org/x.txt",
    "hf://datasets/a/b",
    "results['held-out']['loss'].value < 5.0",
    "text",
    "Zürich 東京",
];

/// One round of random specs.
#[must_use]
pub fn fuzz(seed: u64) -> Report {
    alone(async move {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xF022);
        let simulation = Simulation::new(seed, Plan::new(seed, 0), false);
        let _running = simulation.start(false);
        let mut report = Report {
            seed,
            ..Report::default()
        };
        for kind in Kind::ALL {
            for number in 0..EACH {
                let name = format!("{}{number}", object::letter(kind));
                let spec = accepted(&simulation, kind, &name, number, &mut random);
                let (code, answer) = server::apply(&simulation.api, kind, &name, &spec);
                if code != 201 {
                    let what = format!("O10: {kind} {name}: {code} after a dry run: {answer}");
                    report.broken.push(what);
                }
                report.objects += 1;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        let start = Instant::now();
        loop {
            let untold = oracle::untold(&simulation.api);
            if untold.is_empty() {
                break;
            }
            if start.elapsed() > PATIENCE {
                let what = untold.iter().map(|o| format!("O10: no condition on {o}"));
                report.broken.extend(what);
                break;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        report.broken.extend(simulation.complaints());
        report
    })
}

/// A spec that differs from a plain one in some fields and is accepted by schema and rules.
fn accepted(
    simulation: &Simulation,
    kind: Kind,
    name: &str,
    number: usize,
    random: &mut ChaCha8Rng,
) -> Value {
    let mut spec = object::spec(kind, number, random);
    let Some(schema) = schemas().get(kind.name()) else {
        return spec;
    };
    let path = format!(
        "{}?fieldManager=kubectl&force=true&dryRun=All",
        server::ours(kind, name)
    );
    for _ in 0..random.random_range(2..24) {
        let mut changed = spec.clone();
        mutate(&mut changed, schema, random);
        let body = server::whole(kind, name, &changed);
        let content = "application/apply-patch+yaml";
        let (code, _) = server::call(&simulation.api, Method::PATCH, &path, content, &body);
        if code == 201 {
            spec = changed;
        }
    }
    spec
}

/// Schemas of all specs, made once per process.
fn schemas() -> &'static BTreeMap<String, Value> {
    static SCHEMAS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let definitions = bessemer_api::definitions();
        let found = definitions.iter().filter_map(|definition| {
            let whole = serde_json::to_value(definition).ok()?;
            let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
            Some((
                definition.spec.names.kind.clone(),
                whole.pointer(spec)?.clone(),
            ))
        });
        found.collect()
    })
}

/// Sets one field somewhere in `value`.
fn mutate(value: &mut Value, schema: &Value, random: &mut ChaCha8Rng) {
    if let (Some(list), Some(items)) = (value.as_array_mut(), schema.get("items")) {
        if let Some(item) = list.iter_mut().choose(random) {
            mutate(item, items, random);
        }
        return;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let Some((name, below)) = properties.and_then(|p| p.iter().choose(random)) else {
        return;
    };
    let deeper = value
        .get_mut(name)
        .filter(|inner| inner.is_object() || inner.is_array());
    match deeper {
        Some(inner) if random.random_bool(0.7) => mutate(inner, below, random),
        _ => object::set(value, name, draw(below, random)),
    }
}

/// A value of the schema's type, at its bounds as often as within.
fn draw(schema: &Value, random: &mut ChaCha8Rng) -> Value {
    if let Some(choice) = schema.get("enum").and_then(Value::as_array) {
        return choice.choose(random).cloned().unwrap_or_default();
    }
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => fields(schema, random),
        Some("array") => {
            let number = |name: &str| schema.get(name).and_then(Value::as_u64);
            let least = number("minItems").unwrap_or(0);
            let most = number("maxItems").unwrap_or(4).min(least + 3);
            let items = schema.get("items").cloned().unwrap_or_default();
            let list = (0..random.random_range(least..=most)).map(|_| draw(&items, random));
            Value::Array(list.collect())
        }
        Some("boolean") => json!(random.random_bool(0.5)),
        Some("integer" | "number") => {
            let low = bound("minimum").unwrap_or(0.0);
            let high = bound("maximum").unwrap_or(low + 1e6);
            let within = low + (high - low) * random.random::<f64>();
            let number = [low, high, within, low + 1.0].choose(random).copied();
            let number = number.unwrap_or(low);
            if schema.get("type") == Some(&json!("number")) {
                json!(number)
            } else {
                #[allow(clippy::cast_possible_truncation)]
                let whole = number as i64;
                json!(whole)
            }
        }
        _ => json!(WORDS.choose(random)),
    }
}

fn fields(schema: &Value, random: &mut ChaCha8Rng) -> Value {
    let mut made = Map::new();
    let required = schema.get("required").and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, below) in properties.into_iter().flatten() {
        let needed = required.is_some_and(|list| list.contains(&json!(name)));
        if needed || random.random_bool(0.2) {
            made.insert(name.clone(), draw(below, random));
        }
    }
    if let Some(below) = schema
        .get("additionalProperties")
        .filter(|below| below.is_object())
    {
        made.insert("a".into(), draw(below, random));
    }
    Value::Object(made)
}

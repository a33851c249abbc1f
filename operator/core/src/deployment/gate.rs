//! Owns the verdict of gates: CEL over the results of evaluations. It must read only results whose model is the
//! candidate; everything else is pending.

use bessemer_api::{Gate, GateVerdict, Kind as KindName, MetricResult, ModelDeployment};
use cel::{Context, Program, Value};
use serde_json::json;

use crate::kind::{Kind, Observed};
use crate::peer::{Key, Peer, Standing};
use crate::reason::{self, Invalid};

/// Verdict words in status.
pub(super) const PASSED: &str = "Passed";
const PENDING: &str = "Pending";
const FAILED: &str = "Failed";

/// The verdicts of all gates about `digest`, and what they add up to.
pub(super) fn judge(
    observed: &Observed<ModelDeployment>,
    digest: &str,
) -> (Vec<GateVerdict>, Result<(), Invalid>) {
    let mut verdicts = Vec::new();
    let mut worst: Option<(u8, Invalid)> = None;
    for gate in &observed.object.spec.gates {
        let namespace = observed.object.key().namespace;
        let name = gate.evaluation_ref.name.clone();
        let key = Key {
            kind: KindName::Evaluation,
            namespace,
            name,
        };
        let outcome = judge_one(gate, &key, observed.peers.get(&key), digest);
        let verdict = match &outcome {
            Ok(()) => PASSED,
            Err((_, invalid)) if !invalid.terminal => PENDING,
            Err(_) => FAILED,
        };
        verdicts.push(GateVerdict {
            evaluation: gate.evaluation_ref.name.clone(),
            expression: gate.expression.clone(),
            verdict: verdict.into(),
            message: outcome
                .as_ref()
                .err()
                .map(|(_, invalid)| invalid.message.clone()),
            digest: Some(digest.to_owned()),
        });
        if let Err((rank, invalid)) = outcome
            && worst.as_ref().is_none_or(|(known, _)| rank < *known)
        {
            worst = Some((rank, invalid));
        }
    }
    (verdicts, worst.map_or(Ok(()), |(_, invalid)| Err(invalid)))
}

fn judge_one(
    gate: &Gate,
    key: &Key,
    peer: Option<&Peer>,
    digest: &str,
) -> Result<(), (u8, Invalid)> {
    // An expression that cannot be read is said at once, before any evaluation has run.
    let program = Program::compile(&gate.expression).map_err(|error| {
        let message = format!("the gate on {key} is no CEL expression: {error}");
        (0, Invalid::terminal(reason::GATE_INVALID, message))
    })?;
    let Some(peer) = peer else {
        let message = format!("the gate names {key}, which does not exist");
        return Err((2, Invalid::waiting(reason::DEPENDENCY_MISSING, message)));
    };
    // The model is the first input of an evaluation: a baseline of the same digest opens no gate.
    let judged = peer
        .inputs
        .first()
        .is_some_and(|input| input.digest == digest);
    if !judged {
        let short: String = digest.chars().take(12).collect();
        return Err(match peer.standing {
            Standing::Failed => {
                let message = format!("{key} failed ({}): {}", peer.reason, peer.message);
                (2, Invalid::terminal(reason::DEPENDENCY_FAILED, message))
            }
            Standing::Suspended => (
                3,
                Invalid::waiting(reason::DEPENDENCY_SUSPENDED, format!("{key} is suspended")),
            ),
            _ => (
                3,
                Invalid::waiting(
                    reason::GATE_PENDING,
                    format!("{key} has no results about {short} yet"),
                ),
            ),
        });
    }
    match evaluate(&program, &peer.results) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!("`{}` is false for {key}", gate.expression);
            Err((1, Invalid::terminal(reason::GATE_FAILED, message)))
        }
        Err(why) => {
            let message = format!(
                "`{}` cannot be evaluated over the results of {key}: {why}",
                gate.expression
            );
            Err((0, Invalid::terminal(reason::GATE_INVALID, message)))
        }
    }
}

/// `results[suite][metric]` is `{value, low, high, samples}`; a number that could not be computed is absent.
fn evaluate(program: &Program, results: &[MetricResult]) -> Result<bool, String> {
    let mut map = serde_json::Map::new();
    for result in results {
        let suite = map.entry(result.suite.clone()).or_insert_with(|| json!({}));
        let mut entry = json!({"samples": result.samples});
        for (name, value) in [
            ("value", result.value),
            ("low", result.low),
            ("high", result.high),
        ] {
            if let Some(value) = value {
                crate::pod::put(&mut entry, name, json!(value));
            }
        }
        crate::pod::put(suite, &result.metric, entry);
    }
    let mut context = Context::default();
    context
        .add_variable("results", serde_json::Value::Object(map))
        .map_err(|error| error.to_string())?;
    match program.execute(&context) {
        Ok(Value::Bool(verdict)) => Ok(verdict),
        Ok(other) => Err(format!("it gives {other:?}, not true or false")),
        Err(error) => Err(error.to_string()),
    }
}

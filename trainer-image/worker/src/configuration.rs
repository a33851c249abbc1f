//! Owns reading the run configuration and refusing it by field; it must not do the work.

use std::path::Path;

use bessemer_protocol::task::{EvaluateTask, PrepareTask, ServeTask, TrainTask, TuneTask};
use bessemer_protocol::{ExitCode, RunConfig, SCHEMA_VERSION};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// Reads and checks the configuration at `path` for `command`.
///
/// # Errors
/// A failure that names the field.
pub fn read(path: &Path, command: &str) -> Result<RunConfig, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            ExitCode::BadConfig,
            "InvalidConfig",
            format!("{}: {error}", path.display()),
            "Mount the run's ConfigMap there.",
        )
    })?;
    parse(&text, command)
}

fn parse(text: &str, command: &str) -> Result<RunConfig, Failure> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Failure::config(format!("the run configuration is no JSON: {error}")))?;
    let version = value.get("schemaVersion").and_then(Value::as_u64);
    if version != Some(u64::from(SCHEMA_VERSION)) {
        let found = version.map_or_else(|| "missing".to_owned(), |version| version.to_string());
        return Err(Failure::config(format!(
            "schemaVersion is {found}; this worker reads version {SCHEMA_VERSION}"
        )));
    }
    let config: RunConfig = serde_path_to_error::deserialize(&value).map_err(|error| {
        // Within the tagged task serde loses the path; reading the task alone finds it again.
        let within = value.get("task").and_then(task_error);
        Failure::config(within.unwrap_or_else(|| format!("{}: {}", error.path(), error.inner())))
    })?;
    check(&config, command)?;
    Ok(config)
}

fn task_error(task: &Value) -> Option<String> {
    let mut fields = task.clone();
    let command = fields.as_object_mut()?.remove("command")?;
    match command.as_str()? {
        "prepare" => field_error::<PrepareTask>(&fields),
        "train" => field_error::<TrainTask>(&fields),
        "tune" => field_error::<TuneTask>(&fields),
        "evaluate" => field_error::<EvaluateTask>(&fields),
        "serve" => field_error::<ServeTask>(&fields),
        _ => None,
    }
}

fn field_error<T: DeserializeOwned>(fields: &Value) -> Option<String> {
    let error = serde_path_to_error::deserialize::<_, T>(fields).err()?;
    let path = error.path().to_string();
    Some(if path == "." {
        format!("task: {}", error.inner())
    } else {
        format!("task.{path}: {}", error.inner())
    })
}

fn check(config: &RunConfig, command: &str) -> Result<(), Failure> {
    let found = config.task.command();
    if found != command {
        return Err(Failure::config(format!(
            "task.command is {found}, the worker was started as {command}"
        )));
    }
    let name = |field: &str, value: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if value.is_empty() || value.starts_with('.') || !value.chars().all(plain) {
            return Err(Failure::config(format!(
                "{field}: `{value}` is no name; letters, digits, - and . make one"
            )));
        }
        Ok(())
    };
    name("run.namespace", &config.run.namespace)?;
    name("run.kind", &config.run.kind)?;
    name("run.name", &config.run.name)?;
    digest("run.runKey", &config.run.run_key)?;
    name("storage.bucket", &config.storage.bucket)?;
    for (index, input) in config.inputs.iter().enumerate() {
        digest(&format!("inputs[{index}].digest"), &input.digest)?;
        name(&format!("inputs[{index}].name"), &input.name)?;
        if config
            .inputs
            .iter()
            .take(index)
            .any(|other| other.role == input.role && other.name == input.name)
        {
            return Err(Failure::config(format!(
                "inputs[{index}]: role {:?} and name {} are used twice",
                input.role, input.name
            )));
        }
    }
    Ok(())
}

fn digest(field: &str, value: &str) -> Result<(), Failure> {
    if value.len() == 64
        && value
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Ok(());
    }
    Err(Failure::config(format!(
        "{field}: `{value}` is no SHA-256; 64 hexadecimal digits make one"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({
            "schemaVersion": 1,
            "run": {"namespace": "ns", "kind": "Deployment", "name": "chat", "uid": "u", "generation": 1, "runKey": "a".repeat(64), "attempt": 0},
            "storage": {"region": "us-east-1", "bucket": "b"},
            "inputs": [{"role": "Model", "kind": "FineTune", "name": "chat", "digest": "b".repeat(64), "uri": "s3://b/x"}],
            "task": {"command": "serve", "modelName": "chat", "maxConcurrency": 4, "maxQueue": 8, "drainSeconds": 10}
        })
    }

    fn refused(path: &str, value: Value) -> String {
        let mut config = config();
        *config.pointer_mut(path).unwrap() = value;
        let failure = parse(&config.to_string(), "serve").unwrap_err();
        assert_eq!(failure.exit, ExitCode::BadConfig);
        failure.termination.message
    }

    #[test]
    fn every_refusal_names_the_field() {
        assert!(parse(&config().to_string(), "serve").is_ok());
        assert!(refused("/schemaVersion", json!(2)).contains("schemaVersion is 2"));
        assert!(
            refused("/task/maxQueue", json!("many")).starts_with("task.maxQueue: invalid type")
        );
        assert!(refused("/run/generation", json!(null)).starts_with("run.generation: "));
        assert!(refused("/run/name", json!("../x")).starts_with("run.name: "));
        assert!(refused("/inputs/0/digest", json!("b")).starts_with("inputs[0].digest: "));
        assert!(
            refused("/inputs/0/role", json!("Other"))
                .starts_with("inputs[0].role: unknown variant")
        );
        assert!(refused("/task/command", json!("dance")).contains("dance"));
        let failure = parse(&config().to_string(), "train").unwrap_err();
        assert!(
            failure
                .termination
                .message
                .contains("task.command is serve")
        );
        assert!(
            parse("{", "serve")
                .unwrap_err()
                .termination
                .message
                .contains("no JSON")
        );
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let mut config = config();
        config["task"]["surprise"] = json!(1);
        let message = parse(&config.to_string(), "serve")
            .unwrap_err()
            .termination
            .message;
        assert!(message.contains("surprise"), "{message}");
    }
}

//! Writes the definitions from the Rust types: `generate DIRECTORY...`; with `--check` it only compares.

use std::{env, fs, path::PathBuf, process::ExitCode};

use kube::ResourceExt;

fn main() -> ExitCode {
    let mut check = false;
    let mut directories: Vec<PathBuf> = Vec::new();
    for argument in env::args().skip(1) {
        if argument == "--check" {
            check = true;
        } else {
            directories.push(argument.into());
        }
    }
    if directories.is_empty() {
        directories.push("crds/yaml".into());
    }
    match directories
        .iter()
        .try_for_each(|directory| generate(directory, check))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn generate(directory: &std::path::Path, check: bool) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for definition in bessemer_api::definitions() {
        let path = directory.join(format!("{}.yaml", definition.name_any()));
        let text = serde_yaml::to_string(&definition).map_err(|error| error.to_string())?;
        if !check {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        } else if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            return Err(format!(
                "{} does not match the Rust types; run `make generate`",
                path.display()
            ));
        }
    }
    Ok(())
}

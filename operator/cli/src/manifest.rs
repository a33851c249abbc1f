//! Owns reading manifests from files and directories; it must not send them.

use std::path::{Path, PathBuf};

use kube::api::DynamicObject;
use serde::Deserialize;

use crate::error::Error;
use crate::object::kind_of;

/// The objects of a file, or of all YAML files of a directory in name order.
pub fn read(path: &Path) -> Result<Vec<(PathBuf, DynamicObject)>, Error> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(Error::file(path))? {
            let file = entry.map_err(Error::file(path))?.path();
            if file.extension().is_some_and(|extension| {
                extension == "yaml" || extension == "yml" || extension == "json"
            }) {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.into());
    }
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(Error::file(&file))?;
        for object in documents(&file, &text)? {
            objects.push((file.clone(), object));
        }
    }
    if objects.is_empty() {
        return Err(Error::Manifest {
            path: path.into(),
            reason: "holds no object; give a file or directory with manifests".into(),
        });
    }
    Ok(objects)
}

fn documents(file: &Path, text: &str) -> Result<Vec<DynamicObject>, Error> {
    let refuse = |reason: String| Error::Manifest {
        path: file.into(),
        reason,
    };
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value =
            serde_json::Value::deserialize(document).map_err(|error| refuse(error.to_string()))?;
        if value.is_null() {
            continue;
        }
        let object: DynamicObject = serde_json::from_value(value).map_err(|error| {
            refuse(format!(
                "an object needs apiVersion, kind and metadata: {error}"
            ))
        })?;
        let Some(types) = object.types.clone() else {
            return Err(refuse("an object needs apiVersion and kind".into()));
        };
        if types.api_version.starts_with(bessemer_api::GROUP) && kind_of(&types.kind).is_none() {
            return Err(refuse(format!(
                "kind {} is none of {}",
                types.kind,
                bessemer_api::Kind::ALL.map(|kind| kind.name()).join(", ")
            )));
        }
        if object.metadata.name.is_none() {
            return Err(refuse(format!("a {} has no metadata.name", types.kind)));
        }
        objects.push(object);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_are_read_and_mistakes_named() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: bessemer.dev/v1alpha1\nkind: Dataset\nmetadata: {name: b}\n";
        assert_eq!(documents(Path::new("f"), text).unwrap().len(), 2);
        for (text, reason) in [
            ("kind: X\nmetadata: {name: a}", "apiVersion"),
            (
                "apiVersion: bessemer.dev/v1alpha1\nkind: Datset\nmetadata: {name: b}",
                "none of Dataset",
            ),
            ("apiVersion: v1\nkind: A\nmetadata: {}", "metadata.name"),
            (": :", "f:"),
        ] {
            assert!(
                documents(Path::new("f"), text)
                    .unwrap_err()
                    .to_string()
                    .contains(reason),
                "{text}"
            );
        }
    }
}

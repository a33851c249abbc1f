//! Volumes of pods: owns their directories and keeps mounted ConfigMaps, Secrets and tokens
//! fresh. It must not start anything.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::Shared;
use super::environment::field;
use crate::controller::cache::Key;

type Files = BTreeMap<String, Vec<u8>>;

/// Directory of a pod's volume.
pub fn path(pod_directory: &Path, name: &str) -> PathBuf {
    pod_directory.join("volumes").join(name)
}

/// Writes every volume of the pod; called again whenever a source may have changed. Tokens
/// are fetched only when `tokens` is set.
///
/// # Errors
/// A sentence that names what is missing (event FailedMount).
pub async fn mount(
    shared: &Shared,
    pod: &Pod,
    directory: &Path,
    ip: &str,
    tokens: bool,
) -> Result<(), String> {
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let at = path(directory, &volume.name);
        fs::create_dir_all(&at)
            .map_err(|e| format!("volume {}: cannot create its directory: {e}", volume.name))?;
        let files = content(shared, pod, volume, ip, tokens).await?;
        if let Some((files, keep)) = files {
            write(&at, &files, keep)
                .map_err(|e| format!("volume {}: cannot write: {e}", volume.name))?;
        }
    }
    Ok(())
}

/// Whether the pod mounts a projected token.
pub fn has_token(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let sources = volumes
        .flat_map(|v| v.projected.iter())
        .flat_map(|p| p.sources.iter().flatten());
    sources
        .into_iter()
        .any(|s| s.service_account_token.is_some())
}

/// The files a volume shall hold, and whether others stay; None for a directory of the pod's own.
async fn content(
    shared: &Shared,
    pod: &Pod,
    volume: &Volume,
    ip: &str,
    tokens: bool,
) -> Result<Option<(Files, bool)>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let key = |name: &str| Key {
        namespace: namespace.clone(),
        name: name.to_owned(),
    };
    if let Some(source) = &volume.config_map {
        let map = shared.config_maps.get(&key(&source.name));
        let files = from_map(
            map.as_deref(),
            &source.name,
            source.items.as_deref(),
            source.optional,
        )?;
        return Ok(Some((files, false)));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let secret = shared.secrets.get(&key(&name));
        let files = from_secret(
            secret.as_deref(),
            &name,
            source.items.as_deref(),
            source.optional,
        )?;
        return Ok(Some((files, false)));
    }
    if let Some(source) = &volume.downward_api {
        return Ok(Some((downward(pod, ip, source.items.as_deref())?, false)));
    }
    if let Some(projected) = &volume.projected {
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                files.extend(from_map(
                    shared.config_maps.get(&key(&s.name)).as_deref(),
                    &s.name,
                    s.items.as_deref(),
                    s.optional,
                )?);
            }
            if let Some(s) = &source.secret {
                files.extend(from_secret(
                    shared.secrets.get(&key(&s.name)).as_deref(),
                    &s.name,
                    s.items.as_deref(),
                    s.optional,
                )?);
            }
            if let Some(s) = &source.downward_api {
                files.extend(downward(pod, ip, s.items.as_deref())?);
            }
            if let Some(s) = source.service_account_token.as_ref().filter(|_| tokens) {
                files.insert(s.path.clone(), token(shared, pod, s).await?.into_bytes());
            }
        }
        return Ok(Some((files, !tokens)));
    }
    if volume.empty_dir.is_some() {
        return Ok(None);
    }
    Err(format!(
        "volume {}: the local node has configMap, secret, projected, downwardAPI and emptyDir volumes",
        volume.name
    ))
}

fn select(all: Files, items: Option<&[KeyToPath]>, what: &str) -> Result<Files, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all);
    };
    let pick = |item: &KeyToPath| {
        let value = all.get(&item.key).cloned();
        value
            .map(|v| (item.path.clone(), v))
            .ok_or_else(|| format!("{what} has no key {}", item.key))
    };
    items.iter().map(pick).collect()
}

fn from_map(
    map: Option<&ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let Some(map) = map else {
        return if optional == Some(true) {
            Ok(Files::new())
        } else {
            Err(format!("configmap \"{name}\" not found"))
        };
    };
    let mut all: Files = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
        .collect();
    all.extend(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone())),
    );
    select(all, items, &format!("configmap \"{name}\""))
}

fn from_secret(
    secret: Option<&Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files, String> {
    let Some(secret) = secret else {
        return if optional == Some(true) {
            Ok(Files::new())
        } else {
            Err(format!("secret \"{name}\" not found"))
        };
    };
    let all = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()))
        .collect();
    select(all, items, &format!("secret \"{name}\""))
}

fn downward(pod: &Pod, ip: &str, items: Option<&[DownwardAPIVolumeFile]>) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items.unwrap_or_default() {
        let path = item
            .field_ref
            .as_ref()
            .map(|f| f.field_path.as_str())
            .unwrap_or_default();
        let value = field(pod, ip, path).ok_or_else(|| format!("field {path} is not supported"))?;
        files.insert(item.path.clone(), value.into_bytes());
    }
    Ok(files)
}

async fn token(
    shared: &Shared,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
) -> Result<String, String> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone());
    let account = account
        .filter(|a| !a.is_empty())
        .unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: wanted.audience.iter().cloned().collect(),
            expiration_seconds: wanted.expiration_seconds.or(Some(3600)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.uid(),
            }),
        },
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> =
        Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let answer = api
        .create_token_request(&account, &PostParams::default(), &request)
        .await;
    let answer = answer.map_err(|e| format!("no token for service account {account}: {e}"))?;
    Ok(answer.status.map(|s| s.token).unwrap_or_default())
}

/// Brings a directory to hold exactly `files` (or at least, with `keep`), each replaced whole.
fn write(at: &Path, files: &Files, keep: bool) -> std::io::Result<()> {
    for (name, bytes) in files {
        let plain = Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if !plain {
            return Err(std::io::Error::other(format!(
                "path {name} leaves the volume"
            )));
        }
        let path = at.join(name);
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = path.with_file_name(format!(
            "..{}",
            path.file_name().unwrap_or_default().to_string_lossy()
        ));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &path)?;
    }
    if keep {
        return Ok(());
    }
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = files
            .keys()
            .any(|f| *f == name || f.starts_with(&format!("{name}/")));
        if !wanted && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_follows_its_source_and_is_never_left() {
        let root = tempfile::tempdir().unwrap();
        let files = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
                .collect::<Files>()
        };
        write(root.path(), &files(&[("a", "1"), ("d/b", "2")]), false).unwrap();
        write(root.path(), &files(&[("d/b", "3")]), false).unwrap();
        assert!(!root.path().join("a").exists());
        assert_eq!(fs::read(root.path().join("d/b")).unwrap(), b"3");
        assert!(write(root.path(), &files(&[("../out", "x")]), false).is_err());
    }
}

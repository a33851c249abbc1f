//! Environment and arguments of containers: owns `valueFrom`, `$(VAR)`, mount paths and the names of a pod's peers.
//! It must not touch files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use kube::ResourceExt;

use super::Shared;
use crate::controller::cache::Key;

/// Where the pod's mounts really are, longest mount path first.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Vec<(String, PathBuf)>);

impl Mounts {
    /// From pairs of mount path and real path.
    pub fn new(mut pairs: Vec<(String, PathBuf)>) -> Self {
        pairs.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self(pairs)
    }

    /// Replaces a mount path at the begin of `text`, or after the `=` of a flag.
    pub fn rewrite(&self, text: &str) -> String {
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => (format!("{flag}="), value),
            _ => (String::new(), text),
        };
        for (path, real) in &self.0 {
            let Some(rest) = value.strip_prefix(path.as_str()) else {
                continue;
            };
            if rest.is_empty() || rest.starts_with('/') {
                return format!("{flag}{}{rest}", real.display());
            }
        }
        text.to_owned()
    }
}

/// Replaces `$(NAME)` by its value; `$$(NAME)` stays `$(NAME)`, unknown names stay as they are.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let name = from
            .strip_prefix("$(")
            .and_then(|tail| tail.split_once(')'));
        if let Some(tail) = from.strip_prefix("$$") {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = name {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

/// A field of the pod as the downward API names it.
pub fn field(pod: &Pod, ip: &str, path: &str) -> Option<String> {
    let keyed = |map: &BTreeMap<String, String>, prefix: &str| {
        let key = path
            .strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    let lines = |map: &BTreeMap<String, String>| {
        map.iter()
            .map(|(k, v)| format!("{k}={v:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        "metadata.labels" => Some(lines(pod.labels())),
        "metadata.annotations" => Some(lines(pod.annotations())),
        "status.podIP" | "status.podIPs" => Some(ip.to_owned()),
        "status.hostIP" | "status.hostIPs" => Some("127.0.0.1".to_owned()),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        _ => keyed(pod.labels(), "metadata.labels")
            .or_else(|| keyed(pod.annotations(), "metadata.annotations")),
    }
}

/// The container's own variables, without those of the agent.
///
/// # Errors
/// A sentence that names what is missing (reason CreateContainerConfigError).
pub fn build(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    ip: &str,
    mounts: &Mounts,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut all = BTreeMap::new();
    if pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true)
    {
        links(shared, &namespace, &mut all);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            match shared.config_maps.get(&Key {
                namespace: namespace.clone(),
                name: wanted.name.clone(),
            }) {
                Some(map) => all.extend(
                    map.data
                        .clone()
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(k, v)| (format!("{prefix}{k}"), v)),
                ),
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", wanted.name)),
            }
        }
        if let Some(wanted) = &source.secret_ref {
            match shared.secrets.get(&Key {
                namespace: namespace.clone(),
                name: wanted.name.clone(),
            }) {
                Some(secret) => all.extend(
                    secret
                        .data
                        .clone()
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(k, v)| {
                            (
                                format!("{prefix}{k}"),
                                String::from_utf8_lossy(&v.0).into_owned(),
                            )
                        }),
                ),
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", wanted.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &all)),
            (None, Some(source)) => from(shared, pod, source, ip, &namespace)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all
        .into_iter()
        .map(|(name, value)| (name, shared.addresses.resolve(pod, mounts.rewrite(&value))))
        .collect())
}

fn from(
    shared: &Shared,
    pod: &Pod,
    source: &EnvVarSource,
    ip: &str,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(wanted) = &source.field_ref {
        let value = field(pod, ip, &wanted.field_path);
        return value
            .map(Some)
            .ok_or_else(|| format!("field {} is not supported", wanted.field_path));
    }
    let key = |name: &str| Key {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some(wanted) = &source.config_map_key_ref {
        let map = shared.config_maps.get(&key(&wanted.name));
        let value = map.and_then(|m| m.data.as_ref()?.get(&wanted.key).cloned());
        return match value {
            None if wanted.optional != Some(true) => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                wanted.key, wanted.name
            )),
            value => Ok(value),
        };
    }
    if let Some(wanted) = &source.secret_key_ref {
        let secret = shared.secrets.get(&key(&wanted.name));
        let value = secret.and_then(|s| s.data.as_ref()?.get(&wanted.key).cloned());
        return match value {
            None if wanted.optional != Some(true) => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                wanted.key, wanted.name
            )),
            value => Ok(value.map(|v| String::from_utf8_lossy(&v.0).into_owned())),
        };
    }
    Err("a resourceFieldRef is not supported by the local node".to_owned())
}

/// `{SVCNAME}_SERVICE_HOST` and `_PORT` of the namespace's services.
fn links(shared: &Shared, namespace: &str, all: &mut BTreeMap<String, String>) {
    for service in shared.services.namespaced(namespace) {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec
            .cluster_ip
            .as_ref()
            .filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let name = service.name_any().to_uppercase().replace('-', "_");
        all.insert(format!("{name}_SERVICE_HOST"), ip.clone());
        if let Some(port) = spec.ports.iter().flatten().next() {
            all.insert(format!("{name}_SERVICE_PORT"), port.port.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn mount_paths_are_replaced_whole_and_longest_first() {
        let mounts = Mounts::new(vec![
            ("/etc".into(), "/p/etc".into()),
            ("/etc/bessemer".into(), "/p/config".into()),
        ]);
        for (text, expected) in [
            ("/etc/bessemer/run.json", "/p/config/run.json"),
            ("/etc/bessemer-keys", "/p/etc/bessemer-keys"),
            (
                "--config=/etc/bessemer/run.json",
                "--config=/p/config/run.json",
            ),
            ("/etcetera", "/etcetera"),
            ("http://x/etc", "http://x/etc"),
        ] {
            assert_eq!(mounts.rewrite(text), expected, "{text}");
        }
    }
}

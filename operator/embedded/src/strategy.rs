//! Owns what the API server does to each kind before a write: cleared status, defaults, generation; must not validate.

mod initial;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom;
use crate::handler::{Core, Part};
use crate::object;
use crate::registry::Resource;
use crate::schema;
use crate::status::Failure;

/// Fills in defaults; `status` goes where it is a subresource. What is set here counts as set by
/// the client, as in the API server, where defaulting is part of decoding.
pub fn default_new(resource: &Resource, value: &mut Value) {
    if resource.custom {
        schema::default::apply(resource.schema.root(), value);
    } else {
        initial::defaults(resource, value);
    }
    if resource.status {
        object::remove(value, &["status"]);
    }
    if resource.table == "namespaces" {
        name_label(value);
    }
}

/// Selectors find a namespace by this label; it counts as the creator's field.
fn name_label(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    object::set(
        namespace,
        &["metadata", "labels", "kubernetes.io/metadata.name"],
        name.into(),
    );
}

/// Completes a new object with what the server itself gives it.
///
/// # Errors
/// When an address cannot be given out.
pub fn create(
    core: &mut Core,
    resource: &Resource,
    value: &mut Value,
    now: Timestamp,
) -> Result<(), Failure> {
    if resource.custom {
        // A default of `status` shows from the start and is nobody's: the API server fills it in as it reads its storage.
        schema::default::apply(resource.schema.root(), value);
        return Ok(());
    }
    match resource.table.as_str() {
        "pods" => {
            let class = initial::quality_of_service(value);
            object::set(
                value,
                &["status"],
                json!({"phase": "Pending", "qosClass": class}),
            );
            initial::admit_pod(value);
        }
        "services" => allocate_address(core, value)?,
        "namespaces" => {
            object::set(value, &["status"], json!({"phase": "Active"}));
            object::set(value, &["spec"], json!({"finalizers": ["kubernetes"]}));
        }
        custom::TABLE => custom::establish(value, now),
        "jobs.batch" => initial::job_selector(value),
        _ if resource.status => object::set(value, &["status"], initial::empty_status(resource)),
        _ => {}
    }
    initial::defaults(resource, value);
    Ok(())
}

/// Gives a Service its clusterIP.
fn allocate_address(core: &Core, value: &mut Value) -> Result<(), Failure> {
    object::set(value, &["status"], json!({"loadBalancer": {}}));
    let kind = object::text(value, &["spec", "type"]).to_owned();
    let given = object::text(value, &["spec", "clusterIP"]).to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let address = if given.is_empty() {
        let taken: Vec<&str> = core
            .state
            .list("services", "")
            .map(|s| object::text(s, &["spec", "clusterIP"]))
            .collect();
        let [a, b, ..] = core.service_network.octets();
        // .0.0 is the network and .0.1 the API server's own service, as in a cluster.
        (2..u16::MAX)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                std::net::Ipv4Addr::new(a, b, high, low).to_string()
            })
            .find(|address| !taken.contains(&address.as_str()))
            .ok_or_else(|| Failure::internal("no free service address is left"))?
    } else {
        given
    };
    object::set(value, &["spec", "clusterIP"], address.clone().into());
    object::set(value, &["spec", "clusterIPs"], json!([address]));
    object::set(value, &["spec", "ipFamilies"], json!(["IPv4"]));
    object::set(value, &["spec", "ipFamilyPolicy"], "SingleStack".into());
    Ok(())
}

/// Completes an object that replaces `old`.
///
/// # Errors
/// As `create`.
pub fn update(
    core: &mut Core,
    resource: &Resource,
    part: Part,
    old: &Value,
    new: &mut Value,
) -> Result<(), Failure> {
    match part {
        Part::Main => {
            if resource.status {
                keep(old, new, "status");
            }
            if resource.custom {
                schema::default::apply(resource.schema.root(), new);
            } else {
                initial::defaults(resource, new);
            }
            match resource.table.as_str() {
                "services" => {
                    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                        if object::at(new, &["spec", field]).is_none()
                            && let Some(value) = object::at(old, &["spec", field])
                        {
                            object::set(new, &["spec", field], value.clone());
                        }
                    }
                    let _ = core;
                }
                "namespaces" => {
                    keep(old, new, "spec");
                    name_label(new);
                }
                _ => {}
            }
        }
        Part::Status => {
            let status = new.get("status").cloned();
            let given = new.get("metadata").cloned().unwrap_or_default();
            *new = old.clone();
            match status {
                Some(status) => object::set(new, &["status"], status),
                None => drop(object::remove(new, &["status"])),
            }
            if let Some(entries) = given.get("managedFields") {
                object::metadata(new).insert("managedFields".into(), entries.clone());
            }
            if resource.custom {
                schema::default::apply(resource.schema.root(), new);
            } else {
                initial::condition_times(resource, new);
            }
            if resource.table == "pods" {
                let class = initial::quality_of_service(new);
                object::set(new, &["status", "qosClass"], class.into());
            }
        }
        Part::Named(_) => {}
    }
    Ok(())
}

fn keep(old: &Value, new: &mut Value, field: &str) {
    match old.get(field) {
        Some(value) => object::set(new, &[field], value.clone()),
        None => drop(object::remove(new, &[field])),
    }
}

/// Whether PUT of an object that does not exist makes it.
#[must_use]
pub fn creates_on_update(resource: &Resource) -> bool {
    matches!(
        resource.table.as_str(),
        "leases.coordination.k8s.io" | "endpoints" | "events" | "limitranges"
    )
}

/// Whether an update without resourceVersion is refused.
#[must_use]
pub fn needs_version(resource: &Resource) -> bool {
    resource.custom
        || matches!(
            resource.table.as_str(),
            "leases.coordination.k8s.io"
                | "customresourcedefinitions.apiextensions.k8s.io"
                | "poddisruptionbudgets.policy"
        )
}

/// Whether the change from `old` to `new` is one of the desired state.
#[must_use]
pub fn bumps_generation(resource: &Resource, part: Part, old: &Value, new: &Value) -> bool {
    if part == Part::Status {
        return false;
    }
    if resource.custom || resource.table == "endpointslices.discovery.k8s.io" {
        let rest = |value: &Value| -> Value {
            let mut copy = value.clone();
            let map = object::map(&mut copy);
            map.remove("metadata");
            if resource.status {
                map.remove("status");
            }
            copy
        };
        rest(old) != rest(new)
    } else {
        old.get("spec") != new.get("spec")
    }
}

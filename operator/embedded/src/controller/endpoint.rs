//! EndpointSlices: owns which pods stand behind a Service.
//! It must not decide where traffic goes; whoever reads the slices does.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};

use super::action::{Action, encode, resource};
use super::job::Plan;
use super::replicaset::ready_since;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// One slice per Service with a selector: it holds every pod with an address.
pub fn plan(service: &Service, pods: &[Arc<Pod>], slice: Option<&EndpointSlice>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &service.spec else {
        return plan;
    };
    let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
        return plan;
    };
    if service.metadata.deletion_timestamp.is_some()
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return plan;
    }
    let all = spec.publish_not_ready_addresses == Some(true);
    let chosen = pods
        .iter()
        .filter(|p| selector.iter().all(|(k, v)| p.labels().get(k) == Some(v)));
    let mut chosen: Vec<&Arc<Pod>> = chosen.collect();
    chosen.sort_by_key(|p| p.name_any());
    let endpoints: Vec<Endpoint> = chosen.iter().filter_map(|p| endpoint(p, all)).collect();
    let ports: Vec<EndpointPort> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let number = match port.target_port.as_ref() {
                Some(IntOrString::Int(n)) => *n,
                Some(IntOrString::String(name)) => named_port(chosen.first()?, name)?,
                None => port.port,
            };
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    let mut wanted = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(service.name_any()),
            namespace: service.namespace(),
            labels: Some(
                [
                    (SERVICE.to_owned(), service.name_any()),
                    (
                        MANAGED_BY.to_owned(),
                        "endpointslice-controller.k8s.io".to_owned(),
                    ),
                ]
                .into(),
            ),
            owner_references: service.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".into(),
        endpoints,
        ports: (!ports.is_empty()).then_some(ports),
    };
    match slice {
        None => plan.actions.push(Action::Create(
            resource::<EndpointSlice>(),
            Box::new(encode(&wanted)),
        )),
        Some(live) if live.endpoints != wanted.endpoints || live.ports != wanted.ports => {
            wanted.metadata.resource_version = live.resource_version();
            wanted.metadata.uid = live.uid();
            plan.actions.push(Action::Replace(
                resource::<EndpointSlice>(),
                Box::new(encode(&wanted)),
            ));
        }
        Some(_) => {}
    }
    plan
}

fn named_port(pod: &Pod, name: &str) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .find(|p| p.name.as_deref() == Some(name))
        .map(|p| p.container_port)
}

fn endpoint(pod: &Pod, publish_not_ready: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let serving = ready_since(pod).is_some();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish_not_ready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod
            .spec
            .as_ref()
            .filter(|s| s.subdomain.is_some())
            .and_then(|s| s.hostname.clone()),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

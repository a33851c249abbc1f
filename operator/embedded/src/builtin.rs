//! Owns the table of built-in kinds; their behaviour lives in `strategy`, their shapes in the schema file.

use std::sync::Arc;

use crate::registry::{Dependents, Resource, Scale, api_version, dotted, qualified};
use crate::schema::{Definitions, Schema};

/// group, version, kind, plural, short names, flags, fields that can be selected on.
/// Flags: n namespaced, s status, c scale, g generation, a category all, r review, o dependents
/// are orphaned by default, d DELETE answers with the object.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const ROWS: &[Row] = &[
    ("", "v1", "Binding", "bindings", "", "nr", ""),
    ("", "v1", "ConfigMap", "configmaps", "cm", "n", ""),
    ("", "v1", "Endpoints", "endpoints", "ep", "n", ""),
    ("", "v1", "Event", "events", "ev", "n", EVENT_FIELDS),
    ("", "v1", "LimitRange", "limitranges", "limits", "n", ""),
    (
        "",
        "v1",
        "Namespace",
        "namespaces",
        "ns",
        "s",
        "status.phase",
    ),
    ("", "v1", "Node", "nodes", "no", "s", "spec.unschedulable"),
    (
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "pvc",
        "nsd",
        "",
    ),
    (
        "",
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        "pv",
        "sd",
        "",
    ),
    ("", "v1", "Pod", "pods", "po", "nsadg", POD_FIELDS),
    (
        "",
        "v1",
        "ResourceQuota",
        "resourcequotas",
        "quota",
        "nsd",
        "",
    ),
    ("", "v1", "Secret", "secrets", "", "n", "type"),
    (
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        "sa",
        "nd",
        "",
    ),
    (
        "",
        "v1",
        "Service",
        "services",
        "svc",
        "nsad",
        "spec.clusterIP,spec.type",
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd,crds",
        "sg",
        "",
    ),
    (
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        "",
        "n",
        "",
    ),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", "nsag", ""),
    (
        "apps",
        "v1",
        "Deployment",
        "deployments",
        "deploy",
        "nscag",
        "",
    ),
    (
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        "rs",
        "nscag",
        "status.replicas",
    ),
    (
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        "sts",
        "nscag",
        "",
    ),
    (
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "",
        "r",
        "",
    ),
    (
        "authentication.k8s.io",
        "v1",
        "TokenReview",
        "tokenreviews",
        "",
        "r",
        "",
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "",
        "r",
        "",
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "",
        "r",
        "",
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "",
        "r",
        "",
    ),
    ("batch", "v1", "CronJob", "cronjobs", "cj", "nsag", ""),
    (
        "batch",
        "v1",
        "Job",
        "jobs",
        "",
        "nsago",
        "status.successful",
    ),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "n", ""),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "",
        "ng",
        "",
    ),
    (
        "events.k8s.io",
        "v1",
        "Event",
        "events",
        "ev",
        "n",
        "regarding.kind,regarding.name,regarding.namespace,regarding.uid,reason,type",
    ),
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "netpol",
        "ng",
        "",
    ),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "pdb",
        "nsg",
        "",
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        "",
        "",
        "",
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        "",
        "",
        "",
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "Role",
        "roles",
        "",
        "n",
        "",
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        "rolebindings",
        "",
        "n",
        "",
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "pc",
        "g",
        "",
    ),
];

const POD_FIELDS: &str = "spec.nodeName,spec.restartPolicy,spec.schedulerName,spec.serviceAccountName,\
spec.hostNetwork,status.phase,status.podIP,status.nominatedNodeName";

const EVENT_FIELDS: &str = "involvedObject.kind,involvedObject.namespace,involvedObject.name,\
involvedObject.uid,involvedObject.apiVersion,involvedObject.resourceVersion,involvedObject.fieldPath,\
reason,reportingComponent,source,type";

/// The built-in resources.
#[must_use]
pub fn resources() -> Vec<Resource> {
    let definitions = Definitions::kubernetes();
    ROWS.iter().map(|row| resource(row, &definitions)).collect()
}

fn resource(row: &Row, definitions: &Arc<Definitions>) -> Resource {
    let (group, version, kind, plural, short, flags, fields) = *row;
    let flag = |c: char| flags.contains(c);
    let words = |text: &str| -> Vec<String> {
        text.split(',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    // Core and events.k8s.io events are one store; the core form is the stored one.
    let event = kind == "Event";
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: words(short),
        categories: if flag('a') {
            vec!["all".to_owned()]
        } else {
            Vec::new()
        },
        namespaced: flag('n'),
        status: flag('s'),
        scale: flag('c').then(|| Scale {
            spec: dotted("spec.replicas"),
            status: dotted("status.replicas"),
            selector: None,
        }),
        generation: flag('g'),
        review: flag('r'),
        custom: false,
        table: if event {
            "events".to_owned()
        } else {
            qualified(plural, group)
        },
        storage_version: if event {
            "v1".to_owned()
        } else {
            api_version(group, version)
        },
        schema: Arc::new(Schema::named(definitions, group, version, kind)),
        columns: Vec::new(),
        selectable: words(fields),
        dependents: if flag('o') {
            Dependents::Orphan
        } else {
            Dependents::Delete
        },
        returns_deleted: flag('d'),
        warning: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_kind_has_a_schema() {
        for resource in resources() {
            assert!(
                resource.schema.root().property("kind").is_some(),
                "{} {} lacks a schema",
                resource.api_version(),
                resource.kind
            );
        }
    }
}

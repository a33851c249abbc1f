//! The pods of a Job: owns their names and what is added to the template.
//! It must not decide whether a pod is made.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::count::{INDEX, TRACKING, Tally};
use crate::controller::action::{child_name, short_hash};

/// The pod for `index` (-1: the Job is not indexed). The name follows from what is known of this
/// index, so the same decision taken twice from a stale cache makes one pod, even when the cache has
/// seen the pods of other indexes in between.
pub fn build(job: &Job, spec: &JobSpec, index: i32, tally: &Tally) -> Pod {
    let uid = job.uid().unwrap_or_default();
    let stem = if index >= 0 {
        format!("{}-{index}", job.name_any())
    } else {
        job.name_any()
    };
    let known = tally.names.iter().filter(|(of, _)| *of == index);
    let known: Vec<&str> = known.map(|(_, name)| name.as_str()).collect();
    let known = known.join(",");
    let mut suffix = short_hash(&[&uid, &index.to_string(), &tally.failed.to_string(), &known]);
    suffix.truncate(5);
    let template = &spec.template;
    let mut labels = template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    for prefix in ["batch.kubernetes.io/", ""] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone());
        labels.insert(format!("{prefix}job-name"), job.name_any());
    }
    let mut annotations = template
        .metadata
        .as_ref()
        .and_then(|m| m.annotations.clone())
        .unwrap_or_default();
    let mut pod_spec = template.spec.clone().unwrap_or_default();
    if index >= 0 {
        labels.insert(INDEX.to_owned(), index.to_string());
        annotations.insert(INDEX.to_owned(), index.to_string());
        pod_spec.hostname.get_or_insert(stem.clone());
        let initial = pod_spec.init_containers.iter_mut().flatten();
        initial.chain(&mut pod_spec.containers).for_each(tell_index);
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(child_name(&stem, &suffix)),
            namespace: job.namespace(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: job.controller_owner_ref(&()).map(|owner| vec![owner]),
            finalizers: Some(vec![TRACKING.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(pod_spec),
        status: None,
    }
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
        return;
    }
    env.push(EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

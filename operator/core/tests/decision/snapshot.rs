//! The bytes of plans: what each kind asks for, reviewed as text.

use std::collections::BTreeSet;

use bessemer_api::Kind as KindName;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};
use crate::fixture::{chain, dataset, pretrain};

/// The plan with digests of contents shortened by nothing: names and hashes are part of the contract.
fn show(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn first_plan_of_a_dataset() {
    let mut cluster = Cluster::new();
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    insta::assert_snapshot!(show(
        &cluster.think(&key(KindName::Dataset, "text")).unwrap()
    ));
}

#[test]
fn first_plan_of_a_pretrainjob_with_every_overlay() {
    let mut cluster = Cluster::new();
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.settle();
    let mut spec = pretrain(&["text"]);
    spec["queueName"] = json!("team");
    spec["activeDeadlineSeconds"] = json!(3600);
    spec["artifactPolicy"] = json!("Delete");
    spec["workers"] = json!({"replicas": 1, "gpus": 1});
    spec["resources"] = json!({"cpu": "4", "memory": "8Gi", "scratch": "20Gi"});
    spec["pod"] = json!({
        "nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "high", "runtimeClassName": "nvidia", "serviceAccountName": "trainer",
        "imagePullSecrets": ["registry"], "labels": {"team": "nlp", "bessemer.dev/name": "ours wins"},
        "annotations": {"note": "x"}, "env": [{"name": "A", "value": "1"}, {"name": "POD_IP", "value": "never"}]
    });
    cluster.apply(KindName::PretrainJob, "base", spec);
    insta::assert_snapshot!(show(
        &cluster.think(&key(KindName::PretrainJob, "base")).unwrap()
    ));
}

/// What an object of the chain asks for once its inputs are there.
fn first_plan_in_the_chain(kind: KindName, name: &str) -> String {
    let mut cluster = Cluster::new();
    chain(&mut cluster);
    let object = key(kind, name);
    let others: Vec<_> = cluster.objects.keys().cloned().collect();
    for _ in 0..100 {
        for other in others.iter().filter(|other| **other != object) {
            cluster.reconcile(other);
        }
        cluster.step();
        let plan = show(&cluster.think(&object).unwrap());
        if plan.contains("\"kind\": \"Job\"") {
            return plan;
        }
    }
    panic!("{object:?} asks for no Job");
}

#[test]
fn first_plan_of_a_finetune() {
    insta::assert_snapshot!(first_plan_in_the_chain(KindName::FineTune, "chat"));
}

#[test]
fn first_plan_of_an_evaluation() {
    insta::assert_snapshot!(first_plan_in_the_chain(KindName::Evaluation, "score"));
}

#[test]
fn objects_of_a_served_model() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    cluster.edit(&chain.served, |spec| {
        spec["auth"] = json!({"apiKeysSecretRef": {"name": "keys"}})
    });
    cluster.settle();
    let mut all: Vec<Value> = cluster.of_kind("Deployment").into_iter().cloned().collect();
    all.extend(
        cluster
            .of_kind("ConfigMap")
            .into_iter()
            .filter(|m| m["metadata"]["name"] == "mdeploy-served-router")
            .cloned(),
    );
    insta::assert_snapshot!(show(&all));
    insta::assert_snapshot!(show(&cluster.objects[&chain.served]["status"]));
}

#[test]
fn run_configurations_of_the_chain() {
    let mut cluster = Cluster::new();
    chain(&mut cluster);
    cluster.settle();
    let configs: Vec<Value> = cluster
        .of_kind("ConfigMap")
        .iter()
        .filter_map(|map| serde_json::from_str(map["data"]["run.json"].as_str()?).ok())
        .collect();
    insta::assert_snapshot!(show(&configs));
}

#[test]
fn the_installers_classes_fill_in_and_the_object_wins() {
    let classes = |spec: Value| {
        let mut cluster = Cluster::new();
        cluster.settings.pod_defaults.gpu_runtime_class = Some("nvidia".into());
        cluster.settings.pod_defaults.priority_class = Some("training".into());
        cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
        cluster.apply(KindName::PretrainJob, "base", spec);
        cluster.settle();
        let jobs = cluster.of_kind("Job");
        let job = jobs
            .iter()
            .find(|job| job["metadata"]["labels"]["bessemer.dev/name"] == "base");
        let pod = &job.unwrap()["spec"]["template"]["spec"];
        (
            pod["runtimeClassName"].clone(),
            pod["priorityClassName"].clone(),
        )
    };
    let mut spec = pretrain(&["text"]);
    assert_eq!(classes(spec.clone()), (Value::Null, json!("training")));
    spec["workers"] = json!({"replicas": 1, "gpus": 1});
    assert_eq!(classes(spec.clone()), (json!("nvidia"), json!("training")));
    spec["pod"] = json!({"priorityClassName": "high", "runtimeClassName": "own"});
    assert_eq!(classes(spec), (json!("own"), json!("high")));
}

/// Pod Security "restricted", as the admission plugin checks it.
#[test]
fn every_pod_is_restricted() {
    let mut cluster = Cluster::new();
    chain(&mut cluster);
    cluster.settle();
    let workloads: Vec<&Value> = cluster
        .of_kind("Job")
        .into_iter()
        .chain(cluster.of_kind("Deployment"))
        .collect();
    assert_eq!(workloads.len(), 7);
    for workload in workloads {
        let spec = &workload["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(spec["automountServiceAccountToken"], false);
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(spec[field].is_null());
        }
        for container in spec["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            assert_eq!(security["readOnlyRootFilesystem"], true);
        }
        for volume in spec["volumes"].as_array().unwrap() {
            let allowed = ["configMap", "emptyDir", "projected", "secret"];
            assert!(
                allowed.iter().any(|kind| !volume[kind].is_null()),
                "{volume}"
            );
        }
    }
}

/// Several ranks: names by a headless Service, and a disruption of one fails the Job, since the others would wait for it.
#[test]
fn several_ranks_fail_together() {
    let mut keys = BTreeSet::new();
    for ranks in [1, 4] {
        let mut cluster = Cluster::new();
        cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
        cluster.settle();
        let mut spec = pretrain(&["text"]);
        spec["parallelism"] = json!({"data": ranks});
        spec["workers"] = json!({"replicas": ranks});
        cluster.apply(KindName::PretrainJob, "base", spec);
        let object: bessemer_api::PretrainJob =
            crate::cluster::read(&cluster.objects[&key(KindName::PretrainJob, "base")]);
        let observed = bessemer_core::observe(
            &object,
            &cluster,
            bessemer_core::Facts::default(),
            cluster.time(),
        );
        let run = <bessemer_api::PretrainJob as bessemer_core::Kind>::resolve(
            &observed,
            &cluster.settings,
        )
        .unwrap();
        let identity = bessemer_core::run::Identity::new(run.run_key().unwrap(), None);
        assert!(
            keys.insert(identity.run_key.clone()),
            "ranks are part of a run's identity"
        );
        let rendered =
            bessemer_core::run::render(&object, &run, &identity, 0, 0, &cluster.settings);
        let rules = rendered.job["spec"]["podFailurePolicy"]["rules"]
            .as_array()
            .unwrap();
        assert_eq!(rendered.job["spec"]["completions"], ranks);
        assert_eq!(rendered.service.is_some(), ranks > 1);
        assert_eq!(rules.len(), if ranks > 1 { 1 } else { 2 });
        let subdomain = &rendered.job["spec"]["template"]["spec"]["subdomain"];
        assert_eq!(subdomain.is_string(), ranks > 1);
        if let Some(service) = rendered.service {
            assert_eq!(
                (
                    service["spec"]["clusterIP"].as_str(),
                    &service["metadata"]["name"]
                ),
                (Some("None"), subdomain)
            );
            insta::assert_snapshot!(show(&[service, rendered.job]));
        }
    }
}

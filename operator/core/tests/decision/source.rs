//! Sources with keys, consent and subjects: what reaches the worker, and by which way.

use bessemer_api::Kind as KindName;
use bessemer_protocol::{RunConfig, Task};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};
use crate::fixture::dataset;

fn spec() -> Value {
    let mut spec = dataset("Pretraining");
    spec["sources"] = json!([
        {"name": "plain", "uri": "s3://ours/text"},
        {
            "name": "mail-archive", "uri": "s3://theirs/mails", "format": "Jsonl",
            "credentialsSecretRef": {"name": "their-keys"}, "consent": "contract", "subjectField": "sender"
        }
    ]);
    spec["clean"] = json!({"language": {"code": "deu", "minScore": 0.8}});
    spec
}

/// Applies one Dataset and returns its ConfigMap and Job.
fn rendered(spec: Value) -> (Value, Value) {
    let mut cluster = Cluster::new();
    cluster.apply(KindName::Dataset, "x", spec);
    while cluster.of_kind("Job").is_empty() {
        cluster.reconcile(&key(KindName::Dataset, "x"));
    }
    let first = |kind| cluster.of_kind(kind)[0].clone();
    (first("ConfigMap"), first("Job"))
}

fn config(map: &Value) -> RunConfig {
    serde_json::from_str(map["data"]["run.json"].as_str().unwrap()).unwrap()
}

#[test]
fn keys_of_a_source_come_from_its_secret_and_nothing_else_names_it() {
    let (map, job) = rendered(spec());
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let own: Vec<&Value> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|variable| variable.to_string().contains("their-keys"))
        .collect();
    let found: Vec<(&str, bool)> = own
        .iter()
        .map(|variable| {
            let from = &variable["valueFrom"]["secretKeyRef"];
            let name = variable["name"].as_str().unwrap();
            let key = name.strip_prefix("BESSEMER_SOURCE_MAIL_ARCHIVE_").unwrap();
            assert_eq!(
                (&from["name"], &from["key"]),
                (&json!("their-keys"), &json!(key))
            );
            (key, from["optional"].as_bool().unwrap())
        })
        .collect();
    // A missing Secret or key of these two holds the pod with reason ContainerConfigInvalid and the kubelet's sentence.
    assert_eq!(
        found,
        [
            ("AWS_ACCESS_KEY_ID", false),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("AWS_SESSION_TOKEN", true),
            ("AWS_REGION", true),
            ("AWS_ENDPOINT_URL", true),
        ]
    );
    assert_eq!(job.to_string().matches("their-keys").count(), found.len());
    assert!(!map.to_string().contains("their-keys"));
    let Task::Prepare(task) = config(&map).task else {
        panic!("a Dataset is prepared");
    };
    assert!(!task.sources[0].own_keys && task.sources[1].own_keys);
    assert_eq!(task.sources[1].consent.as_deref(), Some("contract"));
    assert_eq!(task.sources[1].subject_field.as_deref(), Some("sender"));
    let language = task.clean.language.unwrap();
    assert_eq!((language.code.as_str(), language.min_score), ("deu", 0.8));
}

#[test]
fn consent_subject_and_language_are_part_of_the_run() {
    let run_key = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec();
        change(&mut spec);
        config(&rendered(spec).0).run.run_key
    };
    let as_it_is = run_key(&|_| {});
    assert_eq!(as_it_is, run_key(&|_| {}));
    for (pointer, value) in [
        ("/sources/1/consent", json!("opt-in")),
        ("/sources/1/subjectField", json!("recipient")),
        ("/clean/language/code", json!("fra")),
        ("/clean/language/minScore", json!(0.9)),
    ] {
        assert_ne!(
            as_it_is,
            run_key(&|spec| *spec.pointer_mut(pointer).unwrap() = value.clone())
        );
    }
    // Another Secret with keys of the same store gives the same text.
    let other =
        |spec: &mut Value| spec["sources"][1]["credentialsSecretRef"]["name"] = json!("new");
    assert_eq!(as_it_is, run_key(&other));
}

#[test]
fn a_missing_secret_or_key_is_waited_for_in_the_kubelets_words() {
    let mut cluster = Cluster::new();
    let object = key(KindName::Dataset, "x");
    cluster.apply(KindName::Dataset, "x", spec());
    while cluster.of_kind("Pod").is_empty() {
        cluster.reconcile(&object);
        cluster.step();
    }
    let sentence = "couldn't find key AWS_ACCESS_KEY_ID in Secret default/their-keys";
    let (at, mut pod) = {
        let (at, pod) = cluster
            .children
            .iter()
            .find(|((kind, _), _)| kind == "Pod")
            .unwrap();
        (at.clone(), pod.clone())
    };
    let held = json!([{"name": "worker", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": sentence}}}]);
    pod["status"] = json!({"phase": "Pending", "containerStatuses": held});
    cluster.children.insert(at, pod);
    cluster.reconcile(&object);
    assert_eq!(cluster.reason(&object), "ContainerConfigInvalid");
    let message = cluster.message(&object);
    assert!(
        message.starts_with(sentence)
            && message.ends_with("Check the Secrets and ConfigMaps that the pod names."),
        "{message}"
    );
    cluster.settle();
    assert_eq!(
        cluster.reason(&object),
        "Complete",
        "it goes on when the Secret is there"
    );
}

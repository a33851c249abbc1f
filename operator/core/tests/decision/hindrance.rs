//! What keeps the pods of a run from starting, or from ending.

use serde_json::json;

use crate::cluster::Cluster;
use crate::fixture::chain;

#[test]
fn a_quota_that_refuses_pods_is_the_reason() {
    let words = "exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0";
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    cluster.quota = Some(words.into());
    cluster.reconcile(&chain.text);
    cluster.step();
    cluster.reconcile(&chain.text);
    assert_eq!(cluster.reason(&chain.text), "Starting");
    cluster.now += 10;
    cluster.reconcile(&chain.text);
    assert_eq!(cluster.reason(&chain.text), "PodRefused");
    assert!(cluster.message(&chain.text).contains(words));
    cluster.quota = None;
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");

    cluster.quota = Some(words.into());
    cluster.edit(&chain.served, |spec| spec["replicas"] = json!(2));
    cluster.reconcile(&chain.served);
    cluster.step();
    cluster.reconcile(&chain.served);
    assert!(
        cluster.message(&chain.served).contains(words),
        "{}",
        cluster.message(&chain.served)
    );
}

#[test]
fn work_on_a_node_that_does_not_answer_goes_on_elsewhere() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    for _ in 0..2 {
        cluster.reconcile(&chain.text);
        cluster.step();
    }
    cluster.reconcile(&chain.text);
    assert_eq!(cluster.reason(&chain.text), "Running");
    let job = cluster.of_kind("Job")[0]["metadata"]["name"].clone();
    let time = cluster.time().to_string();
    for ((kind, _), child) in &mut cluster.children {
        if kind == "Pod" {
            child["metadata"]["deletionTimestamp"] = json!(time);
        }
    }
    // It may end yet.
    cluster.now += 59;
    cluster.reconcile(&chain.text);
    assert_eq!(cluster.reason(&chain.text), "Running");
    assert_eq!(cluster.of_kind("Job")[0]["metadata"]["name"], job);
    cluster.now += 1;
    cluster.reconcile(&chain.text);
    assert_eq!(cluster.reason(&chain.text), "NodeLost");
    assert!(cluster.message(&chain.text).contains("-0-x"));
    assert!(cluster.of_kind("Job").is_empty());
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
    let status = &cluster.objects[&chain.text]["status"];
    assert_eq!(status["attempts"], 2);
}

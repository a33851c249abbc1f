//! Runs: caching, attempts, retries, deadlines, suspension, cleanup.

use bessemer_api::Kind as KindName;
use bessemer_core::Received;
use bessemer_protocol::{ProgressReport, Stage};
use serde_json::json;

use crate::cluster::{Cluster, End, key};
use crate::fixture::{chain, dataset, evaluation, pretrain};
use crate::kstatus::{Verdict, verdict};

#[test]
fn one_file_in_any_order_ends_with_a_served_model() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    cluster.settle();
    for key in [
        &chain.text,
        &chain.pairs,
        &chain.base,
        &chain.chat,
        &chain.score,
    ] {
        assert_eq!(
            cluster.reason(key),
            "Complete",
            "{key}: {}",
            cluster.message(key)
        );
    }
    assert_eq!(
        cluster.reason(&chain.served),
        "Serving",
        "{}",
        cluster.message(&chain.served)
    );
    assert_eq!(cluster.of_kind("Job").len(), 5);
    let writes = cluster.writes;
    cluster.settle();
    assert_eq!(
        cluster.writes, writes,
        "O8: nothing is written at the fixpoint"
    );
}

#[test]
fn the_first_write_says_that_work_goes_on() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    for key in [
        &chain.served,
        &chain.score,
        &chain.chat,
        &chain.base,
        &chain.pairs,
        &chain.text,
    ] {
        cluster.reconcile(key);
        assert_eq!(verdict(&cluster.objects[key]), Verdict::InProgress, "{key}");
    }
    assert_eq!(cluster.reason(&chain.text), "Starting");
    assert_eq!(cluster.reason(&chain.base), "DependencyNotReady");
}

#[test]
fn deleted_and_applied_again_finds_the_artefact_without_a_job() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.settle();
    let digest = cluster.objects[&text]["status"]["artifact"]["digest"].clone();
    cluster.delete(&text);
    cluster.settle();
    assert!(cluster.children.is_empty() && cluster.objects.is_empty());
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.reconcile(&text);
    assert_eq!(cluster.reason(&text), "Cached");
    assert_eq!(
        cluster.objects[&text]["status"]["artifact"]["digest"],
        digest
    );
    assert!(
        cluster.children.is_empty(),
        "no Job for what is there already"
    );
}

#[test]
fn what_has_run_is_not_starting_while_its_job_is_not_counted() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    for wanted in ["Starting", "Starting", "Running"] {
        cluster.reconcile(&text);
        assert_eq!(cluster.reason(&text), wanted);
        cluster.step();
    }
    // The pod has ended, its Job has no condition yet; at last the pod is gone before its Job says so.
    let uncounted = |cluster: &mut Cluster, kind: &str| {
        let found = cluster.children.iter_mut().find(|((k, _), _)| k == kind);
        found.map(|(at, value)| (at.clone(), value.take())).unwrap()
    };
    let (job_at, mut job) = uncounted(&mut cluster, "Job");
    let (pod_at, mut pod) = uncounted(&mut cluster, "Pod");
    for (phase, failed) in [("Succeeded", 0), ("Failed", 0), ("", 1)] {
        job["status"] = json!({"active": 1, "failed": failed});
        cluster.children.insert(job_at.clone(), job.clone());
        pod["status"] = json!({"phase": phase});
        cluster.children.insert(pod_at.clone(), pod.clone());
        if phase.is_empty() {
            cluster.children.remove(&pod_at);
        }
        cluster.reconcile(&text);
        assert_eq!(cluster.reason(&text), "Running", "{phase}");
    }
}

#[test]
fn retriable_failures_open_the_next_attempt_until_the_limit() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["retryLimit"] = json!(2);
    cluster.apply(KindName::Dataset, "text", spec);
    cluster.ends.insert(
        text.clone(),
        [
            End::Exit(75, String::new()),
            End::Exit(1, "out of luck".into()),
        ]
        .into(),
    );
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
    assert_eq!(cluster.objects[&text]["status"]["attempts"], 3);
    let attempts: Vec<_> = cluster
        .of_kind("Job")
        .iter()
        .map(|j| j["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(attempts.iter().all(|name| name.starts_with("dset-text-")) && attempts.len() == 3);
    assert!(attempts[2].ends_with("-2"));

    let other = key(KindName::Dataset, "other");
    let mut spec = dataset("Pretraining");
    spec["retryLimit"] = json!(1);
    spec["split"] = json!({"seed": 7});
    cluster.apply(KindName::Dataset, "other", spec);
    cluster.ends.insert(
        other.clone(),
        vec![End::Exit(70, r#"{"category":"Bug","message":"index 3 of 2"}"#.into()); 2].into(),
    );
    cluster.settle();
    assert_eq!(cluster.reason(&other), "RetriesExhausted");
    assert!(
        cluster.message(&other).contains("index 3 of 2"),
        "{}",
        cluster.message(&other)
    );
    assert_eq!(verdict(&cluster.objects[&other]), Verdict::Failed);
}

#[test]
fn disruptions_do_not_count() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["retryLimit"] = json!(0);
    cluster.apply(KindName::Dataset, "text", spec);
    cluster
        .ends
        .insert(text.clone(), vec![End::Disrupted; 5].into());
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
    assert_eq!(cluster.objects[&text]["status"]["attempts"], 6);
}

#[test]
fn terminal_exits_fail_at_once_with_the_workers_own_sentence() {
    for (code, reason) in [
        (64, "BadConfig"),
        (65, "BadData"),
        (66, "MissingInput"),
        (78, "Environment"),
    ] {
        let mut cluster = Cluster::new();
        let text = key(KindName::Dataset, "text");
        cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
        let told = r#"{"category":"X","message":"line 7 is no UTF-8","hint":"Convert the file."}"#;
        cluster
            .ends
            .insert(text.clone(), [End::Exit(code, told.into())].into());
        cluster.settle();
        assert_eq!(cluster.reason(&text), reason);
        assert!(
            cluster
                .message(&text)
                .starts_with("line 7 is no UTF-8. Convert the file."),
            "{}",
            cluster.message(&text)
        );
        assert_eq!(cluster.of_kind("Job").len(), 1);
        assert!(
            cluster
                .events
                .iter()
                .any(|(_, event)| event.warning && event.reason == reason)
        );
        // It stays so until someone acts: a new nonce runs again.
        cluster.edit(&text, |spec| spec["restartNonce"] = json!("1"));
        cluster.settle();
        assert_eq!(
            cluster.reason(&text),
            "Complete",
            "{}",
            cluster.message(&text)
        );
    }
}

#[test]
fn a_job_without_a_result_is_no_success() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.ends.insert(text.clone(), [End::Empty].into());
    cluster.settle();
    assert_eq!(cluster.reason(&text), "ResultMissing");
}

#[test]
fn a_result_counts_whatever_became_of_the_job() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.reconcile(&text);
    let map = cluster.of_kind("ConfigMap")[0]["data"]["run.json"]
        .as_str()
        .unwrap()
        .to_owned();
    cluster.commit(text.clone(), &serde_json::from_str(&map).unwrap());
    cluster
        .ends
        .insert(text.clone(), [End::Exit(137, String::new())].into());
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
    assert_eq!(cluster.objects[&text]["status"]["attempts"], 1);
}

#[test]
fn the_deadline_ends_a_run_and_its_job() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["activeDeadlineSeconds"] = json!(60);
    cluster.apply(KindName::Dataset, "text", spec);
    let plan = cluster.reconcile(&text).unwrap();
    assert!(plan.requeue.unwrap() <= 60);
    cluster.step();
    cluster.now += 59;
    cluster.reconcile(&text);
    assert_ne!(cluster.reason(&text), "DeadlineExceeded");
    cluster.now += 1;
    cluster.reconcile(&text);
    assert_eq!(cluster.reason(&text), "DeadlineExceeded");
    assert!(cluster.of_kind("Job").is_empty());
    cluster.settle();
    assert_eq!(
        cluster.reason(&text),
        "DeadlineExceeded",
        "a terminal state absorbs"
    );
}

#[test]
fn suspend_holds_the_job_and_resume_goes_on() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.reconcile(&text);
    cluster.step();
    cluster.edit(&text, |spec| spec["suspend"] = json!(true));
    cluster.reconcile(&text);
    assert_eq!(cluster.reason(&text), "Suspending");
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Suspended");
    assert_eq!(cluster.of_kind("Job")[0]["spec"]["suspend"], true);
    assert!(cluster.of_kind("Pod").is_empty());
    cluster.edit(&text, |spec| spec["suspend"] = json!(false));
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
    assert_eq!(
        cluster.objects[&text]["status"]["attempts"], 1,
        "the same Job went on"
    );
}

#[test]
fn under_kueue_suspension_of_the_job_is_not_ours() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["queueName"] = json!("team");
    cluster.apply(KindName::Dataset, "text", spec);
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Queued");
    let job = cluster.of_kind("Job")[0].clone();
    assert_eq!(job["spec"]["suspend"], true);
    assert_eq!(
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"],
        "team"
    );
    let at = (
        "Job".to_owned(),
        job["metadata"]["name"].as_str().unwrap().to_owned(),
    );
    cluster.children.get_mut(&at).unwrap()["spec"]["suspend"] = json!(false); // Kueue admits
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
}

#[test]
fn remains_go_after_the_ttl_and_nothing_runs_again() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["ttlSecondsAfterFinished"] = json!(30);
    cluster.apply(KindName::Dataset, "text", spec);
    cluster.settle();
    cluster.now += 31;
    cluster.settle();
    assert!(cluster.children.is_empty(), "{:?}", cluster.children.keys());
    assert_eq!(cluster.reason(&text), "Complete");
}

#[test]
fn a_changed_input_shows_in_a_finished_pretrainjob_and_opens_a_new_run_of_an_evaluation() {
    let mut cluster = Cluster::new();
    let (text, base, score) = (
        key(KindName::Dataset, "text"),
        key(KindName::PretrainJob, "base"),
        key(KindName::Evaluation, "score"),
    );
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.apply(KindName::PretrainJob, "base", pretrain(&["text"]));
    let mut spec = evaluation("PretrainJob", "base", "text");
    spec["suites"] = json!([{"name": "loss", "perplexity": {"datasetRef": {"name": "text"}}}]);
    cluster.apply(KindName::Evaluation, "score", spec);
    cluster.settle();
    let before = cluster.objects[&score]["status"]["artifact"]["digest"].clone();
    cluster.edit(&text, |spec| spec["split"] = json!({"seed": 5}));
    cluster.settle();
    assert_eq!(cluster.reason(&base), "Complete");
    assert_eq!(cluster.condition(&base, "InputsChanged").unwrap().0, "True");
    assert_eq!(cluster.reason(&score), "Complete");
    let after = cluster.objects[&score]["status"]["artifact"]["digest"].clone();
    assert_ne!(
        before, after,
        "the evaluation has scored on the new version"
    );
    cluster.edit(&base, |spec| spec["restartNonce"] = json!("again"));
    cluster.settle();
    assert!(cluster.condition(&base, "InputsChanged").is_none());
    assert_eq!(
        cluster.objects[&base]["status"]["inputs"][0]["digest"],
        cluster.objects[&text]["status"]["artifact"]["digest"]
    );
}

#[test]
fn a_run_under_way_keeps_its_inputs() {
    let mut cluster = Cluster::new();
    let (text, base) = (
        key(KindName::Dataset, "text"),
        key(KindName::PretrainJob, "base"),
    );
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.settle();
    cluster.apply(KindName::PretrainJob, "base", pretrain(&["text"]));
    cluster.reconcile(&base);
    let job = cluster.of_kind("Job").last().unwrap()["metadata"]["name"].clone();
    let old = cluster.objects[&text]["status"]["artifact"]["digest"].clone();
    cluster.edit(&text, |spec| spec["split"] = json!({"seed": 5}));
    cluster.settle();
    assert!(
        cluster
            .of_kind("Job")
            .iter()
            .any(|j| j["metadata"]["name"] == job)
    );
    assert_eq!(cluster.objects[&base]["status"]["inputs"][0]["digest"], old);
    assert!(cluster.condition(&base, "InputsChanged").is_some());
}

#[test]
fn artefacts_go_with_the_object_only_where_asked_and_unused() {
    let mut cluster = Cluster::new();
    let (text, base) = (
        key(KindName::Dataset, "text"),
        key(KindName::PretrainJob, "base"),
    );
    let mut spec = dataset("Pretraining");
    spec["artifactPolicy"] = json!("Delete");
    cluster.apply(KindName::Dataset, "text", spec.clone());
    cluster.apply(KindName::PretrainJob, "base", pretrain(&["text"]));
    cluster.settle();
    assert_eq!(
        cluster.objects[&text]["metadata"]["finalizers"][0],
        "bessemer.dev/artifacts"
    );
    cluster.delete(&text);
    cluster.settle();
    assert!(!cluster.objects.contains_key(&text), "P6");
    assert!(
        cluster.store.keys().any(|(key, _)| *key == text),
        "base still refers to it"
    );
    cluster.delete(&base);
    cluster.settle();
    assert!(
        cluster.store.keys().any(|(key, _)| *key == base),
        "Retain is the default"
    );
    cluster.apply(KindName::Dataset, "text", spec);
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Cached");
    cluster.delete(&text);
    cluster.settle();
    assert!(
        !cluster.store.keys().any(|(key, _)| *key == text),
        "nobody needs it any more"
    );
}

#[test]
fn what_is_deleted_at_once_leaves_nothing() {
    let mut cluster = Cluster::new();
    let (text, base) = (
        key(KindName::Dataset, "text"),
        key(KindName::PretrainJob, "base"),
    );
    let (mut source, mut run) = (dataset("Pretraining"), pretrain(&["text"]));
    source["artifactPolicy"] = json!("Delete");
    run["artifactPolicy"] = json!("Delete");
    cluster.apply(KindName::Dataset, "text", source);
    cluster.apply(KindName::PretrainJob, "base", run);
    cluster.settle();
    assert_eq!(cluster.store.len(), 2);
    cluster.delete(&text);
    cluster.delete(&base);
    assert!(
        cluster.objects.contains_key(&base),
        "its finalizer holds it"
    );
    cluster.settle();
    assert!(cluster.objects.is_empty() && cluster.store.is_empty());
}

#[test]
fn a_finalizer_that_cannot_work_gives_up_and_says_what_is_left() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    let mut spec = dataset("Pretraining");
    spec["artifactPolicy"] = json!("Delete");
    cluster.apply(KindName::Dataset, "text", spec);
    cluster.settle();
    cluster.store_down = true;
    cluster.delete(&text);
    cluster.reconcile(&text); // the Job goes first
    cluster.step();
    let plan = cluster.reconcile(&text).unwrap();
    assert!(plan.actions.is_empty() && plan.requeue.is_some());
    cluster.now += 600;
    let plan = cluster.think(&text).unwrap();
    assert!(
        plan.events[0]
            .message
            .contains("s3://models/root/default/dataset/text/"),
        "{:?}",
        plan.events
    );
    cluster.settle();
    assert!(!cluster.objects.contains_key(&text));
    assert!(!cluster.store.is_empty());
}

#[test]
fn the_store_being_away_is_told_and_waited_for() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.store_down = true;
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.settle();
    assert_eq!(cluster.reason(&text), "StorageUnavailable");
    assert!(
        cluster.children.is_empty(),
        "nothing is started before it is known what is there"
    );
    cluster.store_down = false;
    cluster.settle();
    assert_eq!(cluster.reason(&text), "Complete");
}

#[test]
fn paused_objects_are_observed_but_not_touched() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.annotate(&text, "bessemer.dev/paused", "true");
    let plan = cluster.think(&text).unwrap();
    assert!(plan.actions.is_empty() && plan.status.is_some());
}

#[test]
fn progress_is_coalesced_and_never_falls() {
    let mut cluster = Cluster::new();
    let text = key(KindName::Dataset, "text");
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    cluster.reconcile(&text);
    cluster.step();
    cluster.step();
    cluster.reconcile(&text);
    assert_eq!(cluster.reason(&text), "Running");
    let uid = cluster.objects[&text]["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let run_key = cluster.objects[&text]["status"]["runKey"]
        .as_str()
        .unwrap()
        .to_owned();
    let report = |cluster: &Cluster, percent: f64, loss: f64, run_key: &str| Received {
        at: cluster.time(),
        report: ProgressReport {
            namespace: "default".into(),
            kind: "Dataset".into(),
            name: "text".into(),
            uid: uid.clone(),
            run_key: run_key.into(),
            attempt: 0,
            stage: Stage::Reading,
            percent,
            step: 5,
            total_steps: 10,
            eta_seconds: Some(190.0),
            tokens_per_second: Some(f64::NAN),
            model_flops_utilization: Some(0.345_678_9),
            loss: Some(loss),
            validation_loss: None,
            checkpoint: None,
        },
    };
    let percent = |cluster: &Cluster| {
        cluster.objects[&text]["status"]["progress"]["percent"]
            .as_i64()
            .unwrap()
    };
    cluster
        .progress
        .insert(text.clone(), report(&cluster, 42.0, 2.5, &run_key));
    cluster.reconcile(&text);
    assert_eq!(percent(&cluster), 42);
    assert_eq!(
        cluster.objects[&text]["status"]["progress"]["summary"],
        "42% 3m10s"
    );
    assert!(
        cluster.objects[&text]["status"]["progress"]["tokensPerSecond"].is_null(),
        "not finite"
    );
    let told = &cluster.objects[&text]["status"]["progress"]["modelFlopsUtilization"];
    assert_eq!(told, 0.34568);
    cluster.now += 3;
    cluster
        .progress
        .insert(text.clone(), report(&cluster, 50.0, 2.4, &run_key));
    let writes = cluster.writes;
    let plan = cluster.reconcile(&text).unwrap();
    assert_eq!(
        (percent(&cluster), plan.requeue, cluster.writes),
        (42, Some(7), writes),
        "one write in 10 s"
    );
    cluster.now += 7;
    cluster.reconcile(&text);
    assert_eq!(percent(&cluster), 50);
    cluster.now += 20;
    cluster
        .progress
        .insert(text.clone(), report(&cluster, 10.0, 2.4, &run_key));
    cluster.reconcile(&text);
    assert_eq!(percent(&cluster), 50, "a late report of less");
    cluster.now += 20;
    cluster
        .progress
        .insert(text.clone(), report(&cluster, 90.0, 2.4, "another run"));
    cluster.reconcile(&text);
    assert_eq!(percent(&cluster), 50, "a report of another run");
    cluster.settle();
    assert_eq!(percent(&cluster), 100);
}

#[test]
fn gpu_hours_are_gpus_times_the_time_of_the_run() {
    for gpus in [0, 1] {
        let mut cluster = Cluster::new();
        cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
        let mut spec = pretrain(&["text"]);
        spec["workers"] = json!({"gpus": gpus});
        let base = key(KindName::PretrainJob, "base");
        cluster.apply(KindName::PretrainJob, "base", spec);
        loop {
            cluster.reconcile(&key(KindName::Dataset, "text"));
            cluster.reconcile(&base);
            if cluster.reason(&base) == "Running" {
                break;
            }
            cluster.step();
        }
        assert!(cluster.objects[&base]["status"]["gpuHours"].is_null());
        cluster.now += 5400;
        cluster.settle();
        let status = &cluster.objects[&base]["status"];
        let at =
            |field: &str| -> jiff::Timestamp { status[field].as_str().unwrap().parse().unwrap() };
        let seconds = at("completionTime").as_second() - at("startTime").as_second();
        assert!(seconds >= 5400, "{seconds}");
        let hours = status["gpuHours"].as_f64().unwrap();
        let wanted = f64::from(gpus) * seconds as f64 / 3600.0;
        assert!((hours - wanted).abs() < 1e-4, "{hours} {wanted}");
    }
}

/// What a later attempt runs with is what the first one ran with, but for its name.
#[test]
fn the_next_attempt_has_what_the_first_had() {
    let mut cluster = Cluster::new();
    cluster.apply(KindName::Dataset, "text", dataset("Pretraining"));
    let mut spec = pretrain(&["text"]);
    spec["workers"] = json!({"gpus": 1});
    let base = key(KindName::PretrainJob, "base");
    cluster.apply(KindName::PretrainJob, "base", spec);
    cluster
        .ends
        .insert(base.clone(), [End::Exit(75, String::new())].into());
    cluster.settle();
    assert_eq!(cluster.reason(&base), "Complete");
    let jobs = cluster.of_kind("Job");
    let pods: Vec<String> = jobs
        .iter()
        .filter(|job| job["metadata"]["labels"]["bessemer.dev/name"] == "base")
        .map(|job| {
            let attempt = &job["metadata"]["annotations"]["bessemer.dev/attempt"];
            let name = job["metadata"]["name"].as_str().unwrap();
            let mut pod = job["spec"]["template"].clone();
            // The span of an attempt is its own.
            let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
            env.retain(|one| one["name"] != "TRACEPARENT");
            assert_eq!(
                pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "1",
                "attempt {attempt}"
            );
            pod.to_string().replace(name, "NAME")
        })
        .collect();
    assert_eq!(pods.len(), 2);
    assert_eq!(pods[0], pods[1]);
}

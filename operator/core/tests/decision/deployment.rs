//! Promotion: gates, candidates, canary steps, abort, drain, rollback.

use bessemer_core::Key;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::fixture::{Chain, chain};
use crate::kstatus::{Verdict, verdict};

pub fn serving() -> (Cluster, Chain) {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
    (cluster, chain)
}

fn digest(cluster: &Cluster, key: &Key) -> String {
    cluster.objects[key]["status"]["artifact"]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn traffic(cluster: &Cluster, key: &Key) -> Vec<(String, i64)> {
    let all = cluster.objects[key]["status"]["traffic"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    all.iter()
        .map(|t| {
            (
                t["digest"].as_str().unwrap().to_owned(),
                t["percent"].as_i64().unwrap(),
            )
        })
        .collect()
}

/// What the router is told: (digest, weight) of each backend.
pub fn routed(cluster: &Cluster) -> Vec<(String, i64)> {
    let all = cluster.of_kind("ConfigMap");
    let Some(map) = all.iter().find(|map| {
        map["metadata"]["name"]
            .as_str()
            .unwrap()
            .ends_with("-router")
    }) else {
        return Vec::new();
    };
    let config: Value = serde_json::from_str(map["data"]["route.json"].as_str().unwrap()).unwrap();
    let backends = config["backends"].as_array().unwrap();
    backends
        .iter()
        .map(|b| {
            (
                b["digest"].as_str().unwrap().to_owned(),
                b["weight"].as_i64().unwrap(),
            )
        })
        .collect()
}

/// A new version of the tuned model; returns (old, new) digests.
pub fn retune(cluster: &mut Cluster, chain: &Chain) -> (String, String) {
    let old = digest(cluster, &chain.chat);
    cluster.edit(&chain.chat, |spec| spec["training"]["seed"] = json!(9));
    for _ in 0..20 {
        for key in [&chain.chat, &chain.score] {
            cluster.reconcile(key);
        }
        cluster.step();
    }
    let new = digest(cluster, &chain.chat);
    assert_ne!(old, new);
    (old, new)
}

#[test]
fn a_new_model_replaces_the_old_one_and_clears_it_away() {
    let (mut cluster, chain) = serving();
    let (old, new) = retune(&mut cluster, &chain);
    assert_eq!(routed(&cluster), [(old.clone(), 100)]);
    let mut seen = Vec::new();
    for _ in 0..12 {
        cluster.reconcile(&chain.served);
        seen.push(routed(&cluster));
        let whole: i64 = routed(&cluster).iter().map(|(_, weight)| weight).sum();
        assert_eq!(whole, 100, "no request is ever without a backend");
        cluster.step();
        cluster.now += 1;
    }
    assert!(
        seen.contains(&vec![(old.clone(), 0), (new.clone(), 100)]),
        "the old one drains: {seen:?}"
    );
    assert_eq!(routed(&cluster), [(new.clone(), 100)]);
    cluster.settle();
    let status = &cluster.objects[&chain.served]["status"];
    assert_eq!(traffic(&cluster, &chain.served), [(new.clone(), 100)]);
    assert_eq!(status["trafficSummary"], format!("100% {}", &new[..8]));
    assert!(
        status["previousRevision"].is_string()
            && status["url"].as_str().unwrap().starts_with("http://")
    );
    let names: Vec<_> = cluster
        .of_kind("Deployment")
        .iter()
        .map(|d| d["metadata"]["name"].clone())
        .collect();
    assert_eq!(names.len(), 2, "router and one revision: {names:?}");
}

#[test]
fn a_busy_revision_is_not_taken_away_before_its_answers_are_finished() {
    let (mut cluster, chain) = serving();
    let (old, _) = retune(&mut cluster, &chain);
    cluster.counters.insert(old.clone(), (10, 0, 3, None));
    for _ in 0..100 {
        cluster.reconcile(&chain.served);
        cluster.step();
        cluster.now += 1;
    }
    assert_eq!(cluster.reason(&chain.served), "Draining");
    assert_eq!(cluster.of_kind("Deployment").len(), 3);
    cluster.now += 300; // but not for ever
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
    assert_eq!(cluster.of_kind("Deployment").len(), 2);
}

#[test]
fn a_model_that_fails_its_gate_never_gets_a_pod_or_a_request() {
    let (mut cluster, chain) = serving();
    cluster.edit(&chain.chat, |spec| spec["training"]["seed"] = json!(9));
    for _ in 0..10 {
        cluster.reconcile(&chain.chat);
        cluster.step();
    }
    let new = digest(&cluster, &chain.chat);
    cluster.quality.insert(new.clone(), 0.1);
    cluster.reconcile(&chain.served);
    assert_eq!(cluster.reason(&chain.served), "GatePending");
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "GateFailed");
    assert!(cluster.message(&chain.served).contains("goes on serving"));
    assert_eq!(verdict(&cluster.objects[&chain.served]), Verdict::Failed);
    assert!(routed(&cluster).iter().all(|(digest, _)| *digest != new));
    assert_eq!(cluster.of_kind("Deployment").len(), 2);
    assert_eq!(
        cluster.condition(&chain.served, "Available").unwrap().0,
        "True"
    );
    let gate = &cluster.objects[&chain.served]["status"]["gates"][0];
    assert_eq!(
        (gate["verdict"].as_str(), gate["digest"].as_str()),
        (Some("Failed"), Some(new.as_str()))
    );
}

#[test]
fn results_about_another_digest_open_no_gate() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    // The evaluation scores the base, with the tuned model as its baseline only.
    cluster.edit(&chain.score, |spec| {
        spec["modelRef"] = json!({"kind": "PretrainJob", "name": "base"});
        spec["baselineRef"] = json!({"kind": "FineTune", "name": "chat"});
    });
    cluster.settle();
    assert_eq!(cluster.reason(&chain.score), "Complete");
    assert_eq!(cluster.reason(&chain.served), "GatePending");
    assert!(cluster.of_kind("Deployment").is_empty());
}

#[test]
fn a_candidate_that_does_not_come_up_stays_out_until_the_spec_changes() {
    let (mut cluster, chain) = serving();
    let (old, new) = retune(&mut cluster, &chain);
    cluster.unready.insert(new.clone());
    cluster.reconcile(&chain.served);
    cluster.step();
    cluster.reconcile(&chain.served);
    assert_eq!(cluster.reason(&chain.served), "CandidateStarting");
    cluster.now += 600;
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "CandidateUnhealthy");
    assert_eq!(traffic(&cluster, &chain.served), [(old, 100)]);
    let candidate = cluster
        .of_kind("Deployment")
        .into_iter()
        .find(|d| d["metadata"]["annotations"]["bessemer.dev/digest"] == new.as_str())
        .unwrap()
        .clone();
    assert_eq!(candidate["spec"]["replicas"], 0);
    let writes = cluster.writes;
    cluster.now += 86_400;
    cluster.settle();
    assert_eq!(cluster.writes, writes, "it is not tried again by itself");
    cluster.unready.clear();
    cluster.edit(&chain.served, |spec| {
        spec["progressDeadlineSeconds"] = json!(700)
    });
    cluster.settle();
    assert_eq!(traffic(&cluster, &chain.served), [(new, 100)]);
}

#[test]
fn a_clock_that_is_set_does_not_end_the_time_of_a_candidate() {
    for (step, comes_up) in [(7200, true), (7200, false), (-7200, true), (-7200, false)] {
        let (mut cluster, chain) = serving();
        let (old, new) = retune(&mut cluster, &chain);
        cluster.unready.insert(new.clone());
        cluster.reconcile(&chain.served);
        cluster.step();
        cluster.now += step;
        for _ in 0..60 {
            cluster.reconcile(&chain.served);
            cluster.step();
            cluster.now += 9;
            assert_eq!(cluster.reason(&chain.served), "CandidateStarting");
        }
        // Its time has begun anew and ends as ever.
        if comes_up {
            cluster.unready.clear();
            cluster.settle();
            assert_eq!(traffic(&cluster, &chain.served), [(new, 100)]);
        } else {
            cluster.now += 100;
            cluster.settle();
            assert_eq!(cluster.reason(&chain.served), "CandidateUnhealthy");
            assert_eq!(traffic(&cluster, &chain.served), [(old, 100)]);
        }
    }
}

#[test]
fn a_candidate_that_gives_no_completion_stays_out() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    for _ in 0..40 {
        for key in [
            &chain.text,
            &chain.pairs,
            &chain.base,
            &chain.chat,
            &chain.score,
        ] {
            cluster.reconcile(key);
        }
        cluster.step();
    }
    cluster.mute.insert(digest(&cluster, &chain.chat));
    for _ in 0..5 {
        cluster.reconcile(&chain.served);
        cluster.step();
    }
    assert_eq!(cluster.reason(&chain.served), "CandidateChecking");
    assert!(routed(&cluster).is_empty(), "no backend, no request");
    cluster.now += 601;
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "CandidateUnhealthy");
    assert!(cluster.objects[&chain.served]["status"]["url"].is_null());
}

#[test]
fn traffic_moves_in_steps_and_each_is_held() {
    let (mut cluster, chain) = serving();
    let steps = json!([{"percent": 10, "holdSeconds": 60}, {"percent": 50, "holdSeconds": 60}]);
    cluster.edit(&chain.served, |spec| {
        spec["rollout"] = json!({"steps": steps, "abort": {"errorRate": 0.05}})
    });
    let (old, new) = retune(&mut cluster, &chain);
    let mut seen: Vec<(i64, i64)> = Vec::new();
    let start = cluster.now;
    for _ in 0..200 {
        cluster.reconcile(&chain.served);
        let share = routed(&cluster)
            .iter()
            .find(|(digest, _)| *digest == new)
            .map_or(0, |(_, weight)| *weight);
        if seen.last().is_none_or(|(_, last)| *last != share) {
            seen.push((cluster.now - start, share));
        }
        cluster.step();
        cluster.now += 1;
    }
    let shares: Vec<i64> = seen.iter().map(|(_, share)| *share).collect();
    assert_eq!(shares, [0, 10, 50, 100]);
    assert!(
        seen[2].0 - seen[1].0 >= 60 && seen[3].0 - seen[2].0 >= 60,
        "{seen:?}"
    );
    assert!(!routed(&cluster).iter().any(|(digest, _)| *digest == old));
}

/// What clients see of a canary and since when, and for how many seconds the object said that the router is behind.
fn canary_behind_a_slow_kubelet(pod_runs: bool) -> (Vec<(i64, u32)>, usize) {
    let (mut cluster, chain) = serving();
    cluster.router_lag = 70;
    if pod_runs {
        cluster.run_router();
    }
    let steps = json!([{"percent": 10, "holdSeconds": 60}, {"percent": 50, "holdSeconds": 60}]);
    cluster.edit(&chain.served, |spec| {
        spec["rollout"] = json!({"steps": steps})
    });
    let (_, new) = retune(&mut cluster, &chain);
    let mut seen: Vec<(i64, u32)> = Vec::new();
    let mut behind = 0;
    for _ in 0..500 {
        cluster.reconcile(&chain.served);
        cluster.step();
        let (config, _) = cluster.router.clone().unwrap();
        let backend = config.backends.iter().find(|b| b.digest == new);
        let share = backend.map_or(0, |backend| backend.weight);
        if seen.last().is_none_or(|(_, last)| *last != share) {
            seen.push((cluster.now, share));
        }
        let serving = cluster.reason(&chain.served) == "Serving";
        assert!(!serving || share == 100, "told Serving at {seen:?}");
        behind += usize::from(cluster.message(&chain.served).contains("has not read"));
        cluster.now += 1;
    }
    let shares: Vec<u32> = seen.iter().map(|(_, share)| *share).collect();
    assert_eq!(shares, [0, 10, 50, 100]);
    assert!(
        seen[2].0 - seen[1].0 >= 60 && seen[3].0 - seen[2].0 >= 60,
        "{seen:?}"
    );
    assert_eq!(cluster.reason(&chain.served), "Serving");
    (seen, behind)
}

#[test]
fn a_step_is_held_and_an_end_is_told_from_when_the_router_knows_of_it() {
    let (seen, behind) = canary_behind_a_slow_kubelet(false);
    assert!(seen[3].0 - seen[1].0 >= 2 * (60 + 70), "{seen:?}");
    assert!(behind >= 2 * 60, "said for {behind} s");
}

#[test]
fn the_kubelet_of_a_running_router_is_told_of_its_configuration() {
    let (seen, behind) = canary_behind_a_slow_kubelet(true);
    assert!(seen[3].0 - seen[1].0 < 2 * (60 + 10), "{seen:?}");
    assert!(behind < 2 * 10, "said for {behind} s");
}

#[test]
fn a_canary_that_breaks_a_limit_is_taken_back() {
    for (counters, part) in [
        ((120, 20, 0, None), "requests failed"),
        ((120, 0, 0, Some(900.0)), "99th percentile"),
    ] {
        let (mut cluster, chain) = serving();
        let abort = json!({"errorRate": 0.05, "p99TimeToFirstTokenMs": 500, "minRequests": 50});
        let steps = json!([{"percent": 20, "holdSeconds": 600}]);
        cluster.edit(&chain.served, |spec| {
            spec["rollout"] = json!({"steps": steps, "abort": abort})
        });
        let (old, new) = retune(&mut cluster, &chain);
        for _ in 0..6 {
            cluster.reconcile(&chain.served);
            cluster.step();
            cluster.now += 1;
        }
        assert_eq!(cluster.reason(&chain.served), "RollingOut");
        assert_eq!(
            traffic(&cluster, &chain.served),
            [(old.clone(), 80), (new.clone(), 20)]
        );
        let (requests, errors, in_flight, p99) = counters;
        cluster
            .counters
            .insert(new.clone(), (requests, errors, in_flight, p99));
        cluster.now += 10;
        cluster.reconcile(&chain.served);
        assert_eq!(cluster.reason(&chain.served), "RolloutAborted");
        assert!(
            cluster.message(&chain.served).contains(part),
            "{}",
            cluster.message(&chain.served)
        );
        assert_eq!(traffic(&cluster, &chain.served), [(old.clone(), 100)]);
        cluster.settle();
        assert_eq!(
            routed(&cluster),
            [(old, 100)],
            "it is gone from the router once idle"
        );
        assert_eq!(cluster.reason(&chain.served), "RolloutAborted");
    }
}

#[test]
fn the_user_goes_back_in_the_middle_of_a_rollout() {
    let (mut cluster, chain) = serving();
    let steps = json!([{"percent": 20, "holdSeconds": 6000}]);
    cluster.edit(&chain.served, |spec| {
        spec["rollout"] = json!({"steps": steps})
    });
    let (old, _) = retune(&mut cluster, &chain);
    for _ in 0..6 {
        cluster.reconcile(&chain.served);
        cluster.step();
    }
    assert_eq!(traffic(&cluster, &chain.served)[0].1, 80);
    cluster.edit(&chain.chat, |spec| spec["training"]["seed"] = json!(0)); // the artefact of before is found again
    cluster.settle();
    assert_eq!(traffic(&cluster, &chain.served), [(old, 100)]);
    assert_eq!(cluster.reason(&chain.served), "Serving");
}

#[test]
fn scale_changes_pods_but_neither_revision_nor_traffic() {
    let (mut cluster, chain) = serving();
    let before = cluster.objects[&chain.served]["status"]["revision"].clone();
    cluster.edit(&chain.served, |spec| spec["replicas"] = json!(3));
    cluster.settle();
    let status = &cluster.objects[&chain.served]["status"];
    assert_eq!(
        (status["replicas"].as_i64(), &status["revision"]),
        (Some(3), &before)
    );
    assert!(
        status["selector"]
            .as_str()
            .unwrap()
            .contains("bessemer.dev/name=served")
    );
}

#[test]
fn servers_move_to_a_gpu_as_a_revision_of_their_own() {
    let (mut cluster, chain) = serving();
    cluster.settings.pod_defaults.gpu_runtime_class = Some("nvidia".into());
    let servers = |cluster: &Cluster| -> Vec<(Value, Value, Value)> {
        let all = cluster.of_kind("Deployment").into_iter();
        let role =
            |d: &Value| d["spec"]["template"]["metadata"]["labels"]["bessemer.dev/role"].clone();
        let mut found: Vec<_> = all
            .map(|d| {
                let pod = &d["spec"]["template"]["spec"];
                let gpus = pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"].clone();
                (role(d), gpus, pod["runtimeClassName"].clone())
            })
            .collect();
        found.sort_by_key(|(role, gpus, _)| (role.to_string(), gpus.to_string()));
        found
    };
    let on_cpu = (json!("server"), Value::Null, Value::Null);
    let on_gpu = (json!("server"), json!("1"), json!("nvidia"));
    let router = (json!("router"), Value::Null, Value::Null);
    assert_eq!(servers(&cluster), [router.clone(), on_cpu.clone()]);
    let before = cluster.objects[&chain.served]["status"]["revision"].clone();
    cluster.edit(&chain.served, |spec| spec["resources"] = json!({"gpus": 1}));
    let mut beside = false;
    for _ in 0..100 {
        cluster.reconcile(&chain.served);
        beside |= servers(&cluster) == [router.clone(), on_gpu.clone(), on_cpu.clone()];
        cluster.step();
    }
    cluster.settle();
    assert!(
        beside,
        "the servers without a GPU stay as they are until the new ones serve"
    );
    assert_eq!(servers(&cluster), [router, on_gpu]);
    let status = &cluster.objects[&chain.served]["status"];
    assert_ne!(status["revision"], before);
    let configs: Vec<Value> = cluster
        .of_kind("ConfigMap")
        .iter()
        .filter(|map| map["metadata"]["ownerReferences"][0]["name"] == "served")
        .filter_map(|map| serde_json::from_str(map["data"]["run.json"].as_str()?).ok())
        .collect();
    let gpus: Vec<&Value> = configs.iter().map(|config| &config["gpus"]).collect();
    assert_eq!(gpus, [&json!(1)]);
}

#[test]
fn an_upgrade_of_the_operator_restarts_nothing() {
    let (mut cluster, chain) = serving();
    let before: Vec<Value> = cluster.of_kind("Deployment").into_iter().cloned().collect();
    cluster.settings.image = "bessemer/worker:2".into();
    cluster.settle();
    let after: Vec<Value> = cluster.of_kind("Deployment").into_iter().cloned().collect();
    assert_eq!(before, after);
    let (_, new) = retune(&mut cluster, &chain);
    cluster.settle();
    let servers = cluster
        .of_kind("Deployment")
        .into_iter()
        .find(|d| d["metadata"]["annotations"]["bessemer.dev/digest"] == new.as_str())
        .unwrap()
        .clone();
    assert_eq!(
        servers["spec"]["template"]["spec"]["containers"][0]["image"],
        "bessemer/worker:2"
    );
}

#[test]
fn suspend_takes_the_servers_down_and_resume_brings_them_back() {
    let (mut cluster, chain) = serving();
    cluster.edit(&chain.served, |spec| spec["suspend"] = json!(true));
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Suspended");
    cluster.edit(&chain.served, |spec| spec["suspend"] = json!(false));
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
}

#[test]
fn a_model_being_rebuilt_does_not_disturb_what_serves() {
    let (mut cluster, chain) = serving();
    let old = digest(&cluster, &chain.chat);
    cluster.edit(&chain.chat, |spec| spec["training"]["seed"] = json!(9));
    cluster.reconcile(&chain.chat);
    cluster.reconcile(&chain.served);
    assert_eq!(cluster.reason(&chain.served), "DependencyNotReady");
    assert_eq!(traffic(&cluster, &chain.served), [(old, 100)]);
    assert_eq!(
        cluster.condition(&chain.served, "Available").unwrap().0,
        "True"
    );
}

#[test]
fn a_newer_candidate_takes_the_place_of_one_in_the_middle_of_its_rollout() {
    let (mut cluster, chain) = serving();
    let steps = json!([{"percent": 20, "holdSeconds": 60}]);
    cluster.edit(&chain.served, |spec| {
        spec["rollout"] = json!({"steps": steps})
    });
    let (old, first) = retune(&mut cluster, &chain);
    for _ in 0..6 {
        cluster.reconcile(&chain.served);
        cluster.step();
    }
    assert_eq!(
        traffic(&cluster, &chain.served),
        [(old.clone(), 80), (first.clone(), 20)]
    );
    cluster.edit(&chain.chat, |spec| spec["training"]["seed"] = json!(10));
    for _ in 0..20 {
        for key in [&chain.chat, &chain.score] {
            cluster.reconcile(key);
        }
        cluster.step();
    }
    let second = digest(&cluster, &chain.chat);
    cluster.unready.insert(second.clone());
    cluster.reconcile(&chain.served);
    assert_eq!(
        traffic(&cluster, &chain.served),
        [(old, 100)],
        "the first one is out at once"
    );
    cluster.unready.clear();
    cluster.settle();
    assert_eq!(traffic(&cluster, &chain.served), [(second, 100)]);
    assert_eq!(
        cluster.of_kind("Deployment").len(),
        2,
        "router and one revision"
    );
}

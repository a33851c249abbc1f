//! Job decisions on a world in memory: what is decided is applied, or lost, write by write.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::Value;

use super::*;

struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    clock: i64,
}

fn world(spec: Value) -> World {
    let mut job: Job = serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {
            "template": {"spec": {"containers": [{"name": "worker"}]}}
        }}),
    )
    .unwrap();
    let mut whole = serde_json::to_value(&job).unwrap();
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    job = serde_json::from_value(whole).unwrap();
    World {
        job,
        pods: Vec::new(),
        now: Timestamp::UNIX_EPOCH,
        clock: 0,
    }
}

impl World {
    fn plan(&self) -> Plan {
        plan(&self.job, &self.pods, self.now, Duration::from_secs(10))
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create(_, object) => {
                let mut pod: Pod = serde_json::from_value(*object).unwrap();
                if self.pods.iter().any(|p| p.name_any() == pod.name_any()) {
                    return;
                }
                self.clock += 1;
                pod.metadata.uid = Some(format!("p{}", self.clock));
                self.pods.push(Arc::new(pod));
            }
            Action::ReplaceStatus(_, object) => self.job = serde_json::from_value(*object).unwrap(),
            Action::Patch(_, key, patch) => {
                for pod in self.pods.iter_mut().filter(|p| p.name_any() == key.name) {
                    let left = patch["metadata"]["finalizers"].as_array().unwrap();
                    let left = left
                        .iter()
                        .map(|f| f.as_str().unwrap().to_owned())
                        .collect();
                    Arc::make_mut(pod).metadata.finalizers = Some(left);
                }
            }
            Action::Delete { key, .. } => {
                for pod in self.pods.iter_mut().filter(|p| p.name_any() == key.name) {
                    // The node ends it at once.
                    let pod = Arc::make_mut(pod);
                    pod.metadata.deletion_timestamp = Some(Time(self.now));
                    pod.status = Some(PodStatus {
                        phase: Some("Failed".into()),
                        ..PodStatus::default()
                    });
                }
            }
            Action::Event(_) => {}
            Action::Replace(..) => panic!("not a write of this controller"),
        }
        let gone =
            |p: &Arc<Pod>| p.metadata.deletion_timestamp.is_some() && p.finalizers().is_empty();
        self.pods.retain(|p| !gone(p));
    }

    /// Plans and applies until nothing is left; `lose` drops that many writes after the first of each plan.
    fn settle(&mut self, lose: usize) {
        for round in 0..50 {
            let mut actions = self.plan().actions;
            actions.retain(|a| !matches!(a, Action::Event(_)));
            if actions.is_empty() {
                return;
            }
            if round < lose {
                actions.truncate(1);
            }
            actions.into_iter().for_each(|a| self.apply(a));
        }
        panic!("no fixpoint: {:?}", self.plan().actions);
    }

    fn end(&mut self, at: usize, code: i32, condition: Option<&str>) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let finished = Time(self.now).0.to_string();
        let conditions = condition.map(|c| json!([{"type": c, "status": "True"}]));
        let status = json!({"phase": phase, "conditions": conditions, "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": finished}}
        }]});
        Arc::make_mut(&mut self.pods[at]).status = Some(serde_json::from_value(status).unwrap());
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn reason(&self, kind: &str) -> Option<String> {
        let conditions = self
            .job
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        conditions
            .into_iter()
            .find(|c| c.type_ == kind && c.status == "True")
            .and_then(|c| c.reason.clone())
    }
}

#[test]
fn failed_pods_count_once_whatever_is_lost() {
    for lose in 0..6 {
        let mut world = world(
            json!({"backoffLimit": 2, "completionMode": "Indexed", "completions": 1, "parallelism": 1}),
        );
        for failures in 1..=3 {
            world.settle(lose);
            let at = world.pods.len() - 1;
            world.end(at, 1, None);
            world.settle(lose);
            assert_eq!(world.status().failed, Some(failures), "lost {lose}");
            world.wait(700);
        }
        world.settle(lose);
        assert_eq!(
            world.reason("Failed").as_deref(),
            Some("BackoffLimitExceeded")
        );
        assert_eq!(world.pods.len(), 3);
        assert!(world.pods.iter().all(|p| p.finalizers().is_empty()));
    }
}

#[test]
fn a_stale_cache_makes_no_second_pod() {
    let mut world = world(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3}));
    let names = |plan: Plan| -> Vec<String> {
        let created = plan.actions.into_iter().filter_map(|a| match a {
            Action::Create(_, o) => Some(o["metadata"]["name"].as_str().unwrap().to_owned()),
            _ => None,
        });
        created.collect()
    };
    let first = names(world.plan());
    assert_eq!(first, names(world.plan()));
    // The cache has seen one of them: the others are made under the same names.
    let one = world.plan().actions.into_iter();
    let one = one.filter(|action| matches!(action, Action::Create(..)));
    one.take(1).for_each(|action| world.apply(action));
    assert_eq!(first[1..], names(world.plan()));
    world.settle(0);
    assert_eq!(world.pods.len(), 3);
    assert_eq!(first.len(), 3);
}

#[test]
fn indexes_complete_one_by_one() {
    let mut world = world(json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2}));
    world.settle(0);
    for round in 0..5 {
        let open = world.pods.iter().position(|p| p.status.is_none()).unwrap();
        world.end(open, 0, None);
        world.settle(round);
    }
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-4"));
    assert_eq!(
        world.reason("Complete").as_deref(),
        Some("CompletionsReached")
    );
    assert_eq!(world.pods.len(), 5);
}

#[test]
fn a_disruption_is_replaced_at_once_and_not_counted() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    let mut world = world(
        json!({"backoffLimit": 0, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}}),
    );
    world.job.spec.as_mut().unwrap().completions = Some(1);
    world.settle(0);
    for _ in 0..4 {
        let at = world.pods.len() - 1;
        world.end(at, 137, Some("DisruptionTarget"));
        world.settle(0);
        assert!(world.pods.last().unwrap().status.is_none(), "not replaced");
    }
    assert_eq!(
        (world.status().failed, world.reason("Failed")),
        (None, None)
    );
}

#[test]
fn backoff_doubles_and_then_a_pod_is_made() {
    let mut world = world(json!({"backoffLimit": 6, "completions": 1}));
    world.settle(0);
    world.end(0, 1, None);
    world.settle(0);
    assert_eq!(world.plan().again, Some(Duration::from_secs(10)));
    world.wait(10);
    world.settle(0);
    assert_eq!(world.pods.len(), 2);
    world.end(1, 1, None);
    world.settle(0);
    assert_eq!(world.plan().again, Some(Duration::from_secs(20)));
}

#[test]
fn a_deadline_ends_what_runs_before_the_job_is_failed() {
    let mut world = world(json!({"activeDeadlineSeconds": 30, "completions": 1}));
    world.settle(0);
    assert_eq!(world.plan().again, Some(Duration::from_secs(30)));
    world.wait(31);
    let first = world.plan().actions.into_iter().next().unwrap();
    world.apply(first);
    assert_eq!(
        world.reason("FailureTarget").as_deref(),
        Some("DeadlineExceeded")
    );
    assert_eq!(world.reason("Failed"), None);
    world.settle(0);
    assert_eq!(world.reason("Failed").as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn suspension_is_no_failure() {
    let mut world =
        world(json!({"backoffLimit": 0, "completions": 1, "podReplacementPolicy": "Failed"}));
    world.settle(0);
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle(0);
    assert_eq!(
        (world.reason("Suspended").as_deref(), world.reason("Failed")),
        (Some("JobSuspended"), None)
    );
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle(0);
    assert_eq!(world.pods.iter().filter(|p| p.status.is_none()).count(), 1);
}

#[test]
fn index_ranges_are_written_as_kubernetes_does() {
    for text in ["", "0", "0,1", "0-2", "0-2,5", "1,2,4-7"] {
        assert_eq!(count::format_indexes(&count::parse_indexes(text)), text);
    }
}

//! The invariants P1 to P8 over generated graphs, schedules and faults. P5, P7, P8 and kstatus's rules are asserted by the
//! cluster at every action and every status write.

use std::collections::BTreeMap;

use bessemer_api::Kind as KindName;
use bessemer_core::{Key, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cluster::{Cluster, End, key};
use crate::fixture::{dataset, evaluation, pretrain, served, tune};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A pass over an object; the operator may die after so many actions.
    Reconcile(usize, Option<usize>),
    /// A plan is made now and carried out at `Late`.
    Remember(usize),
    Late,
    Step,
    Wait(i64),
    Apply(usize),
    Delete(usize),
    Suspend(usize, bool),
    Nonce(usize, u8),
    Seed(usize, u8),
    Fail(usize, u8),
}

const OBJECTS: usize = 8;

/// The objects of a case: two datasets, two models, two tunings whose bases may form a cycle or dangle, an evaluation, a
/// deployment.
fn objects(shape: &[u8]) -> Vec<(Key, Value)> {
    let pick = |at: usize, among: &[&'static str]| {
        among[usize::from(shape[at % shape.len()]) % among.len()]
    };
    let mut text = dataset("Pretraining");
    if shape[0].is_multiple_of(3) {
        text["artifactPolicy"] = json!("Delete");
    }
    let mut pairs = dataset("Instruction");
    pairs["tokenizer"] = json!({"datasetRef": {"name": pick(1, &["text", "text", "none"])}});
    let mut base = pretrain(&["text"]);
    if shape[2].is_multiple_of(4) {
        base["initialModelRef"] = json!({"kind": "FineTune", "name": pick(3, &["chat", "other"])});
    }
    let (kind, name) = if shape[4].is_multiple_of(2) {
        ("PretrainJob", "base")
    } else {
        ("FineTune", "other")
    };
    let other = pick(5, &["base", "base", "base", "chat"]);
    let other_kind = if other == "base" {
        "PretrainJob"
    } else {
        "FineTune"
    };
    let mut second = pretrain(&["text", "text2"]);
    second["ttlSecondsAfterFinished"] = json!(5);
    let mut deployment = served("FineTune", "chat", "score");
    if shape[6].is_multiple_of(2) {
        deployment["rollout"] =
            json!({"steps": [{"percent": 20, "holdSeconds": 7}], "abort": {"errorRate": 0.5}});
    }
    vec![
        (key(KindName::Dataset, "text"), text),
        (key(KindName::Dataset, "pairs"), pairs),
        (key(KindName::PretrainJob, "base"), base),
        (key(KindName::PretrainJob, "second"), second),
        (key(KindName::FineTune, "chat"), tune(kind, name, "pairs")),
        (
            key(KindName::FineTune, "other"),
            tune(other_kind, other, "pairs"),
        ),
        (
            key(KindName::Evaluation, "score"),
            evaluation("FineTune", "chat", "pairs"),
        ),
        (key(KindName::Deployment, "served"), deployment),
    ]
}

fn event(faults: bool) -> impl Strategy<Value = Event> {
    let object = 0..OBJECTS;
    let crash = if faults {
        prop::option::weighted(0.3, 0usize..4).boxed()
    } else {
        Just(None).boxed()
    };
    prop_oneof![
        8 => (object.clone(), crash).prop_map(|(i, crash)| Event::Reconcile(i, crash)),
        2 => object.clone().prop_map(Event::Remember),
        2 => Just(Event::Late),
        6 => Just(Event::Step),
        1 => (1i64..30).prop_map(Event::Wait),
        2 => object.clone().prop_map(Event::Apply),
        1 => object.clone().prop_map(Event::Delete),
        1 => (object.clone(), any::<bool>()).prop_map(|(i, on)| Event::Suspend(i, on)),
        1 => (object.clone(), 0u8..3).prop_map(|(i, n)| Event::Nonce(i, n)),
        1 => (object.clone(), 0u8..3).prop_map(|(i, n)| Event::Seed(i, n)),
        1 => (object, 0u8..4).prop_map(|(i, n)| Event::Fail(i, n)),
    ]
}

struct Case {
    cluster: Cluster,
    objects: Vec<(Key, Value)>,
    late: Vec<(Key, String, Plan)>,
}

impl Case {
    fn new(shape: &[u8]) -> Self {
        let objects = objects(shape);
        let mut cluster = Cluster::new();
        for (key, spec) in &objects {
            cluster.apply(key.kind, &key.name, spec.clone());
        }
        Self {
            cluster,
            objects,
            late: Vec::new(),
        }
    }

    /// `faults` off: crashes and late plans are left out, everything else happens.
    fn happen(&mut self, event: &Event, faults: bool) {
        let at = |index: usize| self.objects[index].0.clone();
        match event {
            Event::Reconcile(i, crash) => {
                let key = at(*i);
                match crash.filter(|_| faults) {
                    None => drop(self.cluster.reconcile(&key)),
                    Some(limit) => {
                        if let Some(plan) = self.cluster.think(&key) {
                            self.cluster.execute(&key, &plan, limit);
                        }
                    }
                }
            }
            Event::Remember(i) if faults => {
                let key = at(*i);
                let uid = self.cluster.uid(&key).unwrap_or_default();
                self.late
                    .extend(self.cluster.think(&key).map(|plan| (key, uid, plan)));
            }
            Event::Late if faults => {
                for (key, uid, mut plan) in std::mem::take(&mut self.late) {
                    plan.status = None; // the fence of status is the version check of the runtime
                    self.cluster.execute_as(&key, &uid, &plan, usize::MAX);
                }
            }
            Event::Remember(_) | Event::Late => {}
            Event::Step => self.cluster.step(),
            Event::Wait(seconds) => self.cluster.now += seconds,
            Event::Apply(i) => {
                let (key, spec) = self.objects[*i].clone();
                if !self.cluster.objects.contains_key(&key) {
                    self.cluster.apply(key.kind, &key.name, spec);
                }
            }
            Event::Delete(i) => self.cluster.delete(&at(*i)),
            Event::Suspend(i, on) => self
                .cluster
                .edit(&at(*i), |spec| spec["suspend"] = json!(on)),
            Event::Nonce(i, n) => {
                let key = at(*i);
                if key.kind != KindName::Deployment {
                    self.cluster
                        .edit(&key, |spec| spec["restartNonce"] = json!(n.to_string()));
                }
            }
            Event::Seed(i, n) => match self.objects[*i].0.kind {
                KindName::Dataset => self
                    .cluster
                    .edit(&at(*i), |spec| spec["split"] = json!({"seed": n})),
                KindName::PretrainJob | KindName::FineTune => {
                    self.cluster
                        .edit(&at(*i), |spec| spec["training"]["seed"] = json!(n));
                }
                _ => {}
            },
            Event::Fail(i, n) => {
                let end = match n {
                    0 => End::Exit(75, String::new()),
                    1 => End::Exit(65, r#"{"category":"BadData","message":"bad"}"#.into()),
                    2 => End::Disrupted,
                    _ => End::Exit(137, String::new()),
                };
                self.cluster.ends.entry(at(*i)).or_default().push_back(end);
            }
        }
    }

    /// The wishes at the end: everything is there, nothing is suspended.
    fn ask_for_everything(&mut self) {
        self.late.clear();
        self.cluster.ends.clear();
        self.cluster.settle();
        for (key, spec) in self.objects.clone() {
            if !self.cluster.objects.contains_key(&key) {
                self.cluster.apply(key.kind, &key.name, spec);
            }
            self.cluster
                .edit(&key, |spec| spec["suspend"] = json!(false));
        }
        self.cluster.settle();
        // A run keeps the inputs it met: whoever wants the newest asks for it.
        for (key, _) in self.objects.clone() {
            if key.kind != KindName::Deployment {
                self.cluster
                    .edit(&key, |spec| spec["restartNonce"] = json!("end"));
                self.cluster.settle();
            }
        }
    }

    /// P1: at the fixpoint no plan has anything to do.
    fn is_at_rest(&self) {
        for key in self.cluster.objects.keys() {
            let plan = self.cluster.think(key).unwrap();
            assert!(
                plan.actions.is_empty(),
                "P1: {key} still has {:?}",
                plan.actions
            );
            assert_eq!(
                plan.status.as_ref(),
                Some(&self.cluster.objects[key]["status"]),
                "P1: {key}"
            );
        }
    }

    /// What does not depend on the way: verdicts, artefacts, children.
    fn end(&self) -> BTreeMap<String, Value> {
        let mut end = BTreeMap::new();
        for (key, object) in &self.cluster.objects {
            let conditions: Vec<Value> = object["status"]["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|c| c["type"] != "InputsChanged") // which version a run met depends on the way
                .map(|c| json!([c["type"], c["status"]]))
                .collect();
            let status = &object["status"];
            let digest = &status["artifact"]["digest"];
            let traffic = &status["traffic"];
            let uid = object["metadata"]["uid"].as_str().unwrap();
            let owned = self.cluster.children.iter().filter(|(_, child)| {
                // Those of a run depend on the way: an artefact that was found again needed none.
                let owner = &child["metadata"]["ownerReferences"][0]["uid"];
                owner == uid && key.kind == KindName::Deployment
            });
            let owned: Vec<&String> = owned.map(|((kind, _), _)| kind).collect();
            end.insert(key.to_string(), json!([conditions, digest, traffic, owned]));
        }
        end
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(40))]

    /// P1, P5, P7, P8 and kstatus under every order of events and every fault; terminal failures included.
    #[test]
    fn any_schedule_comes_to_rest(shape in prop::collection::vec(any::<u8>(), 8), events in prop::collection::vec(event(true), 0..120)) {
        let mut case = Case::new(&shape);
        for event in &events {
            case.happen(event, true);
        }
        case.ask_for_everything();
        case.is_at_rest();
    }

    /// P2, P3: crashes and plans carried out late change nothing of the end.
    #[test]
    fn crashes_and_late_plans_change_nothing_of_the_end(shape in prop::collection::vec(any::<u8>(), 8), events in prop::collection::vec(event(true), 0..80)) {
        let events: Vec<Event> = events.into_iter().filter(|event| !matches!(event, Event::Fail(..))).collect();
        let mut ends = Vec::new();
        for faults in [true, false] {
            let mut case = Case::new(&shape);
            for event in &events {
                case.happen(event, faults);
            }
            case.ask_for_everything();
            case.is_at_rest();
            ends.push(case.end());
        }
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    /// P4: an operator that saw only the end comes to the same as one that saw every step.
    #[test]
    fn skipped_states_change_nothing_of_the_end(shape in prop::collection::vec(any::<u8>(), 8), events in prop::collection::vec(event(false), 0..80)) {
        let events: Vec<Event> = events.into_iter().filter(|event| !matches!(event, Event::Fail(..))).collect();
        let mut ends = Vec::new();
        for blind in [true, false] {
            let mut case = Case::new(&shape);
            for event in &events {
                if !(blind && matches!(event, Event::Reconcile(..))) {
                    case.happen(event, false);
                }
            }
            case.ask_for_everything();
            ends.push(case.end());
        }
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    /// P6, O7, O9: whatever happened before, deletion in any order reaches the end, leaves no child, and takes artefacts
    /// only where the policy says so.
    #[test]
    fn deletion_reaches_the_end(shape in prop::collection::vec(any::<u8>(), 8), events in prop::collection::vec(event(true), 0..80), order in Just((0..OBJECTS).collect::<Vec<_>>()).prop_shuffle()) {
        let mut case = Case::new(&shape);
        for event in &events {
            case.happen(event, true);
        }
        let kept = |cluster: &Cluster| cluster.store.keys().filter(|(key, _)| key.name != "text").count();
        let before = kept(&case.cluster);
        for index in order {
            case.cluster.delete(&case.objects[index].0);
        }
        case.cluster.settle();
        prop_assert!(case.cluster.objects.is_empty(), "P6: {:?}", case.cluster.objects.keys().collect::<Vec<_>>());
        prop_assert!(case.cluster.children.is_empty(), "O7: {:?}", case.cluster.children.keys().collect::<Vec<_>>());
        prop_assert!(kept(&case.cluster) >= before, "O9: nothing is deleted because it was not seen");
    }
}

/// O4: the operator dies before and after each single action of the whole chain's life, one point at a time.
#[test]
fn a_crash_at_every_single_action_converges() {
    let shape = [1u8, 0, 1, 0, 0, 0, 0, 1];
    let mut point = 0;
    loop {
        let mut case = Case::new(&shape);
        let mut left = Some(point);
        for _ in 0..40 {
            let before = case.cluster.writes;
            for index in 0..OBJECTS {
                let key = case.objects[index].0.clone();
                let Some(plan) = case.cluster.think(&key) else {
                    continue;
                };
                match left {
                    // After the last action but before the status is a point too.
                    Some(room) if !plan.actions.is_empty() && room <= plan.actions.len() => {
                        case.cluster.execute(&key, &plan, room);
                        left = None;
                    }
                    _ => {
                        case.cluster.execute(&key, &plan, usize::MAX);
                        let points = if plan.actions.is_empty() {
                            0
                        } else {
                            plan.actions.len() + 1
                        };
                        left = left.map(|room| room.saturating_sub(points));
                    }
                }
            }
            case.cluster.step();
            case.cluster.now += 1;
            if case.cluster.writes == before {
                break;
            }
        }
        case.cluster.settle();
        case.is_at_rest();
        let served = key(KindName::Deployment, "served");
        assert_eq!(
            case.cluster.reason(&served),
            "Serving",
            "after point {point}: {}",
            case.cluster.message(&served)
        );
        if left.is_some() {
            break; // the life had fewer points
        }
        point += 1;
    }
    assert!(point > 25, "the chain has only {point} points to die at");
}

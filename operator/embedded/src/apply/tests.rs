use super::*;
use crate::registry::Registry;

const NOW: &str = "2026-01-01T00:00:00Z";

fn deployments() -> std::sync::Arc<Resource> {
    Registry::builtin()
        .find("apps", "v1", "deployments")
        .unwrap()
}

fn applier(manager: &str, force: bool) -> Applier<'_> {
    Applier {
        manager,
        subresource: "",
        force,
        now: NOW,
    }
}

fn config(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn empty() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment"})
}

#[test]
fn applied_fields_are_owned_by_path() {
    let object = apply(
        &deployments(),
        &empty(),
        &config(1, "i"),
        &applier("m", false),
    )
    .unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
        "manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}}}])
    );
}

#[test]
fn another_managers_change_is_a_conflict_until_forced() {
    let resource = deployments();
    let live = apply(&resource, &empty(), &config(1, "i"), &applier("m", false)).unwrap();
    let refused = apply(&resource, &live, &config(2, "i"), &applier("n", false)).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"m\": .spec.replicas"
    );
    let refused = apply(&resource, &live, &config(2, "j"), &applier("n", false)).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"m\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let forced = apply(&resource, &live, &config(2, "i"), &applier("n", true)).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    let owner = |name: &str| {
        let entries = forced["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .clone();
        entries.into_iter().find(|e| e["manager"] == name).unwrap()
    };
    assert!(owner("m")["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    assert!(owner("n")["fieldsV1"]["f:spec"].get("f:replicas").is_some());
}

#[test]
fn fields_no_longer_applied_go_unless_shared() {
    let resource = deployments();
    let mut both = config(1, "i");
    both["metadata"]["labels"]["x"] = "y".into();
    let live = apply(&resource, &empty(), &both, &applier("m", false)).unwrap();
    let shared = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"x": "y"}}});
    let live = apply(&resource, &live, &shared, &applier("n", false)).unwrap();
    let live = apply(&resource, &live, &config(1, "i"), &applier("m", false)).unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"a": "b", "x": "y"}));
    let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let live = apply(&resource, &live, &nothing, &applier("n", false)).unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"a": "b"}));
    let live = apply(&resource, &live, &nothing, &applier("m", false)).unwrap();
    assert_eq!(live.get("spec"), None);
    assert_eq!(live["metadata"].get("managedFields"), None);
}

#[test]
fn updates_take_what_they_change() {
    let resource = deployments();
    let live = apply(&resource, &empty(), &config(1, "i"), &applier("m", false)).unwrap();
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    record_update(&resource, Some(&live), &mut new, "kubectl", "", NOW);
    let refused = apply(&resource, &new, &config(1, "i"), &applier("m", false)).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn duplicate_keys_are_refused() {
    let mut twice = config(1, "i");
    twice["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}, {"name": "c"}]);
    let refused = apply(&deployments(), &empty(), &twice, &applier("m", false)).unwrap_err();
    assert!(
        refused
            .message
            .contains("duplicate entries for key [name=\"c\"]"),
        "{}",
        refused.message
    );
}

#[test]
fn only_the_times_of_owners_may_differ_in_a_write_that_changes_nothing() {
    let object = |time: &str, manager: &str, value: i32| {
        json!({"v": value, "metadata": {"name": "a",
        "managedFields": [{"manager": manager, "time": time}, {"manager": "b"}]}})
    };
    let old = object("1", "a", 1);
    for (mut new, settled) in [
        (object("2", "a", 1), true),
        (object("2", "c", 1), false),
        (object("2", "a", 2), false),
        (json!({"v": 1, "metadata": {"name": "a"}}), false),
    ] {
        settle_times(&old, &mut new);
        assert_eq!(new == old, settled, "{new}");
    }
}

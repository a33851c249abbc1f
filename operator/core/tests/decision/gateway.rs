//! The HTTPRoute of `spec.route`: as the traffic is divided, repaired, refused, gone.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::deployment::{retune, routed, serving};
use crate::fixture::Chain;

impl Cluster {
    /// `route` with the status of a Gateway's controller.
    pub fn governed(&self, route: &Value) -> Value {
        let mut route = route.clone();
        let generation = route["metadata"]["generation"].clone();
        let parents = route["spec"]["parentRefs"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let answers = parents
            .iter()
            .filter(|parent| parent["name"] != "absent")
            .map(|parent| {
                let refused = parent["name"] == "closed";
                json!({"parentRef": parent, "controllerName": "test/controller", "conditions": [{
                    "type": "Accepted", "status": if refused { "False" } else { "True" },
                    "reason": if refused { "NotAllowedByListeners" } else { "Accepted" },
                    "message": "as the test wants it", "observedGeneration": generation
                }]})
            });
        route["status"] = json!({"parents": answers.collect::<Vec<_>>()});
        route
    }
}

fn routed_by(parent: &str) -> Value {
    json!({"parentRefs": [{"name": parent}], "hostnames": ["models.example"]})
}

/// A served chain that a Gateway reaches.
fn exposed() -> (Cluster, Chain) {
    let (mut cluster, chain) = serving();
    cluster.edit(&chain.served, |spec| spec["route"] = routed_by("gate"));
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
    (cluster, chain)
}

fn route(cluster: &Cluster) -> Option<&Value> {
    let mut all = cluster.children.values();
    all.find(|child| child["kind"] == "HTTPRoute")
}

/// Where the HTTPRoute lies among the children.
fn place(cluster: &Cluster) -> (String, String) {
    let mut all = cluster.children.keys();
    all.find(|(kind, _)| kind == "HTTPRoute").unwrap().clone()
}

/// Digest and weight of each backend of the HTTPRoute.
fn divided(cluster: &Cluster) -> Vec<(String, i64)> {
    let route = route(cluster).unwrap();
    let backends = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
    let digest = |name: &Value| {
        let at = ("Deployment".to_owned(), name.as_str().unwrap().to_owned());
        assert!(
            cluster
                .children
                .contains_key(&("Service".to_owned(), at.1.clone()))
        );
        let servers = &cluster.children[&at]["metadata"];
        servers["annotations"]["bessemer.dev/digest"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let parts = backends.iter();
    parts
        .map(|b| (digest(&b["name"]), b["weight"].as_i64().unwrap()))
        .collect()
}

#[test]
fn a_gateway_gets_the_shares_of_the_router() {
    let (mut cluster, chain) = exposed();
    let spec = &route(&cluster).unwrap()["spec"];
    assert_eq!(spec["parentRefs"][0]["name"], "gate");
    assert_eq!(spec["hostnames"], json!(["models.example"]));
    assert_eq!(spec["rules"][0]["matches"][0]["path"]["value"], "/v1");
    assert_eq!(divided(&cluster), routed(&cluster));

    let steps = json!([{"percent": 10, "holdSeconds": 60}, {"percent": 50, "holdSeconds": 60}]);
    cluster.edit(&chain.served, |spec| {
        spec["rollout"] = json!({"steps": steps})
    });
    let (old, new) = retune(&mut cluster, &chain);
    let mut shares = vec![0];
    for _ in 0..600 {
        cluster.reconcile(&chain.served);
        let told = routed(&cluster);
        let told: Vec<_> = told.into_iter().filter(|(_, weight)| *weight > 0).collect();
        let divided = divided(&cluster);
        assert_eq!(divided, told, "after each pass both say the same");
        let share = divided
            .iter()
            .find(|(digest, _)| *digest == new)
            .map_or(0, |(_, weight)| *weight);
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        cluster.step();
        cluster.now += 1;
    }
    assert_eq!(shares, [0, 10, 50, 100]);
    cluster.settle();
    assert_eq!(divided(&cluster), [(new, 100)]);
    let left = cluster
        .children
        .values()
        .any(|child| child.to_string().contains(&old));
    assert!(!left, "the old revision goes");
}

#[test]
fn an_old_revision_stays_until_the_deadline_as_the_router_does_not_see_its_requests() {
    let (mut cluster, chain) = exposed();
    let (old, new) = retune(&mut cluster, &chain);
    let mut since = None;
    loop {
        cluster.reconcile(&chain.served);
        cluster.step();
        cluster.now += 1;
        if since.is_none() && divided(&cluster) == [(new.clone(), 100)] {
            since = Some(cluster.now);
        }
        let mut servers = cluster
            .children
            .values()
            .filter(|child| child["kind"] == "Deployment");
        if !servers
            .any(|child| child["metadata"]["annotations"]["bessemer.dev/digest"] == json!(old))
        {
            break;
        }
        assert!(cluster.now < since.unwrap_or(cluster.now) + 400);
    }
    assert!(
        cluster.now - since.unwrap() >= 290,
        "{since:?} {}",
        cluster.now
    );
}

#[test]
fn what_others_change_is_repaired_and_it_goes_with_the_field() {
    let (mut cluster, chain) = exposed();
    let whole = route(&cluster).unwrap()["spec"].clone();
    let at = place(&cluster);
    cluster.children.get_mut(&at).unwrap()["spec"]["rules"][0]["backendRefs"][0]["weight"] =
        json!(1);
    cluster.settle();
    assert_eq!(route(&cluster).unwrap()["spec"], whole);

    cluster.children.remove(&at);
    cluster.settle();
    assert_eq!(route(&cluster).unwrap()["spec"], whole);

    // What a server fills in is no difference.
    cluster.children.get_mut(&at).unwrap()["spec"]["rules"][0]["backendRefs"][0]["filters"] =
        json!([]);
    let writes = cluster.writes;
    cluster.reconcile(&chain.served);
    assert_eq!(cluster.writes, writes);

    cluster.edit(&chain.served, |spec| {
        drop(spec.as_object_mut().unwrap().remove("route"))
    });
    cluster.settle();
    assert!(route(&cluster).is_none());
    assert_eq!(cluster.reason(&chain.served), "Serving");
}

#[test]
fn a_name_that_is_taken_is_left_alone() {
    let (mut cluster, chain) = exposed();
    let at = place(&cluster);
    let other = cluster.objects[&chain.text]["metadata"]["uid"].clone();
    let foreign = cluster.children.get_mut(&at).unwrap();
    foreign["metadata"]["ownerReferences"][0]["uid"] = other;
    foreign["spec"]["hostnames"] = json!(["theirs.example"]);
    for _ in 0..5 {
        cluster.reconcile(&chain.served);
    }
    assert_eq!(
        route(&cluster).unwrap()["spec"]["hostnames"],
        json!(["theirs.example"])
    );
    cluster.edit(&chain.served, |spec| {
        drop(spec.as_object_mut().unwrap().remove("route"))
    });
    cluster.settle();
    assert!(route(&cluster).is_some());
}

#[test]
fn without_a_gateway_api_the_router_serves_and_the_reason_says_so() {
    let mut cluster = Cluster::new();
    let chain = crate::fixture::chain(&mut cluster);
    let why = "the API server knows no HTTPRoute";
    cluster.no_gateway = Some(why.into());
    cluster.edit(&chain.served, |spec| spec["route"] = routed_by("gate"));
    cluster.reconcile(&chain.served);
    assert_eq!(
        cluster.reason(&chain.served),
        "GatewayUnavailable",
        "before anything is served"
    );
    cluster.settle();
    assert!(cluster.message(&chain.served).contains(why));
    assert_eq!(
        cluster.condition(&chain.served, "Stalled").unwrap().0,
        "True"
    );
    assert_eq!(
        cluster.condition(&chain.served, "Available").unwrap().0,
        "True"
    );
    assert_eq!(routed(&cluster).len(), 1);

    cluster.no_gateway = None;
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
    assert_eq!(divided(&cluster), routed(&cluster));
}

#[test]
fn a_gateway_that_says_no_or_nothing_is_named() {
    let (mut cluster, chain) = exposed();
    for (parent, words) in [
        (
            "absent",
            "no controller has answered for Gateway absent yet",
        ),
        (
            "closed",
            "Gateway closed: NotAllowedByListeners: as the test wants it",
        ),
    ] {
        cluster.edit(&chain.served, |spec| spec["route"] = routed_by(parent));
        cluster.settle();
        assert_eq!(cluster.reason(&chain.served), "RouteNotAccepted");
        assert!(
            cluster.message(&chain.served).contains(words),
            "{}",
            cluster.message(&chain.served)
        );
        assert_eq!(
            cluster.condition(&chain.served, "Available").unwrap().0,
            "True"
        );
    }
    cluster.edit(&chain.served, |spec| spec["route"] = routed_by("gate"));
    cluster.settle();
    assert_eq!(cluster.reason(&chain.served), "Serving");
}

//! Owns the HTTPRoute by which a Gateway reaches the revisions: the router's division of traffic, said to the Gateway.
//! It must not divide anything itself.
//!
//! The Gateway API need not be installed, so nothing watches HTTPRoutes: each pass looks at the live one.

use bessemer_api::{ModelDeployment, Route};
use serde_json::{Value, json};

use super::render::{self, ROUTER};
use super::rollout::{Asked, LOOK_SECONDS, REST_SECONDS, Rollout};
use super::traffic::Traffic;
use crate::action::{Action, ObjectRef, Propagation};
use crate::condition::Verdict;
use crate::kind::Kind;
use crate::label;
use crate::pod::put;
use crate::query::{Answer, Query};
use crate::reason;
use crate::run::Told;

const GROUP: &str = "gateway.networking.k8s.io";
const API_VERSION: &str = "gateway.networking.k8s.io/v1";
const KIND: &str = "HTTPRoute";

/// The route with the weights of `traffic`. Only the OpenAI API is given to the Gateway, not metrics and health.
fn http_route(object: &ModelDeployment, route: &Route, traffic: &Traffic) -> Value {
    let parents = route.parent_refs.iter().map(|parent| {
        let mut reference = json!({"group": GROUP, "kind": "Gateway", "name": parent.name});
        if let Some(namespace) = &parent.namespace {
            put(&mut reference, "namespace", json!(namespace));
        }
        reference
    });
    let shares = traffic.backends.iter().filter(|backend| backend.weight > 0);
    let backends = shares.map(|backend| {
        json!({
            "group": "", "kind": "Service", "name": render::name(object, &backend.name), "port": label::PORT,
            "weight": backend.weight
        })
    });
    json!({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": render::metadata(object, ROUTER, json!({})),
        "spec": {
            "parentRefs": parents.collect::<Vec<_>>(),
            "hostnames": route.hostnames,
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                "backendRefs": backends.collect::<Vec<_>>()
            }]
        }
    })
}

/// Whether `live` says all that `wanted` says; what the API server filled in beside it is no difference.
fn says(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| live.get(name).is_some_and(|live| says(live, wanted))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| says(live, wanted))
        }
        _ => live == wanted,
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Why a Gateway of the route does not use it, if one does not.
fn obstacle(live: &Value, route: &Route) -> Option<String> {
    let generation = live.pointer("/metadata/generation");
    let own = text(live, "/metadata/namespace");
    route.parent_refs.iter().find_map(|parent| {
        let gateway = &parent.name;
        let namespace =
            |reference: &str| if reference.is_empty() { own } else { reference }.to_owned();
        let wanted = namespace(parent.namespace.as_deref().unwrap_or_default());
        let answers: Vec<&Value> = list(live, "/status/parents")
            .filter(|answer| {
                text(answer, "/parentRef/name") == gateway
                    && namespace(text(answer, "/parentRef/namespace")) == wanted
            })
            .flat_map(|answer| list(answer, "/conditions"))
            .filter(|condition| condition.get("observedGeneration") == generation)
            .collect();
        let refused = answers.iter().find(|condition| {
            ["Accepted", "ResolvedRefs"].contains(&text(condition, "/type"))
                && text(condition, "/status") != "True"
        });
        if let Some(condition) = refused {
            let (reason, message) = (text(condition, "/reason"), text(condition, "/message"));
            return Some(format!("Gateway {gateway}: {reason}: {message}"));
        }
        let accepted = answers
            .iter()
            .any(|condition| text(condition, "/type") == "Accepted");
        (!accepted).then(|| format!("no controller has answered for Gateway {gateway} yet"))
    })
}

impl Rollout<'_> {
    /// Brings the HTTPRoute in line with the traffic, and tells when a Gateway does not use it.
    pub(super) fn expose(&mut self) -> Asked {
        let object = self.object();
        let route = object.spec.route.as_ref();
        if route.is_none() && !self.before.gateway {
            return Ok(());
        }
        let name = render::name(object, ROUTER);
        let place = ObjectRef {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            namespace: object.key().namespace,
            name: name.clone(),
            ..ObjectRef::default()
        };
        let query = Query::HttpRoute {
            route: place.clone(),
        };
        let live = match self.observed.facts.get(&query) {
            None => return Err(vec![query]),
            Some(Answer::HttpRoute(live)) => live.as_ref(),
            Some(Answer::Refused(why)) => {
                if route.is_some()
                    && matches!(self.told.verdict, Verdict::Ready | Verdict::InProgress)
                {
                    self.told = Told::new(Verdict::Stalled, reason::GATEWAY_UNAVAILABLE, why);
                }
                self.look_again(REST_SECONDS);
                return Ok(());
            }
            Some(_) => {
                self.look_again(LOOK_SECONDS);
                return Ok(());
            }
        };
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let ours = live.filter(|live| {
            list(live, "/metadata/ownerReferences").any(|owner| text(owner, "/uid") == uid)
        });
        // Noted before it is made and until it is gone: nothing else remembers that there is one to be deleted.
        let wanted = route.filter(|_| self.traffic.stable.is_some());
        self.traffic.gateway = wanted.is_some() || ours.is_some();
        let Some(route) = wanted else {
            self.exposed = ours.map(|live| Action::Delete {
                object: ObjectRef {
                    uid: Some(text(live, "/metadata/uid").to_owned()),
                    ..place
                },
                propagation: Propagation::Background,
            });
            return Ok(());
        };
        if !self.before.gateway {
            return Ok(());
        }
        let mut rendered = http_route(object, route, &self.traffic);
        let Some(live) = ours else {
            // One of that name that is another's is refused there.
            self.exposed = Some(Action::Create { object: rendered });
            return Ok(());
        };
        let specs = live.get("spec").zip(rendered.get("spec"));
        if !specs.is_some_and(|(live, wanted)| says(live, wanted)) {
            if let Some(metadata) = rendered.get_mut("metadata") {
                for field in ["uid", "resourceVersion"] {
                    put(
                        metadata,
                        field,
                        json!(text(live, &format!("/metadata/{field}"))),
                    );
                }
            }
            self.exposed = Some(Action::Apply {
                object: rendered,
                manager: label::manager(ModelDeployment::KIND),
            });
        } else if self.told.verdict == Verdict::Ready
            && let Some(obstacle) = obstacle(live, route)
        {
            let message = format!("the router serves, but not HTTPRoute {name}: {obstacle}");
            self.in_progress(reason::ROUTE_NOT_ACCEPTED, message);
            self.look_again(LOOK_SECONDS);
        }
        Ok(())
    }
}

use super::*;
use crate::clock::SystemClock;
use crate::fault::Delivery;

struct Client(Api);

impl Client {
    fn new() -> Self {
        Self(Api::open(Options::memory(Arc::new(SystemClock), 1)).unwrap())
    }

    fn send(&self, method: &str, uri: &str, kind: &str, body: Value) -> (u16, Value) {
        let (parts, ()) = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", kind)
            .header("user-agent", "test/1")
            .body(())
            .unwrap()
            .into_parts();
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let response = self.0.answer(&parts, bytes);
        let code = response.status().as_u16();
        let Body::Whole(Some(bytes)) = response.into_body() else {
            return (code, Value::Null);
        };
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn json(&self, method: &str, uri: &str, body: Value) -> (u16, Value) {
        self.send(method, uri, "application/json", body)
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

#[test]
fn objects_are_created_read_changed_and_deleted() {
    let client = Client::new();
    let (code, made) = client.json("POST", MAPS, map("a", "1"));
    assert_eq!(
        (code, &made["metadata"]["namespace"]),
        (201, &json!("default"))
    );
    assert_eq!(
        client.json("POST", MAPS, map("a", "1")).1["reason"],
        "AlreadyExists"
    );
    let mut stale = made.clone();
    let mut fresh = made;
    fresh["data"]["k"] = "2".into();
    let uri = format!("{MAPS}/a");
    assert_eq!(client.json("PUT", &uri, fresh).0, 200);
    stale["data"]["k"] = "3".into();
    let (code, refused) = client.json("PUT", &uri, stale);
    assert_eq!(code, 409);
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        client.json("DELETE", &uri, Value::Null).1["status"],
        "Success"
    );
    assert_eq!(
        client.json("GET", &uri, Value::Null).1["message"],
        "configmaps \"a\" not found"
    );
}

#[test]
fn pages_are_consistent_and_expire_after_compaction() {
    let client = Client::new();
    for name in ["a", "b", "c"] {
        client.json("POST", MAPS, map(name, "1"));
    }
    let (_, first) = client.json("GET", &format!("{MAPS}?limit=2"), Value::Null);
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    client.json("DELETE", &format!("{MAPS}/c"), Value::Null);
    let next = format!(
        "{MAPS}?limit=2&continue={}",
        first["metadata"]["continue"].as_str().unwrap()
    );
    let (_, second) = client.json("GET", &next, Value::Null);
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    client.0.compact();
    assert_eq!(
        client.json("GET", &next, Value::Null).1["reason"],
        "Expired"
    );
}

#[test]
fn finalizers_hold_an_object_until_they_are_gone() {
    let client = Client::new();
    let mut object = map("a", "1");
    object["metadata"]["finalizers"] = json!(["x.dev/y"]);
    client.json("POST", MAPS, object);
    let uri = format!("{MAPS}/a");
    let (_, deleting) = client.json("DELETE", &uri, Value::Null);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    let patch = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        client
            .send("PATCH", &uri, "application/merge-patch+json", patch)
            .0,
        200
    );
    assert_eq!(client.json("GET", &uri, Value::Null).0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_kube_client_lists_watches_and_applies() {
    use futures::TryStreamExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{
        Api as Kube, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
    };

    let api = Api::open(Options::memory(Arc::new(SystemClock), 1)).unwrap();
    let client = kube::Client::new(api, "default");
    let maps: Kube<ConfigMap> = Kube::default_namespaced(client);
    let list = maps.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut events = std::pin::pin!(
        maps.watch(&WatchParams::default().timeout(10), &version)
            .await
            .unwrap()
    );
    let made: ConfigMap = serde_json::from_value(map("a", "1")).unwrap();
    maps.create(&PostParams::default(), &made).await.unwrap();
    let applied = maps
        .patch(
            "a",
            &PatchParams::apply("m").force(),
            &Patch::Apply(&map("a", "2")),
        )
        .await
        .unwrap();
    assert_eq!(applied.data.unwrap()["k"], "2");
    assert!(matches!(
        events.try_next().await.unwrap(),
        Some(WatchEvent::Added(_))
    ));
    assert!(matches!(
        events.try_next().await.unwrap(),
        Some(WatchEvent::Modified(_))
    ));
    assert!(matches!(
        events.try_next().await.unwrap(),
        None | Some(WatchEvent::Bookmark(_))
    ));
}

/// Disturbs the requests on config maps, one plan entry after the other.
#[derive(Default)]
struct Plan {
    before: Mutex<std::collections::VecDeque<Before>>,
    after: Mutex<std::collections::VecDeque<After>>,
    deliver: Mutex<std::collections::VecDeque<Delivery>>,
}

impl Fault for Plan {
    fn before(&self, _: &View<'_>) -> Before {
        self.before.lock().pop_front().unwrap_or_default()
    }

    fn after(&self, _: &View<'_>, _: u16) -> After {
        self.after.lock().pop_front().unwrap_or_default()
    }

    fn deliver(&self, _: &str, _: &Value) -> Delivery {
        self.deliver.lock().pop_front().unwrap_or_default()
    }
}

fn disturbed(plan: &Arc<Plan>) -> Api {
    let mut options = Options::memory(Arc::new(SystemClock), 1);
    options.fault = Some(plan.clone());
    Api::open(options).unwrap()
}

async fn send(api: &Api, method: &str, uri: &str, body: Value) -> Result<Response<Body>, BoxError> {
    use tower::ServiceExt as _;
    let bytes = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json");
    api.clone()
        .oneshot(request.body(http_body_util::Full::new(bytes)).unwrap())
        .await
}

/// The events of a watch until it ends; text that is no event comes as a string.
async fn events(response: Response<Body>) -> Vec<Value> {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn faults_strike_before_and_after_the_commit() {
    let plan = Arc::new(Plan::default());
    let api = disturbed(&plan);
    plan.before.lock().extend([
        Before::Drop,
        Before::Refuse(503),
        Before::Delay(std::time::Duration::from_secs(5)),
    ]);
    assert!(send(&api, "POST", MAPS, map("a", "1")).await.is_err());
    assert_eq!(
        send(&api, "POST", MAPS, map("a", "1"))
            .await
            .unwrap()
            .status(),
        503
    );
    assert!(
        api.objects("configmaps").is_empty(),
        "neither was carried out"
    );
    let begun = tokio::time::Instant::now();
    assert_eq!(
        send(&api, "POST", MAPS, map("a", "1"))
            .await
            .unwrap()
            .status(),
        201
    );
    assert_eq!(begun.elapsed().as_secs(), 5);
    plan.after.lock().extend([After::Drop, After::Refuse(504)]);
    assert!(send(&api, "POST", MAPS, map("b", "1")).await.is_err());
    assert_eq!(
        send(&api, "POST", MAPS, map("c", "1"))
            .await
            .unwrap()
            .status(),
        504
    );
    assert_eq!(api.objects("configmaps").len(), 3, "both were carried out");
}

#[tokio::test(start_paused = true)]
async fn watches_close_break_repeat_and_expire() {
    let plan = Arc::new(Plan::default());
    let api = disturbed(&plan);
    let version = api.revision();
    for name in ["a", "b"] {
        send(&api, "POST", MAPS, map(name, "1")).await.unwrap();
    }
    let watch = format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=5");
    let kinds = |events: &[Value]| -> Vec<String> {
        events
            .iter()
            .map(|e| e["type"].as_str().unwrap_or("broken").to_owned())
            .collect()
    };
    let whole = events(send(&api, "GET", &watch, Value::Null).await.unwrap()).await;
    assert_eq!(kinds(&whole), ["ADDED", "ADDED"]);
    plan.deliver
        .lock()
        .extend([Delivery::Deliver, Delivery::Close]);
    assert_eq!(
        kinds(&events(send(&api, "GET", &watch, Value::Null).await.unwrap()).await),
        ["ADDED"]
    );
    plan.deliver
        .lock()
        .extend([Delivery::Twice, Delivery::Truncate]);
    let broken = events(send(&api, "GET", &watch, Value::Null).await.unwrap()).await;
    assert_eq!(kinds(&broken), ["ADDED", "ADDED", "broken"]);
    plan.before.lock().push_back(Before::Compact);
    let expired = events(send(&api, "GET", &watch, Value::Null).await.unwrap()).await;
    assert_eq!(
        (
            expired[0]["type"].as_str(),
            expired[0]["object"]["code"].as_u64()
        ),
        (Some("ERROR"), Some(410))
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_gets_bookmarks_and_outlives_compaction() {
    let api = disturbed(&Arc::new(Plan::default()));
    let watch = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=150&resourceVersion={}",
        api.revision()
    );
    let response = send(&api, "GET", &watch, Value::Null).await.unwrap();
    let reading = tokio::spawn(events(response));
    tokio::time::sleep(std::time::Duration::from_secs(70)).await;
    send(
        &api,
        "POST",
        "/api/v1/namespaces/default/secrets",
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
    )
    .await
    .unwrap();
    api.compact();
    send(&api, "POST", MAPS, map("a", "1")).await.unwrap();
    let seen = reading.await.unwrap();
    let kinds: Vec<&str> = seen.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["BOOKMARK", "ADDED", "BOOKMARK"]);
    assert_eq!(
        seen[2]["object"]["metadata"]["resourceVersion"],
        api.revision().to_string()
    );
}

#[test]
fn committed_objects_survive_without_a_clean_end() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let mut options = Options::memory(Arc::new(SystemClock), 1);
        options.storage = Box::new(crate::storage::Disk::open(directory.path()).unwrap());
        Client(Api::open(options).unwrap())
    };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"n": {"type": "integer", "default": 3}}}}}}}]}});
    let first = open();
    assert_eq!(
        first
            .json(
                "POST",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                definition
            )
            .0,
        201
    );
    let things = "/apis/example.com/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {}});
    let (_, made) = first.json("POST", things, thing);
    assert_eq!(made["spec"]["n"], 3);
    let revision = first.0.revision();
    drop(first);
    let second = open();
    assert_eq!(second.0.revision(), revision);
    assert_eq!(
        second.json("GET", &format!("{things}/t"), Value::Null),
        (200, made)
    );
}

#[test]
fn tokens_are_bound_to_a_pod_and_verify_against_the_published_key() {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    let directory = tempfile::tempdir().unwrap();
    let issuer = Arc::new(Issuer::open(&directory.path().join("key"), "https://issuer").unwrap());
    let mut options = Options::memory(Arc::new(SystemClock), 1);
    options.issuer = Some(issuer.clone());
    let client = Client(Api::open(options).unwrap());
    let core = "/api/v1/namespaces/default";
    client.json(
        "POST",
        &format!("{core}/serviceaccounts"),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}}),
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (_, pod) = client.json("POST", &format!("{core}/pods"), pod);
    let request = |uid: &str| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": ["bessemer-operator"], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}})
    };
    let uri = format!("{core}/serviceaccounts/s/token");
    let (code, answer) = client.json(
        "POST",
        &uri,
        request(pod["metadata"]["uid"].as_str().unwrap()),
    );
    assert_eq!(code, 201, "{answer}");
    assert_eq!(client.json("POST", &uri, request("other")).0, 409);
    let token = answer["status"]["token"].as_str().unwrap();
    let decode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .unwrap()
    };
    let keys = client.json("GET", "/openid/v1/jwks", Value::Null).1;
    let mut point = vec![4];
    point.extend(decode(keys["keys"][0]["x"].as_str().unwrap()));
    point.extend(decode(keys["keys"][0]["y"].as_str().unwrap()));
    let (text, signature) = token.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
        .verify(text.as_bytes(), &decode(signature))
        .unwrap();
    let claims: Value = serde_json::from_slice(&decode(text.split_once('.').unwrap().1)).unwrap();
    assert_eq!(claims["sub"], "system:serviceaccount:default:s");
    assert_eq!(claims["aud"], json!(["bessemer-operator"]));
    assert_eq!(
        claims["kubernetes.io"]["pod"],
        json!({"name": "p", "uid": pod["metadata"]["uid"]})
    );
    let now = crate::clock::Clock::now(&crate::clock::SystemClock);
    assert!(
        issuer.user(token, now).is_err(),
        "a token for another audience opens nothing here"
    );
    assert!(
        issuer
            .verify(token, now + jiff::SignedDuration::from_hours(2))
            .is_err(),
        "it expires"
    );
    assert!(
        issuer
            .verify(
                &format!("{text}x.{}", token.rsplit_once('.').unwrap().1),
                now
            )
            .is_err()
    );
}

use super::*;
use crate::clock::SystemClock;

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

//! Namespaces: owns their default service account and the emptying of deleted ones.
//! It must not wait for the garbage collector: what lives in a namespace goes with it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::action::{Action, ActionError, encode, execute, resource};
use super::kind::Kinds;

/// Brings one namespace a step further; returns when to look again.
pub async fn reconcile(
    client: &Client,
    kinds: &Kinds,
    namespace: &Namespace,
) -> Result<Option<Duration>, ActionError> {
    let name = namespace.name_any();
    if namespace.metadata.deletion_timestamp.is_none() {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".into()),
                namespace: Some(name),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let create = Action::Create(resource::<ServiceAccount>(), Box::new(encode(&account)));
        execute(client, jiff::Timestamp::UNIX_EPOCH, vec![create]).await?;
        return Ok(None);
    }
    let failed = |what: &str, source| ActionError::Api {
        what: format!("{what} in namespace {name}"),
        source: Box::new(source),
    };
    let mut left = 0;
    for kind in kinds.all().iter().filter(|k| k.namespaced) {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name, &kind.resource);
        let found = api
            .list(&ListParams::default())
            .await
            .map_err(|e| failed("list", e))?
            .items;
        left += found.len();
        for object in found
            .iter()
            .filter(|o| o.metadata.deletion_timestamp.is_none())
        {
            match api
                .delete(&object.name_any(), &DeleteParams::background())
                .await
            {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(failed("delete", error)),
            }
        }
    }
    if left > 0 {
        return Ok(Some(Duration::from_millis(500)));
    }
    let empty = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "resourceVersion": namespace.resource_version()}, "spec": {"finalizers": []}
    });
    let api: Api<Namespace> = Api::all(client.clone());
    match api
        .replace_subresource("finalize", &name, &PostParams::default(), &empty)
        .await
    {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed("finalize", error)),
    }
}

//! Telling the API about a pod: owns the status writes and the pod's last delete.
//! It must not touch processes.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Life;
use crate::clock::Clock;
use crate::node::{log, status};

impl Life<'_> {
    /// Writes the status if it changed; a failed write is tried again with the next change.
    pub(super) async fn publish(&mut self) {
        if self.shared.shutdown.is_cancelled() {
            return;
        }
        let now = self.shared.clock.now();
        let mut base = (*self.pod).clone();
        if let Some(written) = &self.written {
            // Our own last write may not have come back yet; its condition times are the true ones.
            let foreign = base
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .cloned();
            let own = written.conditions.clone().unwrap_or_default();
            let mut all: Vec<_> = foreign
                .filter(|c| !own.iter().any(|o| o.type_ == c.type_))
                .collect();
            all.extend(own);
            let status = base.status.get_or_insert_default();
            status.conditions = Some(all);
            status.start_time.clone_from(&written.start_time);
        }
        let status = status::build(&base, &self.known, &self.facts, now);
        if self.written.as_ref() == Some(&status) {
            return;
        }
        for attempt in 0..5_u32 {
            match self.write(&status).await {
                Ok(()) => {
                    self.written = Some(status);
                    return;
                }
                // Gone: the watch will say so.
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => return,
                Err(error) => {
                    tracing::debug!(%error, pod = self.pod.name_any(), "status not written; trying again");
                    sleep(Duration::from_millis(100 << attempt)).await;
                }
            }
        }
    }

    pub(super) async fn write(&self, status: &PodStatus) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(
            self.shared.client.clone(),
            &self.pod.namespace().unwrap_or_default(),
        );
        let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        if let Some(map) = value.as_object_mut() {
            map.remove("qosClass");
        }
        let patch = json!({"metadata": {"uid": self.uid}, "status": value});
        api.patch_status(
            &self.pod.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(drop)
    }

    /// The pod has ended: says so, lets the object go when it is deleted, and cleans up.
    pub(super) async fn end(&mut self, updates: &mut watch::Receiver<Option<Arc<Pod>>>) {
        loop {
            if let Some(pod) = updates.borrow_and_update().clone() {
                self.pod = pod;
            }
            if self.pod.metadata.deletion_timestamp.is_some() {
                break;
            }
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return,
                changed = updates.changed() => if changed.is_err() { return },
            }
        }
        self.facts.ended = true;
        let finished = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if !matches!(finished, Some("Succeeded" | "Failed")) {
            self.publish().await;
        }
        let api: Api<Pod> = Api::namespaced(
            self.shared.client.clone(),
            &self.pod.namespace().unwrap_or_default(),
        );
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        while !self.shared.shutdown.is_cancelled() {
            match api.delete(&self.pod.name_any(), &params).await {
                Ok(_) => break,
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => break,
                Err(_) => sleep(Duration::from_millis(300)).await,
            }
        }
        let namespace = self.pod.namespace().unwrap_or_default();
        log::withdraw(
            &self.shared.config.directory,
            &namespace,
            &self.pod.name_any(),
            &self.uid,
        );
        let _ = fs::remove_dir_all(&self.directory);
    }
}

//! Starting the containers of a pod: owns mounting, the program, its environment and limits.
//! It must not decide when a container is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Life, News, RESTART_FIRST, Running};
use crate::clock::Clock;
use crate::node::container::Plan;
use crate::node::environment::{self, Mounts};
use crate::node::status::Phase;
use crate::node::{log, memory, probe, volume};

impl Life<'_> {
    /// Mounts and starts everything; false if something is missing yet.
    pub(super) async fn begin(&mut self) -> bool {
        self.facts.ip = self.ip.to_string();
        if let Some(what) = unsupported(&self.pod) {
            self.shared
                .note(&self.pod, true, "Failed", &what, "kubelet")
                .await;
            self.facts.failure = Some(("NotSupported".into(), what));
            return true;
        }
        if let Err(error) = fs::create_dir_all(self.directory.join("root")) {
            self.wait(
                "CreateContainerError",
                &format!("{}: {error}", self.directory.display()),
            )
            .await;
            return false;
        }
        if let Err(error) = volume::mount(
            self.shared,
            &self.pod,
            &self.directory,
            &self.facts.ip,
            true,
        )
        .await
        {
            self.shared
                .note(&self.pod, true, "FailedMount", &error, "kubelet")
                .await;
            self.wait("ContainerCreating", "").await;
            return false;
        }
        let namespace = self.pod.namespace().unwrap_or_default();
        log::announce(
            &self.shared.config.directory,
            &namespace,
            &self.pod.name_any(),
            &self.uid,
        );
        let _ = fs::write(self.directory.join("begun"), b"");
        for at in 0..self.known.len() {
            self.start(at).await;
        }
        true
    }

    pub(super) async fn wait(&mut self, reason: &str, message: &str) {
        for known in &mut self.known {
            known.phase = Phase::Waiting(reason.to_owned(), message.to_owned());
        }
    }

    /// Starts a container; what stands in the way becomes its waiting reason and a later try.
    pub(super) async fn start(&mut self, at: usize) {
        let Some(container) = self.container(at) else {
            return;
        };
        let (reason, message) = match self.try_start(at, &container).await {
            Ok(running) => {
                self.running.insert(at, running);
                let message = format!("Started container {}", container.name);
                self.shared
                    .note(&self.pod, false, "Started", &message, "kubelet")
                    .await;
                return;
            }
            Err(refused) => refused,
        };
        self.shared
            .note(&self.pod, true, "Failed", &message, "kubelet")
            .await;
        if let Some(known) = self.known.get_mut(at) {
            known.phase = Phase::Waiting(reason, message);
        }
        let delay = self.backoff(at, Duration::ZERO).max(RESTART_FIRST);
        self.restart_at.insert(at, Instant::now() + delay);
    }

    pub(super) async fn try_start(
        &mut self,
        at: usize,
        container: &Container,
    ) -> Result<Running, (String, String)> {
        let config = |message: String| ("CreateContainerConfigError".to_owned(), message);
        let (program, args) = self.command(container)?;
        let mounts = container.volume_mounts.iter().flatten();
        let mounts = mounts.map(|m| {
            let real = volume::path(&self.directory, &m.name);
            (
                m.mount_path.clone(),
                m.sub_path
                    .as_ref()
                    .map_or(real.clone(), |sub| real.join(sub)),
            )
        });
        let mounts = Mounts::new(mounts.collect());
        let own = environment::build(self.shared, &self.pod, container, &self.facts.ip, &mounts)
            .map_err(config)?;
        let args: Vec<String> = args
            .iter()
            .map(|a| mounts.rewrite(&environment::expand(a, &own)))
            .collect();
        let run = self.known.get(at).map_or(0, |k| k.restarts);
        let message_file = self.message_file(&container.name, run);
        let mut all = vec![
            (
                "PATH".to_owned(),
                std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()),
            ),
            (
                "HOME".to_owned(),
                self.directory.join("root").display().to_string(),
            ),
            (
                "HOSTNAME".to_owned(),
                self.pod
                    .spec
                    .as_ref()
                    .and_then(|s| s.hostname.clone())
                    .unwrap_or(self.pod.name_any()),
            ),
            ("TMPDIR".to_owned(), self.temporary(&mounts)),
            (
                "BESSEMER_TERMINATION_LOG".to_owned(),
                message_file.display().to_string(),
            ),
        ];
        all.extend(self.shared.config.environment.iter().cloned());
        all.extend(own);
        let limit = container
            .resources
            .as_ref()
            .and_then(|r| r.limits.as_ref()?.get("memory").cloned());
        let limit = limit.and_then(|q| memory::bytes(&q.0));
        let group = limit.and_then(|bytes| {
            memory::Group::new(&format!("{}-{}-{run}", self.uid, container.name), bytes)
        });
        let plan = Plan {
            program,
            args,
            environment: all,
            directory: container
                .working_dir
                .as_ref()
                .map_or(self.directory.join("root"), |d| {
                    PathBuf::from(mounts.rewrite(d))
                }),
            log: log::file(
                &self.shared.config.directory,
                &self.uid,
                &container.name,
                run,
            ),
            pid_file: self.directory.join(format!("{}.pid", container.name)),
        };
        let message = format!("Created container: {}", container.name);
        self.shared
            .note(&self.pod, false, "Created", &message, "kubelet")
            .await;
        let news = self.news_tx.clone();
        let started = self
            .shared
            .spawner
            .spawn(plan, move |exit| {
                drop(news.send(News::Ended(at, run, exit)))
            })
            .await;
        let process = started.map_err(|e| {
            (
                "RunContainerError".to_owned(),
                format!("cannot start container {}: {e}", container.name),
            )
        })?;
        if let Some(group) = &group
            && let Err(error) = group.add(process.pid)
        {
            tracing::debug!(%error, "memory limit not set");
        }
        if let Some(known) = self.known.get_mut(at) {
            known.phase = Phase::Running(self.shared.clock.now());
            known.started = false;
            known.ready = false;
        }
        let (found_tx, mut found) = mpsc::unbounded_channel();
        let probing = probe::run(container.clone(), self.ip, found_tx);
        let news = self.news_tx.clone();
        let probes = tokio::spawn(async move {
            let forward = async {
                while let Some(finding) = found.recv().await {
                    if news.send(News::Found(at, run, finding)).is_err() {
                        return;
                    }
                }
            };
            tokio::join!(probing, forward);
        });
        Ok(Running {
            process,
            probes,
            group,
            since: Instant::now(),
        })
    }

    pub(super) fn temporary(&self, mounts: &Mounts) -> String {
        let real = mounts.rewrite("/tmp");
        if real == "/tmp" {
            self.directory.join("root").display().to_string()
        } else {
            real
        }
    }

    pub(super) fn message_file(&self, container: &str, run: i32) -> PathBuf {
        self.directory.join(format!("{container}.{run}.message"))
    }

    /// The program of an image: its directory comes first, then the command's own path.
    pub(super) fn command(
        &self,
        container: &Container,
    ) -> Result<(PathBuf, Vec<String>), (String, String)> {
        let image = container.image.clone().unwrap_or_default();
        let images = &self.shared.config.images;
        let found = images
            .iter()
            .find(|(name, _)| *name == image)
            .or_else(|| images.iter().find(|(name, _)| name == "*"));
        let missing = |why: String| ("ErrImagePull".to_owned(), why);
        let (_, directory) = found.ok_or_else(|| {
            missing(format!(
                "the local node has no image \"{image}\"; it knows {}",
                images
                    .iter()
                    .map(|(n, _)| n.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
        })?;
        let mut words = container
            .command
            .iter()
            .flatten()
            .chain(container.args.iter().flatten())
            .cloned();
        let first = words
            .next()
            .ok_or_else(|| missing(format!("container {} names no command", container.name)))?;
        let name = Path::new(&first)
            .file_name()
            .map(PathBuf::from)
            .unwrap_or_default();
        let program = directory.join(&name);
        if !program.is_file() {
            return Err(missing(format!(
                "image \"{image}\" has no program {} in {}; build it (make build) or reinstall Bessemer",
                name.display(),
                directory.display()
            )));
        }
        Ok((program, words.collect()))
    }
}

/// What a pod asks for that a local node does not have.
fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.init_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("init containers are not supported by the local node".into());
    }
    for container in &spec.containers {
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        if probes
            .into_iter()
            .flatten()
            .any(|p| p.http_get.is_none() && p.tcp_socket.is_none())
        {
            return Some(format!(
                "container {}: exec and grpc probes are not supported by the local node",
                container.name
            ));
        }
        if container.lifecycle.is_some() {
            return Some(format!(
                "container {}: lifecycle hooks are not supported by the local node",
                container.name
            ));
        }
    }
    None
}

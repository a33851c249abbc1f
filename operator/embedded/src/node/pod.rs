//! The life of one pod on this node: owns the order of mounting, starting, restarting and
//! ending its containers. It must not outlive the pod or the agent.

mod report;
mod start;

use std::collections::HashMap;
use std::fs;
use std::future::pending;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::container::{Exit, Process};
use super::probe::Finding;
use super::status::{Facts, Known, Phase};
use super::{Shared, address, log, memory, volume};
use crate::clock::Clock;

/// Longest time that stopping containers get when the agent itself stops.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// First delay before a container is started again; doubles up to five minutes. A kubelet
/// begins with ten seconds; here somebody sits in front of the terminal.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LIMIT: Duration = Duration::from_secs(300);
/// A container that ran this long begins with the first delay again.
const RESTART_FORGIVEN: Duration = Duration::from_secs(600);

/// What happened to a container.
enum News {
    Ended(usize, i32, Exit),
    Found(usize, i32, Finding),
}

struct Running {
    process: Process,
    probes: tokio::task::JoinHandle<()>,
    group: Option<memory::Group>,
    since: Instant,
}

struct Life<'a> {
    shared: &'a Shared,
    pod: Arc<Pod>,
    uid: String,
    directory: PathBuf,
    ip: Ipv4Addr,
    facts: Facts,
    known: Vec<Known>,
    running: HashMap<usize, Running>,
    restart_at: HashMap<usize, Instant>,
    restart_delay: HashMap<usize, Duration>,
    written: Option<PodStatus>,
    news_tx: mpsc::UnboundedSender<News>,
    /// Why containers were killed by us, for their termination message.
    killed: HashMap<usize, String>,
}

/// Runs a pod until it is deleted, or until the agent stops.
pub async fn run(shared: &Shared, pod: Arc<Pod>, mut updates: watch::Receiver<Option<Arc<Pod>>>) {
    let uid = pod.uid().unwrap_or_default();
    let directory = shared.config.directory.join("pods").join(&uid);
    let (news_tx, mut news) = mpsc::unbounded_channel();
    let address = address::key(&pod);
    let ip = shared.addresses.take(&address);
    let mut life = Life {
        shared,
        known: waiting(&pod),
        facts: Facts {
            ip: String::new(),
            since: shared.clock.now(),
            disrupted: false,
            failure: None,
            ended: false,
        },
        pod,
        uid: uid.clone(),
        directory: directory.clone(),
        ip,
        running: HashMap::new(),
        restart_at: HashMap::new(),
        restart_delay: HashMap::new(),
        written: None,
        news_tx,
        killed: HashMap::new(),
    };
    let finished = life.resume();
    let deleted = if finished {
        true
    } else {
        life.live(&mut updates, &mut news).await
    };
    if !deleted {
        return;
    }
    life.end(&mut updates).await;
    shared.addresses.give(&address);
}

fn waiting(pod: &Pod) -> Vec<Known> {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    containers
        .map(|c| Known {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            phase: Phase::Waiting("ContainerCreating".into(), String::new()),
            last: None,
            restarts: 0,
            started: false,
            ready: false,
        })
        .collect()
}

impl Life<'_> {
    fn policy(&self) -> &str {
        self.pod
            .spec
            .as_ref()
            .and_then(|s| s.restart_policy.as_deref())
            .unwrap_or("Always")
    }

    fn container(&self, at: usize) -> Option<Container> {
        self.pod.spec.as_ref()?.containers.get(at).cloned()
    }

    /// Takes up what an earlier agent left; true if the pod has already ended.
    fn resume(&mut self) -> bool {
        let status = self.pod.status.clone().unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.written = Some(status);
            return true;
        }
        if !self.directory.join("begun").exists() {
            return false;
        }
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("NodeRestarted".into()),
            message: Some("the process ended with the node agent".into()),
            finished_at: Some(Time(self.shared.clock.now())),
            ..ContainerStateTerminated::default()
        };
        let never = self.policy() == "Never";
        for (at, old) in status.container_statuses.into_iter().flatten().enumerate() {
            let Some(known) = self.known.get_mut(at) else {
                continue;
            };
            let terminated = old.state.and_then(|s| s.terminated);
            known.restarts = old.restart_count;
            if never {
                known.phase =
                    Phase::Terminated(Box::new(terminated.unwrap_or_else(|| lost.clone())));
            } else {
                known.restarts += 1;
                known.last = Some(terminated.unwrap_or_else(|| lost.clone()));
            }
        }
        if never {
            for known in &mut self.known {
                if !matches!(known.phase, Phase::Terminated(_)) {
                    known.phase = Phase::Terminated(Box::new(lost.clone()));
                }
            }
            self.facts.disrupted = true;
        }
        false
    }

    /// Until the pod is to go (true) or the agent stops (false).
    async fn live(
        &mut self,
        updates: &mut watch::Receiver<Option<Arc<Pod>>>,
        news: &mut mpsc::UnboundedReceiver<News>,
    ) -> bool {
        let mut sources = self.shared.sources.clone();
        let shutdown = self.shared.shutdown.clone();
        let mut begun = self.facts.disrupted;
        let mut try_at = Some(Instant::now()).filter(|_| !begun);
        let mut token_at: Option<Instant> = None;
        let mut kill_at: Option<Instant> = None;
        let mut stopping = false;
        loop {
            self.publish().await;
            let deleting = self.pod.metadata.deletion_timestamp.is_some();
            if (deleting || stopping) && kill_at.is_none() {
                kill_at = Some(Instant::now() + self.stop(stopping).await);
                try_at = None;
            }
            if self.running.is_empty() && (deleting || stopping) {
                return deleting && !stopping;
            }
            let restart = self
                .restart_at
                .values()
                .min()
                .copied()
                .filter(|_| kill_at.is_none());
            tokio::select! {
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    kill_at = None;
                }
                changed = updates.changed() => match changed {
                    Ok(()) => if let Some(pod) = updates.borrow_and_update().clone() {
                        if pod.metadata.deletion_timestamp.is_some() && !deleting { kill_at = None; }
                        self.pod = pod;
                    },
                    Err(_) => pending().await,
                },
                item = news.recv() => if let Some(item) = item { self.hear(item).await; },
                _ = sources.changed(), if begun && kill_at.is_none() => {
                    let _ = volume::mount(self.shared, &self.pod, &self.directory, &self.facts.ip, false).await;
                }
                () = until(token_at) => {
                    let _ = volume::mount(self.shared, &self.pod, &self.directory, &self.facts.ip, true).await;
                    token_at = Some(Instant::now() + Duration::from_secs(1800));
                }
                () = until(try_at) => {
                    if self.begin().await {
                        begun = true;
                        try_at = None;
                        token_at = volume::has_token(&self.pod).then(|| Instant::now() + Duration::from_secs(1800));
                    } else {
                        try_at = Some(Instant::now() + Duration::from_millis(500));
                    }
                }
                () = until(restart) => {
                    let now = Instant::now();
                    let due: Vec<usize> = self.restart_at.iter().filter(|(_, at)| **at <= now).map(|(n, _)| *n).collect();
                    for at in due {
                        self.restart_at.remove(&at);
                        self.start(at).await;
                    }
                }
                () = until(kill_at) => {
                    self.running.values().for_each(|r| r.process.kill());
                    kill_at = Some(Instant::now() + Duration::from_secs(3600));
                }
            }
        }
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Ended(at, run, exit) if self.known.get(at).is_some_and(|k| k.restarts == run) => {
                self.ended(at, run, exit).await;
            }
            News::Found(at, run, finding)
                if self.known.get(at).is_some_and(|k| k.restarts == run) =>
            {
                self.found(at, finding).await;
            }
            News::Ended(..) | News::Found(..) => {}
        }
    }

    async fn found(&mut self, at: usize, finding: Finding) {
        let deleting = self.pod.metadata.deletion_timestamp.is_some();
        let Some(known) = self.known.get_mut(at) else {
            return;
        };
        match finding {
            Finding::Started => known.started = true,
            Finding::Ready(ready) => known.ready = ready,
            Finding::Unhealthy(message) => {
                if !deleting {
                    self.shared
                        .note(&self.pod, true, "Unhealthy", &message, "kubelet")
                        .await;
                }
            }
            Finding::Dead(message) => {
                let name = known.name.clone();
                self.shared
                    .note(&self.pod, true, "Unhealthy", &message, "kubelet")
                    .await;
                let text = format!("Container {name} failed its probe, will be restarted");
                self.shared
                    .note(&self.pod, false, "Killing", &text, "kubelet")
                    .await;
                self.killed.insert(at, message);
                let Some(running) = self.running.get(&at) else {
                    return;
                };
                running.process.terminate();
                let (process, grace) = (running.process.clone(), self.grace());
                // The pid stays ours until the waiter has reaped it and the news arrives.
                let news = self.news_tx.clone();
                tokio::spawn(async move {
                    sleep(grace).await;
                    if !news.is_closed() && fs::metadata(format!("/proc/{}", process.pid)).is_ok() {
                        process.kill();
                    }
                });
            }
        }
    }

    async fn ended(&mut self, at: usize, run: i32, exit: Exit) {
        let Some(running) = self.running.remove(&at) else {
            return;
        };
        running.probes.abort();
        let Some(container) = self.container(at) else {
            return;
        };
        let oom = running
            .group
            .as_ref()
            .is_some_and(memory::Group::out_of_memory);
        let mut message =
            fs::read_to_string(self.message_file(&container.name, run)).unwrap_or_default();
        message.truncate(
            message
                .char_indices()
                .nth(4096)
                .map_or(message.len(), |(at, _)| at),
        );
        let fallback =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if message.is_empty() && exit.code != 0 && fallback {
            message = log::tail(&log::file(
                &self.shared.config.directory,
                &self.uid,
                &container.name,
                run,
            ));
        }
        if message.is_empty() {
            message = self.killed.remove(&at).unwrap_or_default();
        }
        let now = self.shared.clock.now();
        let reason = match exit.code {
            _ if oom => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        let Some(known) = self.known.get_mut(at) else {
            return;
        };
        let began = if let Phase::Running(since) = known.phase {
            since
        } else {
            now
        };
        let end = ContainerStateTerminated {
            exit_code: exit.code,
            signal: exit.signal,
            reason: Some(reason.into()),
            message: Some(message).filter(|m| !m.is_empty()),
            started_at: Some(Time(began)),
            finished_at: Some(Time(now)),
            container_id: Some(format!("process://{}/{}/{run}", self.uid, container.name)),
        };
        known.ready = false;
        known.started = false;
        let again = match self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.restart_policy.as_deref())
            .unwrap_or("Always")
        {
            "Never" => false,
            "OnFailure" => exit.code != 0,
            _ => true,
        };
        let going =
            self.pod.metadata.deletion_timestamp.is_some() || self.shared.shutdown.is_cancelled();
        if !again || going {
            known.phase = Phase::Terminated(Box::new(end));
            return;
        }
        known.restarts += 1;
        known.last = Some(end);
        let name = known.name.clone();
        let delay = self.backoff(at, running.since.elapsed());
        if !delay.is_zero() {
            let message = format!(
                "back-off {}s restarting failed container={name} pod={}",
                delay.as_secs(),
                self.pod.name_any()
            );
            if let Some(known) = self.known.get_mut(at) {
                known.phase = Phase::Waiting("CrashLoopBackOff".into(), message);
            }
            let text = format!(
                "Back-off restarting failed container {name} in pod {}",
                self.pod.name_any()
            );
            self.shared
                .note(&self.pod, true, "BackOff", &text, "kubelet")
                .await;
        }
        self.restart_at.insert(at, Instant::now() + delay);
    }

    /// The first restart is immediate, then the delay doubles.
    fn backoff(&mut self, at: usize, ran: Duration) -> Duration {
        if ran >= RESTART_FORGIVEN {
            self.restart_delay.remove(&at);
        }
        match self.restart_delay.get_mut(&at) {
            None => {
                self.restart_delay.insert(at, RESTART_FIRST);
                Duration::ZERO
            }
            Some(delay) => {
                let now = *delay;
                *delay = (*delay * 2).min(RESTART_LIMIT);
                now
            }
        }
    }

    fn grace(&self) -> Duration {
        let meta = self.pod.metadata.deletion_grace_period_seconds;
        let seconds = meta
            .or(self
                .pod
                .spec
                .as_ref()
                .and_then(|s| s.termination_grace_period_seconds))
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Asks everything to end; returns how long it may take.
    async fn stop(&mut self, agent_stops: bool) -> Duration {
        self.restart_at.clear();
        for (at, running) in &self.running {
            running.process.terminate();
            if !agent_stops && let Some(container) = self.container(*at) {
                let message = format!("Stopping container {}", container.name);
                self.shared
                    .note(&self.pod, false, "Killing", &message, "kubelet")
                    .await;
            }
        }
        if agent_stops {
            self.grace().min(STOP_LIMIT)
        } else {
            self.grace()
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

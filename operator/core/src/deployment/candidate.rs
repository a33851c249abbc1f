//! Owns the way of a candidate: started, asked for one completion, given traffic in steps, or put out. It must never give
//! traffic to a revision that has not answered, and a verdict against one holds until the spec changes.

use bessemer_api::Abort;
use bessemer_protocol::ExitCode;
use bessemer_protocol::route::{Backend, BackendStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::observe::{Revision, has_run, hindered, pods};
use super::render::{self, Servers, apply};
use super::resolve::Desired;
use super::rollout::{Asked, LOOK_SECONDS, Rollout};
use crate::action::Action;
use crate::condition::{Verdict, whole_seconds};
use crate::kind::Kind;
use crate::label;
use crate::query::{Answer, Query};
use crate::reason::{self, Reason};
use crate::run::Told;
use crate::run::attempt::sentence;

impl Rollout<'_> {
    /// Starts the candidate, waits for it, asks it, then gives it traffic.
    pub(super) fn check(&mut self, desired: &Desired) -> Asked {
        let short = desired.revision.as_str();
        let revision = Revision::of(self.observed, short);
        let generation = self.object().metadata.generation.unwrap_or_default();
        let tried: Option<i64> = revision
            .annotation(label::GENERATION)
            .and_then(|text| text.parse().ok());
        let rejected = revision.annotation(label::REJECTED);
        if let Some(rejected) = rejected.filter(|_| tried == Some(generation)) {
            self.stay_out(desired, rejected);
            return Ok(());
        }
        let kept = revision
            .annotation(label::SINCE)
            .filter(|_| rejected.is_none());
        let deadline = self.object().spec.progress_deadline_seconds;
        let routed = self.traffic.has_share(short);
        let since: Timestamp = kept
            .and_then(|text| text.parse().ok())
            .filter(|since| routed || is_waited(*since, self.observed.now, deadline))
            .unwrap_or(whole_seconds(self.observed.now));
        let generation = tried.filter(|_| rejected.is_none()).unwrap_or(generation);
        self.checked_since = Some(since);
        if !self
            .observed
            .children
            .config_maps
            .iter()
            .any(|map| has_run(map, short))
        {
            self.actions.push(Action::Create {
                object: render::revision_config(self.object(), desired, self.settings),
            });
        }
        let wanted = self.object().spec.replicas.max(1);
        self.actions.extend(apply(
            render::service(self.object(), short),
            revision.service,
        ));
        let servers = Servers {
            short,
            digest: &desired.model.digest,
            replicas: wanted,
            since: &since.to_string(),
            generation,
            rejected: None,
        };
        self.actions.extend(apply(
            render::servers(self.object(), &servers, revision.deployment, self.settings),
            revision.deployment,
        ));
        let left = since
            .as_second()
            .saturating_add(deadline)
            .saturating_sub(self.observed.now.as_second());
        if revision.ready() < wanted {
            return self.wait(desired, &revision, left);
        }
        self.shift(desired, &revision, left)
    }

    fn wait(&mut self, desired: &Desired, revision: &Revision<'_>, left: i64) -> Asked {
        let short = desired.revision.as_str();
        if let Some(end) = pods(self.observed, short).find_map(terminal_end) {
            self.reject(desired, reason::CANDIDATE_UNHEALTHY, &end);
            return Ok(());
        }
        let why = hindered(self.observed, short);
        if left <= 0 || revision.gave_up() {
            let seconds = self.object().spec.progress_deadline_seconds;
            let why = why
                .map(|(_, message)| format!(": {message}"))
                .unwrap_or_default();
            let message = format!("the candidate was not ready within {seconds} s{why}");
            self.reject(desired, reason::CANDIDATE_UNHEALTHY, &message);
            return Ok(());
        }
        self.look_again(u64::try_from(left).unwrap_or(1));
        match why {
            Some((reason, message)) => self.in_progress(reason, message),
            None => self.in_progress(
                reason::CANDIDATE_STARTING,
                format!("revision {short} is starting"),
            ),
        }
        Ok(())
    }

    fn shift(&mut self, desired: &Desired, revision: &Revision<'_>, left: i64) -> Asked {
        let short = desired.revision.as_str();
        let Some(url) = revision.url() else {
            self.in_progress(
                reason::CANDIDATE_STARTING,
                "the candidate's Service has no address yet",
            );
            return Ok(());
        };
        let backend = Backend {
            name: short.into(),
            digest: desired.model.digest.clone(),
            url,
            weight: 0,
        };
        if !self.traffic.has_share(short) {
            if !self.answers(desired, &backend, left)? {
                return Ok(());
            }
            let first = self.object().spec.rollout.steps.first();
            let Some(first) = first.filter(|_| self.traffic.stable.is_some()) else {
                self.promote(backend);
                return Ok(());
            };
            let Some(status) = self.ask_router()? else {
                self.in_progress(reason::ROUTER_STARTING, "the router does not answer yet");
                return Ok(());
            };
            self.traffic.baseline = status
                .backends
                .iter()
                .find(|b| b.name == short)
                .map_or((0, 0), |b| (b.requests, b.errors));
            self.traffic.step = Some(0);
            let share = u32::try_from(first.percent).unwrap_or(0);
            self.traffic.give(backend, share, self.observed.now);
            self.rolling(0, u64::try_from(first.hold_seconds).unwrap_or(1));
            return Ok(());
        }
        self.step(desired, backend)
    }

    /// A canary step: abort on a breach, else go on when its time is over.
    fn step(&mut self, desired: &Desired, backend: Backend) -> Asked {
        let rollout = &self.object().spec.rollout;
        let step = self.traffic.step.unwrap_or(0);
        let Some(status) = self.ask_router()? else {
            // Without its router a canary goes no further: nobody has seen it, nothing was measured.
            let message = "the router does not answer; the step is held";
            self.in_progress(reason::ROLLING_OUT, message);
            self.look_again(LOOK_SECONDS);
            return Ok(());
        };
        if status.revision != self.traffic.config(self.object()).revision {
            self.rolling(step, LOOK_SECONDS);
            self.told.message += "; the router has not read this yet";
            return Ok(());
        }
        if let Some(abort) = &rollout.abort {
            let found = status.backends.iter().find(|b| b.name == backend.name);
            if let Some(breach) =
                found.and_then(|found| breach(abort, found, self.traffic.baseline))
            {
                self.reject(desired, reason::ROLLOUT_ABORTED, &breach);
                return Ok(());
            }
        }
        let hold = rollout.steps.get(step).map_or(0, |step| step.hold_seconds);
        // A step lasts from when its clients see it: a kubelet may bring the router its configuration only a minute later.
        let held = match status.seconds_in_force {
            Some(seconds) => i64::try_from(seconds).unwrap_or(i64::MAX),
            None => {
                let since = self.traffic.since.unwrap_or(self.observed.now);
                self.observed
                    .now
                    .as_second()
                    .saturating_sub(since.as_second())
            }
        };
        let left = hold.saturating_sub(held);
        if left > 0 {
            let look = if rollout.abort.is_some() {
                LOOK_SECONDS
            } else {
                u64::MAX
            };
            self.rolling(step, u64::try_from(left).unwrap_or(1).min(look));
            return Ok(());
        }
        let Some(next) = rollout.steps.get(step + 1) else {
            self.promote(backend);
            return Ok(());
        };
        self.traffic.step = Some(step + 1);
        self.traffic.give(
            backend,
            u32::try_from(next.percent).unwrap_or(0),
            self.observed.now,
        );
        self.rolling(step + 1, u64::try_from(next.hold_seconds).unwrap_or(1));
        Ok(())
    }

    fn rolling(&mut self, step: usize, again: u64) {
        let steps = &self.object().spec.rollout.steps;
        let percent = steps.get(step).map_or(0, |step| step.percent);
        let message = format!(
            "step {} of {}: the candidate has {percent} % of the traffic",
            step + 1,
            steps.len()
        );
        self.in_progress(reason::ROLLING_OUT, message);
        let look = if self.object().spec.rollout.abort.is_some() {
            LOOK_SECONDS
        } else {
            u64::MAX
        };
        self.look_again(again.min(look));
    }

    fn promote(&mut self, backend: Backend) {
        let name = backend.name.clone();
        // Not sooner: a pod that starts has its configuration at once, one that runs gets it later.
        self.router_wanted = true;
        self.traffic.previous = self.traffic.stable.replace(name.clone());
        self.traffic.step = None;
        self.traffic.give(backend, 100, self.observed.now);
        let first = self.traffic.previous.is_none();
        let (reason, message) = if first {
            (
                reason::ROUTER_STARTING,
                "the candidate answers; the router takes it up".to_owned(),
            )
        } else {
            (
                reason::DRAINING,
                format!("revision {name} takes the traffic; the one before finishes its answers"),
            )
        };
        self.in_progress(reason, message);
        self.look_again(1);
    }

    /// One real completion of the candidate itself, with the digest it must have.
    fn answers(
        &mut self,
        desired: &Desired,
        backend: &Backend,
        left: i64,
    ) -> Result<bool, Vec<Query>> {
        let object = self.object().key();
        let auth = self.object().spec.auth.as_ref();
        let query = Query::Completion {
            url: backend.url.clone(),
            model: object.name.clone(),
            api_keys_secret: auth.map(|auth| auth.api_keys_secret_ref.name.clone()),
            object,
        };
        let problem = match self.observed.facts.get(&query) {
            None => return Err(vec![query]),
            Some(Answer::Completion(answer))
                if answer.digest.as_ref().is_some_and(|d| *d != backend.digest) =>
            {
                let told = answer.digest.clone().unwrap_or_default();
                let message = format!("the candidate serves {told}, not {}", backend.digest);
                self.reject(desired, reason::CANDIDATE_UNHEALTHY, &message);
                return Ok(false);
            }
            Some(Answer::Completion(answer)) if answer.status == 200 && answer.complete => {
                return Ok(true);
            }
            Some(Answer::Completion(answer)) => {
                format!("HTTP {}: {}", answer.status, answer.message)
            }
            Some(Answer::Unavailable(why) | Answer::Refused(why)) => why.clone(),
            Some(_) => "the answer does not fit the question".into(),
        };
        if left <= 0 {
            let message = format!("the candidate gave no completion: {problem}");
            self.reject(desired, reason::CANDIDATE_UNHEALTHY, &message);
        } else {
            self.in_progress(
                reason::CANDIDATE_CHECKING,
                format!("the candidate gave no completion yet: {problem}"),
            );
            // Often at first, when a Service is not everywhere yet; the longer it lasts, the rarer.
            let waited = u64::try_from(self.observed.object.spec.progress_deadline_seconds - left);
            self.look_again((waited.unwrap_or(0) / 30).clamp(2, 10));
        }
        Ok(false)
    }

    /// The candidate is out. The verdict is written on its servers, so it holds until the spec changes.
    fn reject(&mut self, desired: &Desired, reason: Reason, message: &str) {
        if self.traffic.has_share(&desired.revision) {
            self.traffic.restore(self.observed.now);
        }
        let generation = self.object().metadata.generation.unwrap_or_default();
        // What was to be applied for a living candidate is not applied any more.
        let name = render::name(self.object(), &desired.revision);
        self.actions.retain(|action| {
            !matches!(action, Action::Apply { object, .. }
            if object.pointer("/kind").and_then(|v| v.as_str()) == Some("Deployment")
                && object.pointer("/metadata/name").and_then(|v| v.as_str()) == Some(name.as_str()))
        });
        self.put_out(desired, &format!("{}: {message}", reason.word), generation);
        self.refuse(reason, message);
    }

    fn stay_out(&mut self, desired: &Desired, rejected: &str) {
        let (word, message) = rejected.split_once(": ").unwrap_or((rejected, ""));
        let reason = reason::find(word).unwrap_or(reason::CANDIDATE_UNHEALTHY);
        if self.traffic.has_share(&desired.revision) {
            self.traffic.restore(self.observed.now);
        }
        self.put_out(
            desired,
            rejected,
            self.object().metadata.generation.unwrap_or_default(),
        );
        self.refuse(reason, message);
    }

    fn put_out(&mut self, desired: &Desired, rejected: &str, generation: i64) {
        let revision = Revision::of(self.observed, &desired.revision);
        // Answers under way are finished first: the pods go when the router has let go of them.
        let known = self
            .before
            .weight(&desired.revision)
            .or(self.traffic.weight(&desired.revision));
        let since = revision.annotation(label::SINCE).unwrap_or_default();
        let servers = Servers {
            short: &desired.revision,
            digest: &desired.model.digest,
            replicas: if known.is_some() {
                self.object().spec.replicas.max(1)
            } else {
                0
            },
            since,
            generation,
            rejected: Some(rejected),
        };
        let rendered = render::servers(self.object(), &servers, revision.deployment, self.settings);
        self.actions.extend(apply(rendered, revision.deployment));
    }

    fn refuse(&mut self, reason: Reason, message: &str) {
        let message = match &self.traffic.stable {
            Some(stable) => format!("{message}; revision {stable} goes on serving"),
            None => message.to_owned(),
        };
        self.refused = Some(reason.word.into());
        self.told = Told::new(Verdict::Stalled, reason, message);
    }
}

/// Whether somebody has waited since then. A look that comes well after the end of the wait, or before its beginning, comes after
/// the operator was away or its clock was set: the candidate gets its time anew instead of a verdict that would hold.
fn is_waited(since: Timestamp, now: Timestamp, deadline: i64) -> bool {
    let slack = 120;
    let waited = now.as_second().saturating_sub(since.as_second());
    (-slack..=deadline.saturating_add(slack)).contains(&waited)
}

/// What limit the candidate has broken since its rollout began.
fn breach(abort: &Abort, found: &BackendStatus, baseline: (u64, u64)) -> Option<String> {
    // A router that restarted counts from 0 again.
    let fresh = found.requests < baseline.0 || found.errors < baseline.1;
    let (requests, errors) = if fresh {
        (found.requests, found.errors)
    } else {
        (found.requests - baseline.0, found.errors - baseline.1)
    };
    let least = u64::try_from(abort.min_requests).unwrap_or(1).max(1);
    if requests < least {
        return None;
    }
    let rate = errors as f64 / requests as f64;
    if let Some(limit) = abort.error_rate
        && rate > limit
    {
        return Some(format!(
            "{errors} of {requests} requests failed; spec.rollout.abort.errorRate is {limit}"
        ));
    }
    let limit = abort.p99_time_to_first_token_ms?;
    let p99 = found.ttft_p99_ms.filter(|p99| *p99 > limit as f64)?;
    Some(format!(
        "the 99th percentile of the time to the first token is {p99:.0} ms; \
         spec.rollout.abort.p99TimeToFirstTokenMs is {limit}"
    ))
}

/// The sentence of a server that ended in a way that another start does not change.
fn terminal_end(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|container| {
        let states = [container.state.as_ref(), container.last_state.as_ref()];
        let end = states
            .into_iter()
            .flatten()
            .find_map(|state| state.terminated.as_ref())?;
        let terminal = ExitCode::from_code(end.exit_code).is_some_and(ExitCode::is_terminal);
        terminal.then(|| sentence(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(requests: u64, errors: u64, p99: Option<f64>) -> BackendStatus {
        BackendStatus {
            name: "r".into(),
            digest: "d".into(),
            requests,
            errors,
            in_flight: 0,
            ttft_p50_ms: None,
            ttft_p99_ms: p99,
            tokens_per_second: None,
        }
    }

    #[test]
    fn a_limit_counts_from_the_beginning_of_the_rollout_and_from_enough_requests() {
        let abort = Abort {
            error_rate: Some(0.1),
            p99_time_to_first_token_ms: Some(500),
            min_requests: 20,
        };
        assert_eq!(
            breach(&abort, &found(19, 19, Some(900.0)), (0, 0)),
            None,
            "too few to judge"
        );
        assert_eq!(
            breach(&abort, &found(100, 10, None), (0, 0)),
            None,
            "the limit itself is allowed"
        );
        assert!(breach(&abort, &found(100, 11, None), (0, 0)).is_some());
        assert_eq!(
            breach(&abort, &found(150, 55, None), (100, 50)),
            None,
            "what was before does not count"
        );
        assert!(breach(&abort, &found(150, 56, None), (100, 50)).is_some());
        assert!(
            breach(&abort, &found(30, 9, None), (100, 50)).is_some(),
            "the router restarted and counts anew"
        );
        assert!(breach(&abort, &found(30, 0, Some(501.0)), (0, 0)).is_some());
        assert_eq!(
            breach(&abort, &found(30, 0, None), (0, 0)),
            None,
            "no measurement, no breach"
        );
    }
}

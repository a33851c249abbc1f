//! podFailurePolicy: owns which rule a failed pod meets.
//! It must not count anything.

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// What a failed pod means for its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Counts towards the backoff limit.
    Count,
    /// Is replaced without being counted.
    Ignore,
    /// Fails the Job at once, with this message.
    FailJob(String),
}

/// The first rule that fits decides; without one the pod counts.
pub fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules);
    for (number, rule) in rules.enumerate() {
        let met = if let Some(codes) = &rule.on_exit_codes {
            exit_code(codes, pod).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching {} rule at index {number}",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any(),
                    rule.action
                )
            })
        } else {
            disruption(rule.on_pod_conditions.iter().flatten(), pod).map(|kind| {
                format!(
                    "Pod {}/{} has condition {kind} matching {} rule at index {number}",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any(),
                    rule.action
                )
            })
        };
        match (met, rule.action.as_str()) {
            (Some(message), "FailJob") => return Verdict::FailJob(message),
            (Some(_), "Ignore") => return Verdict::Ignore,
            (Some(_), _) => return Verdict::Count,
            (None, _) => {}
        }
    }
    Verdict::Count
}

fn exit_code(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    for container in all {
        if wanted
            .container_name
            .as_ref()
            .is_some_and(|name| *name != container.name)
        {
            continue;
        }
        let Some(code) = container
            .state
            .as_ref()
            .and_then(|s| s.terminated.as_ref())
            .map(|t| t.exit_code)
        else {
            continue;
        };
        let listed = wanted.values.contains(&code);
        // A container that succeeded meets no rule, NotIn included.
        if code != 0 && listed == (wanted.operator == "In") {
            return Some((container.name.clone(), code));
        }
    }
    None
}

fn disruption<'a>(
    patterns: impl Iterator<
        Item = &'a k8s_openapi::api::batch::v1::PodFailurePolicyOnPodConditionsPattern,
    >,
    pod: &Pod,
) -> Option<String> {
    let conditions: Vec<_> = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .collect();
    patterns
        .filter(|p| {
            conditions
                .iter()
                .any(|c| c.type_ == p.type_ && c.status == p.status)
        })
        .map(|p| p.type_.clone())
        .next()
}

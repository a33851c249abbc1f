//! Owns the one table of what the operator may do to the API server, and why. It must not grant what nothing uses: the
//! chart's roles are written from it.
//!
//! Not in the table: the cluster's public token keys at `/openid/v1/jwks`, which the default ClusterRole
//! `system:service-account-issuer-discovery` lets every service account read. Worker pods have no rights and no token
//! for the API.

use std::fmt::Write as _;

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In every watched namespace: a ClusterRole, or a Role per namespace.
    Watched,
    /// In the operator's own namespace only.
    Own,
}

/// Which objects a right covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// All.
    Any,
    /// The one of this name.
    One(&'static str),
    /// Those that this chart value lists; none when it is empty.
    Value(&'static str),
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// API group, empty for the core.
    pub group: &'static str,
    /// Plural names, with `/status` where the subresource is meant.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Which objects.
    pub names: Names,
    /// What needs it.
    pub why: &'static str,
}

use Names::{Any, One, Value};
use Scope::{Own, Watched};

const fn grant(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant {
        scope: Watched,
        group,
        resources,
        verbs,
        names: Any,
        why,
    }
}

const KINDS: &[&str] = &[
    "datasets",
    "deployments",
    "evaluations",
    "finetunes",
    "pretrainjobs",
];
/// The kinds that make artefacts.
const MAKERS: &[&str] = &["datasets", "evaluations", "finetunes", "pretrainjobs"];
const STATUSES: &[&str] = &[
    "datasets/status",
    "deployments/status",
    "evaluations/status",
    "finetunes/status",
    "pretrainjobs/status",
];

/// Name of the election's Lease.
pub const LEASE: &str = "bessemer-operator";

/// Everything the operator may do.
pub const TABLE: &[Grant] = &[
    grant(
        "bessemer.dev",
        KINDS,
        &["get", "list", "watch"],
        "the objects themselves; read live where they cannot be decoded, before a finalizer changes and before artefacts go",
    ),
    grant(
        "bessemer.dev",
        MAKERS,
        &["patch"],
        "the finalizer in metadata; spec is never written",
    ),
    grant("bessemer.dev", STATUSES, &["patch"], "status"),
    grant(
        "batch",
        &["jobs"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "runs; patch suspends and resumes",
    ),
    grant(
        "apps",
        &["deployments"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "servers and routers",
    ),
    grant(
        "",
        &["configmaps", "services"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "run configurations, traffic weights, names of servers and ranks",
    ),
    grant(
        "gateway.networking.k8s.io",
        &["httproutes"],
        &["get", "create", "patch", "delete"],
        "the division of traffic, said to the Gateways of spec.route",
    ),
    grant(
        "",
        &["pods"],
        &["list", "watch", "patch"],
        "why a run ended or waits; who may report progress; patch annotates a router's pod, so that its kubelet reads the configuration again",
    ),
    grant(
        "",
        &["events"],
        &["list"],
        "why a Job has no pod: only the Event of its controller says it",
    ),
    grant(
        "events.k8s.io",
        &["events"],
        &["create", "get", "update"],
        "Events for people; repeated ones are counted",
    ),
    Grant {
        names: Value("rbac.apiKeySecrets"),
        ..grant(
            "",
            &["secrets"],
            &["get"],
            "the check of a served model that asks for an API key",
        )
    },
    Grant {
        scope: Own,
        ..grant(
            "coordination.k8s.io",
            &["leases"],
            &["create"],
            "the election; a creation cannot be limited to a name",
        )
    },
    Grant {
        scope: Own,
        names: One(LEASE),
        ..grant(
            "coordination.k8s.io",
            &["leases"],
            &["get", "update"],
            "the election",
        )
    },
];

/// Whether the table allows `verb` on `resource` of `group`.
#[must_use]
pub fn allows(verb: &str, group: &str, resource: &str) -> bool {
    TABLE.iter().any(|grant| {
        grant.group == group && grant.resources.contains(&resource) && grant.verbs.contains(&verb)
    })
}

/// The chart's templates `bessemer.rules.watched` and `bessemer.rules.own`.
#[must_use]
pub fn chart() -> String {
    let mut text = String::from(
        "{{/* Written by `make generate` from operator/core/src/access.rs; change it there. */}}\n",
    );
    for (name, scope) in [("watched", Watched), ("own", Own)] {
        let _ = writeln!(text, "{{{{- define \"bessemer.rules.{name}\" -}}}}");
        for grant in TABLE.iter().filter(|grant| grant.scope == scope) {
            text.push_str(&rule(grant));
        }
        text.push_str("{{- end }}\n");
    }
    text
}

fn rule(grant: &Grant) -> String {
    let list = |all: &[&str]| {
        let quoted: Vec<String> = all.iter().map(|one| format!("{one:?}")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let rule = format!(
        "# {}\n- apiGroups: {}\n  resources: {}\n  verbs: {}\n",
        grant.why,
        list(&[grant.group]),
        list(grant.resources),
        list(grant.verbs)
    );
    match grant.names {
        Any => rule,
        One(name) => format!("{rule}  resourceNames: {}\n", list(&[name])),
        Value(path) => format!(
            "{{{{- with .Values.{path} }}}}\n{rule}  resourceNames: {{{{ toJson . }}}}\n{{{{- end }}}}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_table() {
        for kind in bessemer_api::Kind::ALL {
            assert!(KINDS.contains(&kind.plural()), "{kind}");
            assert!(STATUSES.contains(&format!("{}/status", kind.plural()).as_str()));
        }
    }

    #[test]
    fn nothing_is_granted_that_gives_away_the_cluster() {
        for grant in TABLE {
            assert!(!grant.why.is_empty());
            for word in grant.verbs.iter().chain(grant.resources) {
                assert!(!["*", "escalate", "bind", "impersonate"].contains(word));
            }
            // Listing returns contents.
            if grant.resources.contains(&"secrets") {
                assert_eq!(grant.verbs, ["get"]);
                assert_ne!(grant.names, Any);
            }
        }
        assert!(!allows("create", "", "pods"));
        assert!(allows("patch", "bessemer.dev", "datasets/status"));
    }

    #[test]
    fn the_chart_holds_what_the_table_says() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../charts/bessemer/templates/_rules.tpl"
        );
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, chart(), "run `make generate`");
    }
}

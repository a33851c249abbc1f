//! Owns the questions that core puts to the world outside the API server, and the answers. It must not ask anyone.

use std::collections::{BTreeMap, BTreeSet};

use bessemer_protocol::ProgressReport;
use bessemer_protocol::route::RouteStatus;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::ObjectRef;
use crate::peer::Key;

/// A question for the runtime.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "query", rename_all_fields = "camelCase")]
pub enum Query {
    /// The run pointer and the manifest it names, verified -> [`Answer::Run`].
    Run {
        /// Object that makes or made the artefact.
        object: Key,
        /// Content identity of the run.
        run_key: String,
    },
    /// The newest complete checkpoint of a run -> [`Answer::Checkpoint`].
    Checkpoint {
        /// Object that makes the artefact.
        object: Key,
        /// Content identity of the run.
        run_key: String,
    },
    /// The manifest of an artefact named by URI -> [`Answer::Run`].
    Manifest {
        /// `s3://bucket/prefix` of the directory that holds manifest.json.
        uri: String,
    },
    /// `GET /-/status` of a router -> [`Answer::Route`].
    Route {
        /// Base URL.
        url: String,
    },
    /// An HTTPRoute -> [`Answer::HttpRoute`]; [`Answer::Refused`] where there is no Gateway API.
    HttpRoute {
        /// The HTTPRoute, by name.
        route: ObjectRef,
    },
    /// Why a controller creates no pods for a Job, from its newest Event -> [`Answer::Refusal`].
    PodRefusal {
        /// Namespace.
        namespace: String,
        /// UID of the Job.
        job: String,
    },
    /// One short completion (`max_tokens` 1, temperature 0) -> [`Answer::Completion`].
    Completion {
        /// Base URL.
        url: String,
        /// `model` of the request.
        model: String,
        /// Secret with API keys in the same namespace as `object`; one of its values goes into the request.
        api_keys_secret: Option<String>,
        /// The Deployment.
        object: Key,
    },
    /// Digests that objects other than `object` which are not being deleted refer to, read live, never from a cache
    /// -> [`Answer::DigestsInUse`] (see [`crate::peer::Peer::digests`]).
    DigestsInUse {
        /// The object that goes away.
        object: Key,
    },
}

/// What the runtime found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value")]
pub enum Answer {
    /// The committed artefact, or nothing.
    Run(Option<Artefact>),
    /// The newest complete checkpoint, or nothing.
    Checkpoint(Option<Checkpoint>),
    /// The router's own numbers.
    Route(RouteStatus),
    /// The object as the API server has it, or nothing.
    HttpRoute(Option<Value>),
    /// The API server's words, or nothing.
    Refusal(Option<String>),
    /// The candidate answered.
    Completion(Completion),
    /// Hex digests.
    DigestsInUse(BTreeSet<String>),
    /// The question could not be answered now; one sentence that says why and what to do.
    Unavailable(String),
    /// The question has a bad answer that asking again does not change (a manifest that is not what its
    /// digest says); one sentence.
    Refused(String),
}

/// A committed artefact, from its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artefact {
    /// `s3://bucket/prefix` of its directory.
    pub uri: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Kind that the manifest names.
    pub kind: String,
    /// Statistics of the manifest; for an Evaluation `{"results": [...]}`.
    #[serde(default)]
    pub statistics: Value,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Its directory.
    pub uri: String,
    /// Digest of its manifest.
    pub digest: String,
    /// When its manifest was written.
    pub time: Timestamp,
}

/// Outcome of one completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// HTTP status; 0 when no connection came about.
    pub status: u16,
    /// Value of the header `x-bessemer-digest`, or of the server's own `/health` answer where it sends none.
    pub digest: Option<String>,
    /// Whether the body was a completion with at least one choice.
    pub complete: bool,
    /// One sentence about what went wrong; empty when nothing did.
    #[serde(default)]
    pub message: String,
}

/// The last progress report of an object, as the intake received it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// The report.
    pub report: ProgressReport,
    /// When it arrived.
    pub at: Timestamp,
}

/// What is known from outside the API server in this pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Answers by question.
    #[serde(skip)]
    pub answers: BTreeMap<Query, Answer>,
    /// The last progress report for the object's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Received>,
}

impl Facts {
    /// The answer to `query`, if it was asked.
    pub fn get(&self, query: &Query) -> Option<&Answer> {
        self.answers.get(query)
    }
}

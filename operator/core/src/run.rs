//! Owns what the four run-to-completion kinds share: the identity of a run and the seam to their specs. It must
//! not know any of the specs.

pub(crate) mod attempt;
mod cleanup;
mod plan;
mod render;
mod stage;
mod status;

use bessemer_api::{CommonStatus, InputDigest, Kind as KindName, ObjectPolicy, RunPolicy};
use bessemer_protocol::{IdentityError, Input, RunConfig, Task, run_key};
use serde_json::Value;

use crate::kind::{Kind, Observed, Reported};
use crate::label;
use crate::peer::{Peer, Reference};
use crate::plan::Plan;
use crate::pod::SourceSecret;
use crate::query::{Artefact, Received};
use crate::reason::{self, Halt, Invalid};
use crate::settings::Settings;

pub use plan::plan;
pub use render::{CONFIG_FILE, Rendered, render};
pub use status::{Told, checkpoint, headline, losses, transitions, waiting};

/// A kind whose objects run to completion; by this it is a [`Kind`].
pub trait RunKind: Reported {
    /// Which kind.
    const NAME: KindName;

    /// Whether a finished run stays when its inputs change (InputsChanged) instead of opening a new one.
    const KEEPS_RUN: bool;

    /// See [`Kind::references`].
    fn names(&self) -> Vec<Reference>;

    /// See [`Kind::peer`].
    fn shows(&self) -> Peer;

    /// The desired state, see [`Kind::resolve`].
    ///
    /// # Errors
    /// As there.
    fn run(observed: &Observed<Self>, settings: &Settings) -> Result<Run, Halt>;

    /// The policy blocks of the spec.
    fn policy(&self) -> (&ObjectPolicy, &RunPolicy);

    /// The common part of the present status, if there is a status.
    fn common(&self) -> Option<&CommonStatus>;

    /// Secrets with the keys of single sources.
    fn source_secrets(&self) -> Vec<SourceSecret> {
        Vec::new()
    }

    /// The kind's whole status around the new common part.
    fn status(&self, common: CommonStatus, news: News<'_>) -> Value;
}

impl<K: RunKind> Kind for K {
    const KIND: KindName = K::NAME;
    type Resolved = Run;

    fn references(&self) -> Vec<Reference> {
        self.names()
    }

    fn peer(&self) -> Peer {
        self.shows()
    }

    fn resolve(observed: &Observed<Self>, settings: &Settings) -> Result<Run, Halt> {
        Self::run(observed, settings)
    }

    fn plan(observed: &Observed<Self>, settings: &Settings) -> Plan {
        plan(observed, settings)
    }
}

/// What a kind may add to its own status.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// The artefact, if the run is complete and its manifest was read in this pass.
    pub artefact: Option<&'a Artefact>,
    /// The last progress report of the present run.
    pub progress: Option<&'a Received>,
    /// Whether the status describes the same run as before; if not, what the kind keeps per run starts anew.
    pub same_run: bool,
}

/// The typed desired state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What the worker does.
    pub task: Task,
    /// What it reads, in a fixed order.
    pub inputs: Vec<Input>,
    /// GPUs of each pod.
    pub gpus: i32,
}

/// Identity of a run of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Content identity: finds the artefact in the store.
    pub run_key: String,
    /// Value of restartNonce.
    pub nonce: Option<String>,
    /// Eight digits of both, for names and labels.
    pub short: String,
}

impl Identity {
    /// The identity of content `run_key` under `nonce`.
    pub fn new(run_key: String, nonce: Option<String>) -> Self {
        let short = label::short_hash(&[&run_key, nonce.as_deref().unwrap_or_default()], 8);
        Self {
            run_key,
            nonce,
            short,
        }
    }

    /// The trace of the run: a function of the object and the run, so every part of the system finds it.
    pub fn trace_id(&self, uid: &str) -> String {
        label::short_hash(&["trace", uid, &self.short], 32)
    }
}

impl Run {
    /// Content identity.
    ///
    /// # Errors
    /// When a number of the task is not finite.
    pub fn run_key(&self) -> Result<String, Invalid> {
        run_key(&self.task, &self.inputs).map_err(|error: IdentityError| {
            Invalid::terminal(
                reason::INVALID_SPEC,
                format!("the spec holds a number that is not finite: {error}"),
            )
        })
    }

    /// The run that a rendered configuration describes.
    pub fn of_config(config: RunConfig) -> Self {
        Self {
            task: config.task,
            inputs: config.inputs,
            gpus: i32::try_from(config.gpus).unwrap_or(i32::MAX),
        }
    }

    /// Pods that work together, one for each rank.
    pub fn pods(&self) -> i32 {
        i32::try_from(self.task.ranks()).unwrap_or(i32::MAX)
    }

    /// The inputs as status shows them.
    pub fn input_digests(&self) -> Vec<InputDigest> {
        self.inputs
            .iter()
            .map(|input| InputDigest {
                kind: input.kind.clone(),
                name: input.name.clone(),
                digest: input.digest.clone(),
            })
            .collect()
    }
}

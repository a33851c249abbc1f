//! Owns the kind Evaluation as the runtime drives it; the decisions lie in its steps.

mod observe;
mod resolve;
mod status;

use bessemer_api::{CommonStatus, Evaluation, Kind as KindName, ObjectPolicy, RunPolicy};
use serde_json::Value;

use crate::kind::Observed;
use crate::peer::{Peer, Reference};
use crate::reason::Halt;
use crate::run::{News, Run, RunKind};
use crate::settings::Settings;

impl RunKind for Evaluation {
    const NAME: KindName = KindName::Evaluation;
    const KEEPS_RUN: bool = false;

    fn names(&self) -> Vec<Reference> {
        observe::references(self)
    }

    fn shows(&self) -> Peer {
        observe::peer(self)
    }

    fn run(observed: &Observed<Self>, settings: &Settings) -> Result<Run, Halt> {
        resolve::resolve(observed, settings)
    }

    fn policy(&self) -> (&ObjectPolicy, &RunPolicy) {
        (&self.spec.policy, &self.spec.run)
    }

    fn common(&self) -> Option<&CommonStatus> {
        self.status.as_ref().map(|status| &status.common)
    }

    fn status(&self, common: CommonStatus, news: News<'_>) -> Value {
        status::status(self, common, news)
    }
}

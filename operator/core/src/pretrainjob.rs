//! Owns the kind PretrainJob as the runtime drives it; the decisions lie in its steps.

mod observe;
mod resolve;
mod status;

use bessemer_api::{CommonStatus, Kind as KindName, ObjectPolicy, PretrainJob, RunPolicy};
use serde_json::Value;

use crate::kind::{Kind, Observed};
use crate::peer::{Peer, Reference};
use crate::plan::Plan;
use crate::reason::Halt;
use crate::run::{self, News, Run, RunKind};
use crate::settings::Settings;

impl Kind for PretrainJob {
    const KIND: KindName = KindName::PretrainJob;
    type Resolved = Run;

    fn references(&self) -> Vec<Reference> {
        observe::references(self)
    }

    fn peer(&self) -> Peer {
        observe::peer(self)
    }

    fn resolve(observed: &Observed<Self>, settings: &Settings) -> Result<Run, Halt> {
        resolve::resolve(observed, settings)
    }

    fn plan(observed: &Observed<Self>, settings: &Settings) -> Plan {
        run::plan(observed, settings)
    }
}

impl RunKind for PretrainJob {
    const KEEPS_RUN: bool = true;

    fn policy(&self) -> (&ObjectPolicy, &RunPolicy) {
        (&self.spec.policy, &self.spec.run)
    }

    fn common(&self) -> CommonStatus {
        self.status
            .as_ref()
            .map(|status| status.common.clone())
            .unwrap_or_default()
    }

    fn status(&self, common: CommonStatus, news: News<'_>) -> Value {
        status::status(self, common, news)
    }
}

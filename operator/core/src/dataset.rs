//! Owns the kind Dataset as the runtime drives it; the decisions lie in its steps.

mod observe;
mod resolve;
mod status;

use bessemer_api::{CommonStatus, Dataset, Kind as KindName, ObjectPolicy, RunPolicy};
use serde_json::Value;

use crate::kind::Observed;
use crate::peer::{Peer, Reference};
use crate::pod::SourceSecret;
use crate::reason::Halt;
use crate::run::{News, Run, RunKind};
use crate::settings::Settings;

impl RunKind for Dataset {
    const NAME: KindName = KindName::Dataset;
    const KEEPS_RUN: bool = true;

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

    fn source_secrets(&self) -> Vec<SourceSecret> {
        let sources = self.spec.sources.iter();
        sources
            .filter_map(|source| {
                Some(SourceSecret {
                    source: source.name.clone(),
                    secret: source.credentials_secret_ref.as_ref()?.name.clone(),
                })
            })
            .collect()
    }
}

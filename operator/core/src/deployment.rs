//! Owns the kind Deployment as the runtime drives it; the decisions lie in its steps.

mod candidate;
mod gate;
mod gateway;
mod observe;
mod plan;
mod render;
mod resolve;
mod rollout;
mod status;
mod traffic;

use bessemer_api::{Kind as KindName, ModelDeployment};

use crate::kind::{Kind, Observed};
use crate::peer::{Peer, Reference};
use crate::plan::Plan;
use crate::reason::Halt;
use crate::settings::Settings;

pub use resolve::Desired;

impl Kind for ModelDeployment {
    const KIND: KindName = KindName::Deployment;
    type Resolved = Desired;

    fn references(&self) -> Vec<Reference> {
        observe::references(self)
    }

    fn peer(&self) -> Peer {
        observe::peer(self)
    }

    fn resolve(observed: &Observed<Self>, settings: &Settings) -> Result<Desired, Halt> {
        resolve::resolve(observed, settings)
    }

    fn plan(observed: &Observed<Self>, settings: &Settings) -> Plan {
        plan::plan(observed, settings)
    }
}

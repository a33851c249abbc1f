//! Owns how a client comes to an API; it must not start one.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::Error;
use crate::local::Place;

/// The API that kubectl would talk to.
pub async fn default() -> Result<Client, Error> {
    let config = Config::infer()
        .await
        .map_err(|error| Error::Unreachable(error.to_string()))?;
    Client::try_from(config).map_err(Into::into)
}

/// The API of a local control plane.
pub async fn local(place: &Place) -> Result<Client, Error> {
    if !place.is_running() {
        return Err(Error::NotRunning(place.root().into()));
    }
    let unreachable = |error: kube::config::KubeconfigError| Error::Unreachable(error.to_string());
    let kubeconfig = Kubeconfig::read_from(place.kubeconfig()).map_err(unreachable)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unreachable)?;
    Client::try_from(config).map_err(Into::into)
}

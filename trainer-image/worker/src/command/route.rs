//! Owns the command `route`: starts bessemer-route on the pod's address until SIGTERM.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bessemer_route::RouteOptions;
use tokio_util::sync::CancellationToken;

use crate::environment::{Environment, SERVING_PORT};
use crate::failure::Failure;

/// Longest drain; below the pod's grace period, which the operator renders.
const DRAIN: Duration = Duration::from_secs(25);

pub async fn run(
    config: &Path,
    environment: &Environment,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let listener =
        bessemer_route::drain::bind(SocketAddr::new(environment.listen(), SERVING_PORT)).await?;
    let options = RouteOptions {
        config: config.to_owned(),
        keys: environment.keys.clone(),
        drain: DRAIN,
    };
    Ok(bessemer_route::route(listener, options, stop).await?)
}

//! An S3 server over a directory: owns the bytes of local mode and answers any S3 client.
//!
//! It must not know what an artefact is: it stores keys, and keeps three promises the
//! artefact store builds on: a key is whole or absent (even after SIGKILL or power loss), a
//! conditional put has exactly one winner, and a listing is ordered by key.
//! Content types and user metadata are accepted and not kept.

mod directory;
mod service;
mod upload;

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use directory::{Directory, Entry, Listing, StoreError};

/// The key pair that signs requests to one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// AWS_ACCESS_KEY_ID.
    pub access_key: String,
    /// AWS_SECRET_ACCESS_KEY.
    pub secret_key: String,
}

/// Serves the store in `root` on `listener` until `shutdown`, then lets running requests
/// finish for at most five seconds.
///
/// # Errors
/// When `root` cannot be prepared.
pub async fn serve(
    listener: TcpListener,
    root: &Path,
    credentials: &Credentials,
    shutdown: CancellationToken,
) -> Result<(), StoreError> {
    let directory = Arc::new(Directory::open(root)?);
    let mut builder = S3ServiceBuilder::new(service::Service::new(directory));
    builder.set_auth(SimpleAuth::from_single(
        credentials.access_key.clone(),
        credentials.secret_key.clone(),
    ));
    let service = builder.build();
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file descriptors: wait, because accept would fail again at once.
                    tracing::warn!(%error, "object store cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let _ = socket.set_nodelay(true);
        let connection = server
            .serve_connection(TokioIo::new(socket), service.clone())
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "object store connection ended");
            }
        });
    }
    let grace = std::time::Duration::from_secs(5);
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
    Ok(())
}

#[cfg(test)]
mod tests;

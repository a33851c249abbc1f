//! Owns the wish to stop: SIGTERM or SIGINT seen by asynchronous code and by working threads; it must not stop anything.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens for SIGTERM and SIGINT from now on.
///
/// # Errors
/// When the system does not let us listen.
pub fn listen() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let heard = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        heard.cancel();
    });
    Ok(stop)
}

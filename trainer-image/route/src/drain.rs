//! Owns the end of an HTTP server: which requests are in flight, and how the listener closes once
//! they are done. It must not know what the requests do.

use axum::Router;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long connections may take to flush after the last answer is complete.
const FLUSH: Duration = Duration::from_secs(5);

/// Why a server cannot listen or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; stop what uses it or choose another address")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Accepting connections failed.
    #[error("the listener failed: {0}")]
    Accept(#[from] std::io::Error),
}

impl ListenError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "AddressInUse",
            Self::Accept(_) => "ListenerFailed",
        }
    }
}

/// Opens the listener.
///
/// # Errors
/// When the address cannot be bound; the message says what to do.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind { address, source })
}

/// Requests in flight and whether new ones are still taken.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    tracker: TaskTracker,
}

impl Drain {
    /// Whether the drain has begun; new requests are then refused.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Counts a request as in flight until the token is dropped, which must be when the last byte
    /// of its answer has been handed over.
    pub fn enter(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.tracker.len()
    }

    /// Serves `router` until `shutdown`; then the router is to answer 503 (see [`Self::begun`])
    /// while what is in flight finishes, for at most `deadline`, and the listener closes.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        shutdown: CancellationToken,
        deadline: Duration,
    ) -> Result<(), ListenError> {
        let closing = CancellationToken::new();
        let server =
            axum::serve(listener, router).with_graceful_shutdown(closing.clone().cancelled_owned());
        let drained = async {
            shutdown.cancelled().await;
            self.begun.cancel();
            self.tracker.close();
            tracing::info!(in_flight = self.in_flight(), "draining");
            if tokio::time::timeout(deadline, self.tracker.wait())
                .await
                .is_err()
            {
                tracing::warn!(
                    in_flight = self.in_flight(),
                    "the drain's deadline has passed; what is left is cut"
                );
            }
            closing.cancel();
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            result = server.into_future() => result?,
            () = drained => {}
        }
        Ok(())
    }
}

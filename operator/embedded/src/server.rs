//! Owns the way in from outside the process: the HTTPS listener, bearer tokens, kubeconfig. Must not know objects.

mod certificate;
pub mod private;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, service_fn};

use crate::api::{Api, Body, BoxError};
use crate::encode;
use crate::request::User;
use crate::status::Failure;

/// Issuer of service-account tokens, the same as in a cluster.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// Why the API server cannot be reached from outside.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken.
    #[error("{address} is in use: stop the program that listens there, or choose another port")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Keys and kubeconfig cannot be kept.
    #[error("{path}: {message}: check free space and permissions")]
    File {
        /// The file.
        path: String,
        /// What went wrong.
        message: String,
    },
    /// Certificates cannot be made.
    #[error("cannot make the server's certificate: {0}")]
    Certificate(String),
}

impl ServerError {
    /// Stable word for logs and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::AddressInUse { .. } => "AddressInUse",
            Self::Listen { .. } => "ListenFailed",
            Self::File { .. } => "FileFailed",
            Self::Certificate(_) => "CertificateFailed",
        }
    }
}

/// A listening API server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    kubeconfig: PathBuf,
    token: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens on `address` (port 0: any) with keys, token and kubeconfig kept in `directory`.
    ///
    /// # Errors
    /// When the address is taken or the directory cannot be written.
    pub async fn start(
        api: Api,
        directory: &Path,
        address: SocketAddr,
    ) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::AddrInUse => ServerError::AddressInUse { address },
                _ => ServerError::Listen { address, source },
            })?;
        Self::over(api, directory, listener)
    }

    /// As [`Self::start`], over a listener that is open already: who must know the port first cannot lose it again.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn over(api: Api, directory: &Path, listener: TcpListener) -> Result<Self, ServerError> {
        let file = |path: &Path, error: &dyn std::fmt::Display| ServerError::File {
            path: path.display().to_string(),
            message: error.to_string(),
        };
        let certificate = certificate::open(directory)?;
        let token = admin_token(&directory.join("token"))
            .map_err(|e| file(&directory.join("token"), &e))?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                source,
            })?;
        let kubeconfig = directory.join("kubeconfig");
        private::write(
            &kubeconfig,
            config(address, &certificate.authority, &token).as_bytes(),
        )
        .map_err(|e| file(&kubeconfig, &e))?;
        let stop = CancellationToken::new();
        let acceptor = TlsAcceptor::from(Arc::new(certificate.server));
        let door = Door {
            api,
            token: Sha256::digest(&token).to_vec(),
        };
        let task = tokio::spawn(accept(listener, acceptor, Arc::new(door), stop.clone()));
        Ok(Self {
            address,
            kubeconfig,
            token,
            stop,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://...`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The kubeconfig that was written.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The administrator's bearer token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Stops listening and ends all connections.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Who may come in.
struct Door {
    api: Api,
    /// SHA-256 of the administrator's token: comparing digests leaks nothing about the token.
    token: Vec<u8>,
}

impl Door {
    fn user(&self, request: &Request<Incoming>) -> Option<User> {
        let header = request
            .headers()
            .get(header::AUTHORIZATION)?
            .to_str()
            .ok()?;
        let token = header.strip_prefix("Bearer ")?.trim();
        if Sha256::digest(token).as_slice() == self.token {
            return Some(User::admin());
        }
        self.api.issuer()?.user(token, self.api.clock().now()).ok()
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, BoxError> {
        let open = matches!(
            request.uri().path(),
            "/healthz"
                | "/livez"
                | "/readyz"
                | "/version"
                | "/openid/v1/jwks"
                | "/.well-known/openid-configuration"
        );
        match self.user(&request) {
            Some(user) => {
                request.extensions_mut().insert(user);
            }
            None if open => {}
            None => return Ok(encode::failure(&Failure::unauthorized())),
        }
        self.api.clone().oneshot(request).await
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    door: Arc<Door>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: go on once there are some again.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (acceptor, door) = (acceptor.clone(), door.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service =
                TowerToHyperService::new(service_fn(move |request| door.clone().answer(request)));
            let builder = Builder::new(TokioExecutor::new());
            if let Err(error) = builder
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    connections.shutdown().await;
}

/// The administrator's token, made once.
fn admin_token(path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("no randomness"))?;
    let token = URL_SAFE_NO_PAD.encode(bytes);
    private::write(path, token.as_bytes())?;
    Ok(token)
}

/// The kubeconfig's text.
fn config(address: SocketAddr, authority: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bessemer\nclusters:\n- name: bessemer\n  cluster:\n    server: \
         https://{address}\n    certificate-authority-data: {}\nusers:\n- name: bessemer\n  user:\n    token: {token}\n\
         contexts:\n- name: bessemer\n  context:\n    cluster: bessemer\n    user: bessemer\n    namespace: default\n",
        STANDARD.encode(authority)
    )
}

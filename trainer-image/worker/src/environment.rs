//! Owns what reaches the worker through environment variables; it must not read files.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bessemer_protocol::env as name;

/// Port of servers and routers.
pub const SERVING_PORT: u16 = 8080;
/// Port of the metrics of tasks that end.
pub const METRICS_PORT: u16 = 8081;

/// Paths and addresses of this pod.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Scratch directory.
    pub work: PathBuf,
    /// Where the termination message goes.
    pub termination_log: PathBuf,
    /// Base URL of the operator's intake.
    pub progress_url: Option<String>,
    /// File with the token for it.
    pub token_file: Option<PathBuf>,
    /// Directory with API keys.
    pub keys: Option<PathBuf>,
    /// Address to listen on.
    pub pod_ip: Option<IpAddr>,
    /// Trace that this run belongs to.
    pub traceparent: Option<String>,
    /// Digest of the image, when the pod knows it.
    pub image: Option<String>,
}

impl Environment {
    /// Reads this process's variables; empty ones count as absent.
    pub fn read() -> Self {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        Self {
            work: path(name::WORK_DIR).unwrap_or_else(|| std::env::temp_dir().join("bessemer")),
            termination_log: path(name::TERMINATION_LOG)
                .unwrap_or_else(|| "/dev/termination-log".into()),
            progress_url: get(name::PROGRESS_URL),
            token_file: path(name::TOKEN_FILE),
            keys: path(name::API_KEYS_DIR),
            pod_ip: get(name::POD_IP).and_then(|ip| ip.parse().ok()),
            traceparent: get("TRACEPARENT"),
            image: get("BESSEMER_IMAGE_DIGEST"),
        }
    }

    /// Address to listen on; all of them where the pod does not know its own.
    pub fn listen(&self) -> IpAddr {
        self.pod_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

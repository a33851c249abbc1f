//! Owns a real control plane for tests: etcd, kube-apiserver and kube-controller-manager as child processes. Must not know scenarios.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Request;
use kube::client::Body;
use serde_json::json;

const TOKEN: &str = "conformance-admin";
const CONTROLLERS: [&str; 3] = [
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
];

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program could not be built or started.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: String,
        /// What happened.
        message: String,
    },
    /// The API server did not become ready.
    #[error("kube-apiserver is not ready after 60 s; last line of its log: {log}")]
    NotReady {
        /// Last line of its log.
        log: String,
    },
    /// The client cannot be made or refused.
    #[error("client: {0}")]
    Client(String),
}

/// A running control plane; dropping it ends it and removes its directory.
pub struct Cluster {
    client: kube::Client,
    children: Vec<(String, Child)>,
    /// Its own; none where the cluster is another's.
    directory: Option<PathBuf>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The last started goes first, so that nobody misses its server.
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn failed(program: &str, message: impl std::fmt::Display) -> ClusterError {
    ClusterError::Program {
        program: program.to_owned(),
        message: message.to_string(),
    }
}

/// A port that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn port() -> Result<u16, ClusterError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| failed("port", e))?;
    listener
        .local_addr()
        .map(|a| a.port())
        .map_err(|e| failed("port", e))
}

/// Where the built programs are.
#[must_use]
pub fn binaries() -> PathBuf {
    if let Ok(folder) = std::env::var("BESSEMER_BIN") {
        return folder.into();
    }
    if let Some(cache) = std::env::var_os("BESSEMER_CACHE").filter(|c| !c.is_empty()) {
        return Path::new(&cache).join("bin");
    }
    let cache = std::env::var("XDG_CACHE_HOME")
        .ok()
        .filter(|c| !c.is_empty())
        .map(PathBuf::from);
    let home = || {
        PathBuf::from(std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned())).join(".cache")
    };
    cache.unwrap_or_else(home).join("bessemer/bin")
}

/// Builds programs by `cluster/build.sh` unless they are there.
///
/// # Errors
/// When the build fails.
pub fn build(programs: &[&str]) -> Result<(), ClusterError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/build.sh");
    let status = Command::new(&script)
        .args(programs)
        .status()
        .map_err(|e| failed("build.sh", e))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(
            "build.sh",
            format!("building {programs:?} ended with {status}"),
        ))
    }
}

impl Cluster {
    /// Builds what is missing and starts everything, with these controllers beside those that every test needs and etcd's
    /// history compacted so often; ready in a few seconds once built.
    ///
    /// # Errors
    /// When a program cannot be built or does not come up.
    pub async fn start(controllers: &[&str], compaction: &str) -> Result<Self, ClusterError> {
        build(&["etcd", "kube-apiserver", "kube-controller-manager"])?;
        let directory =
            std::env::temp_dir().join(format!("bessemer-cluster-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|e| failed("directory", e))?;
        let (etcd, peer, secure) = (port()?, port()?, port()?);
        let write = |name: &str, text: String| -> Result<String, ClusterError> {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(|e| failed(name, e))?;
            Ok(path.display().to_string())
        };
        let tokens = write(
            "tokens.csv",
            format!("{TOKEN},admin,admin,\"system:masters\"\n"),
        )?;
        let kubeconfig = write(
            "kubeconfig",
            json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{secure}"), "insecure-skip-tls-verify": true}}],
                "users": [{"name": "c", "user": {"token": TOKEN}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            })
            .to_string(),
        )?;
        let key = directory.join("accounts.key").display().to_string();
        let made = Command::new("openssl")
            .args(["genrsa", "-out", &key, "2048"])
            .stderr(Stdio::null())
            .status();
        if !made.map_err(|e| failed("openssl", e))?.success() {
            return Err(failed("openssl", "cannot make a key"));
        }
        let address = format!("https://127.0.0.1:{secure}")
            .parse()
            .map_err(|e| failed("address", e))?;
        let mut config = kube::Config::new(address);
        config.accept_invalid_certs = true;
        // A scenario wants the first answer, a refusal too.
        config.default_retry = false;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        let client =
            kube::Client::try_from(config).map_err(|e| ClusterError::Client(e.to_string()))?;
        let data = directory.join("etcd").display().to_string();
        let certificates = directory.join("certificates").display().to_string();
        let mut cluster = Self {
            client,
            children: Vec::new(),
            directory: Some(directory),
        };
        cluster.spawn(
            "etcd",
            &[
                format!("--data-dir={data}"),
                format!("--listen-client-urls=http://127.0.0.1:{etcd}"),
                format!("--advertise-client-urls=http://127.0.0.1:{etcd}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        cluster.spawn(
            "kube-apiserver",
            &[
                format!("--etcd-servers=http://127.0.0.1:{etcd}"),
                format!("--etcd-compaction-interval={compaction}"),
                format!("--secure-port={secure}"),
                "--bind-address=127.0.0.1".to_owned(),
                // Nobody connects to it; loopback is refused here.
                "--advertise-address=10.99.0.1".to_owned(),
                format!("--cert-dir={certificates}"),
                format!("--token-auth-file={tokens}"),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                "--watch-cache=true".to_owned(),
            ],
        )?;
        cluster.ready().await?;
        cluster.spawn(
            "kube-controller-manager",
            &[
                format!("--kubeconfig={kubeconfig}"),
                format!("--authentication-kubeconfig={kubeconfig}"),
                format!("--authorization-kubeconfig={kubeconfig}"),
                format!(
                    "--controllers={}",
                    [&CONTROLLERS, controllers].concat().join(",")
                ),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
                format!("--cert-dir={certificates}"),
                format!("--service-account-private-key-file={key}"),
            ],
        )?;
        Ok(cluster)
    }

    /// The cluster that `KUBECONFIG` names; it outlives this value.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read or the API server is not ready.
    pub async fn here() -> Result<Self, ClusterError> {
        let mut config = kube::Config::infer()
            .await
            .map_err(|e| ClusterError::Client(e.to_string()))?;
        config.default_retry = false;
        let client =
            kube::Client::try_from(config).map_err(|e| ClusterError::Client(e.to_string()))?;
        let cluster = Self {
            client,
            children: Vec::new(),
            directory: None,
        };
        cluster.ready().await?;
        Ok(cluster)
    }

    fn log(&self, program: &str) -> PathBuf {
        let directory = self.directory.clone().unwrap_or_default();
        directory.join(format!("{program}.log"))
    }

    /// The administrator's kubeconfig; none where the cluster is another's.
    #[must_use]
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("kubeconfig"))
    }

    /// Starts a program that lives as long as the cluster.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, program: &str, arguments: &[String]) -> Result<(), ClusterError> {
        let log = std::fs::File::create(self.log(program)).map_err(|e| failed(program, e))?;
        // It ends with us, whatever ends us.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binaries().join(program))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| failed(program, e))?;
        self.children.push((program.to_owned(), child));
        Ok(())
    }

    /// The programs that run here and their processes.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        let children = self.children.iter();
        children.map(|(program, child)| (program.as_str(), child.id()))
    }

    async fn ready(&self) -> Result<(), ClusterError> {
        for _ in 0..600 {
            if self.get("/readyz").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.log("kube-apiserver")).unwrap_or_default();
        Err(ClusterError::NotReady {
            log: log.lines().last().unwrap_or_default().to_owned(),
        })
    }

    async fn get(&self, path: &str) -> Result<String, ClusterError> {
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(|e| ClusterError::Client(e.to_string()))?;
        self.client
            .request_text(request)
            .await
            .map_err(|e| ClusterError::Client(e.to_string()))
    }

    /// A client for the administrator.
    #[must_use]
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Makes a namespace and waits until pods can be created in it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) -> Result<(), ClusterError> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            .to_string();
        let request = Request::post("/api/v1/namespaces")
            .header("content-type", "application/json")
            .body(Body::from(body.into_bytes()))
            .map_err(|e| ClusterError::Client(e.to_string()))?;
        self.client
            .send(request)
            .await
            .map_err(|e| ClusterError::Client(e.to_string()))?;
        for _ in 0..300 {
            if self
                .get(&format!(
                    "/api/v1/namespaces/{name}/serviceaccounts/default"
                ))
                .await
                .is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(failed(
            "kube-controller-manager",
            format!("made no service account in {name}"),
        ))
    }
}

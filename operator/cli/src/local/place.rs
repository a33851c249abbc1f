//! Owns the state directory of a local control plane: names of its files, lock, keys and ports that stay.

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bessemer_embedded::objectstore::Credentials;
use rustix::process::Pid;

use crate::error::Error;

/// Image name that the node agent maps to the binaries of this build.
pub const IMAGE: &str = "bessemer/trainer:local";

/// Purpose of the port with the operator's metrics and health.
pub const METRICS: &str = "metrics";

/// Networks of Services are 127.96.0.0/16 and those after it.
const FIRST_NETWORK: u8 = 96;
const NETWORKS: u8 = 128;
/// Port whose listener holds a network.
const NETWORK_PORT: u16 = 6443;

/// A state directory.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// The given directory, or `$XDG_STATE_HOME/bessemer`.
    pub fn new(given: Option<PathBuf>) -> Result<Self, Error> {
        let root = given
            .or_else(|| Some(PathBuf::from(std::env::var_os("XDG_STATE_HOME")?).join("bessemer")))
            .or_else(|| {
                Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state/bessemer"))
            })
            .ok_or(Error::Missing {
                what: "a state directory",
                path: "$HOME".into(),
                hint: "give --dir",
            })?;
        Ok(Self {
            root: std::path::absolute(&root).map_err(Error::file(&root))?,
        })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Objects of the API and its keys.
    pub fn api(&self) -> PathBuf {
        self.root.join("api")
    }

    /// Objects of the store.
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Directories of pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("api").join("kubeconfig")
    }

    /// Output of the daemon.
    pub fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// Exists while the daemon answers.
    pub fn ready(&self) -> PathBuf {
        self.root.join("daemon.ready")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("daemon.lock")
    }

    /// Takes the directory for this process; the kernel gives it back when the process ends, however it ends.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::file(&path))?;
        match file.try_lock() {
            Ok(()) => {
                std::fs::write(self.root.join("daemon.pid"), std::process::id().to_string())
                    .map_err(Error::file(&path))?;
                Ok(file)
            }
            Err(TryLockError::WouldBlock) => Err(Error::AlreadyRunning(self.root.clone())),
            Err(TryLockError::Error(source)) => Err(Error::File { path, source }),
        }
    }

    /// Whether a daemon holds the directory.
    pub fn is_running(&self) -> bool {
        File::open(self.lock_file())
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Process id of the daemon that last held the directory.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(
            std::fs::read_to_string(self.root.join("daemon.pid"))
                .ok()?
                .trim()
                .parse()
                .ok()?,
        )
    }

    /// Whether the daemon that last held the directory is being ended: it answers nobody, but its lock and its ports are
    /// its own until its last thread is gone.
    pub fn is_ending(&self) -> bool {
        let commandless = |pid: Pid| {
            let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            line.is_ok_and(|line| line.is_empty())
        };
        self.pid()
            .is_some_and(|pid| commandless(pid) && !has_ended(pid))
    }

    /// Keys of the object store, made on first use.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        let path = self.root.join("credentials");
        let secret_key = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_string(),
            Err(_) => {
                let mut random = [0; 24];
                File::open("/dev/urandom")
                    .and_then(|mut file| file.read_exact(&mut random))
                    .map_err(Error::file("/dev/urandom"))?;
                let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                private(&path, &secret)?;
                secret
            }
        };
        Ok(Credentials {
            access_key: "bessemer".into(),
            secret_key,
        })
    }

    /// The port of [`Self::listen`], if it ever did.
    pub fn port(&self, purpose: &str) -> Option<u16> {
        let text = std::fs::read_to_string(self.root.join(format!("port.{purpose}"))).ok()?;
        text.trim().parse().ok()
    }

    /// A loopback port that stays the same over restarts, since addresses are rendered into objects.
    pub fn listen(&self, purpose: &str) -> Result<std::net::TcpListener, Error> {
        let file = self.root.join(format!("port.{purpose}"));
        let port = self.port(purpose).unwrap_or(0);
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|source| {
            match source.kind() {
                std::io::ErrorKind::AddrInUse => Error::PortInUse {
                    port,
                    file: file.clone(),
                },
                _ => Error::File {
                    path: format!("127.0.0.1:{port}").into(),
                    source,
                },
            }
        })?;
        let port = listener.local_addr().map_err(Error::file(&file))?.port();
        std::fs::write(&file, port.to_string()).map_err(Error::file(&file))?;
        listener.set_nonblocking(true).map_err(Error::file(&file))?;
        Ok(listener)
    }

    /// The /16 from which Services get their addresses, and what holds it for this process. Two control planes on one
    /// machine must not give the same address away; it stays the same over restarts, since Services keep theirs.
    pub fn network(&self) -> Result<(std::net::TcpListener, Ipv4Addr), Error> {
        let file = self.root.join("network");
        let hold = |second: u8| {
            // .0.1 is never given to a Service.
            std::net::TcpListener::bind((Ipv4Addr::new(127, second, 0, 1), NETWORK_PORT))
                .map(|held| (held, Ipv4Addr::new(127, second, 0, 0)))
        };
        if let Some(known) = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
        {
            let [_, second, ..] = known.octets();
            return hold(second).map_err(|_| Error::NetworkInUse(known));
        }
        let mut hash = std::hash::DefaultHasher::new();
        self.root.hash(&mut hash);
        let first = (hash.finish() % u64::from(NETWORKS)) as u8;
        let found = (0..NETWORKS)
            .find_map(|n| hold(FIRST_NETWORK + (first + n) % NETWORKS).ok())
            .ok_or(Error::NetworkInUse(Ipv4Addr::LOCALHOST))?;
        std::fs::write(&file, found.1.to_string()).map_err(Error::file(&file))?;
        Ok(found)
    }
}

/// Whether a process has let go of all it held: it is gone, or waits to be reaped.
pub fn has_ended(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let gone = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        state.is_empty() || state.starts_with(['Z', 'X'])
    };
    threads.map_or(true, |threads| threads.flatten().all(gone))
}

/// Writes a file that only its owner reads.
fn private(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file(path))?;
    file.write_all(text.as_bytes()).map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A child being started holds what this process has open, until it becomes its program: what another test just
    /// let go of would still be held.
    static STARTS: Mutex<()> = Mutex::new(());

    #[test]
    fn a_process_has_ended_once_only_its_reaping_is_left() {
        let starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(starts);
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        assert!(!has_ended(pid));
        drop(child.stdin.take());
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        assert!(
            Path::new(&format!("/proc/{}", child.id())).exists(),
            "not reaped yet"
        );
        child.wait().unwrap();
        assert!(has_ended(pid));
    }

    #[test]
    fn a_directory_has_one_holder_and_its_ports_and_keys_stay() {
        let _none_starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(Some(directory.path().into())).unwrap();
        assert!(!place.is_running());
        let lock = place.lock().unwrap();
        assert!(place.is_running());
        assert!(matches!(place.lock(), Err(Error::AlreadyRunning(_))));
        drop(lock);
        assert!(!place.is_running());
        assert_eq!(place.credentials().unwrap(), place.credentials().unwrap());
        let port = place.listen("a").unwrap().local_addr().unwrap().port();
        let again = place.listen("a").unwrap();
        assert_eq!(again.local_addr().unwrap().port(), port);
        assert!(
            place
                .listen("a")
                .unwrap_err()
                .to_string()
                .contains(&format!("port {port}"))
        );
        let (held, network) = place.network().unwrap();
        assert!(matches!(place.network(), Err(Error::NetworkInUse(known)) if known == network));
        drop(held);
        assert_eq!(place.network().unwrap().1, network);
    }
}

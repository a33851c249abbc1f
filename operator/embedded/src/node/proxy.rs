//! The service proxy: owns a listener on each Service's clusterIP and port, and sends each new
//! connection to a ready endpoint. It must not touch running connections: when endpoints
//! change they drain by themselves, so no stream is cut.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::controller::cache::Store;

/// Tells the proxy that something changed.
#[derive(Clone, Default)]
pub struct Proxy(Arc<Notify>);

/// Where the connections of one port go.
#[derive(Default)]
struct Backends {
    all: RwLock<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Backends {
    /// All backends, each call beginning with another one.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut all = self.all.read().clone();
        if !all.is_empty() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % all.len();
            all.rotate_left(turn);
        }
        all
    }
}

struct Port {
    backends: Arc<Backends>,
    stop: CancellationToken,
}

impl Proxy {
    /// Looks again soon.
    pub fn touch(&self) {
        self.0.notify_one();
    }

    /// Keeps the listeners in step with Services and EndpointSlices until `shutdown`.
    pub async fn run(
        self,
        services: Store<Service>,
        slices: Store<EndpointSlice>,
        shutdown: CancellationToken,
    ) {
        let mut ports: HashMap<SocketAddr, Port> = HashMap::new();
        loop {
            let wanted = wanted(&services, &slices);
            ports.retain(|address, port| {
                let stays = wanted.contains_key(address);
                if !stays {
                    port.stop.cancel();
                }
                stays
            });
            for (address, backends) in wanted {
                let port = ports
                    .entry(address)
                    .or_insert_with(|| open(address, &shutdown));
                *port.backends.all.write() = backends;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.0.notified() => {}
            }
        }
    }
}

/// Address of each service port, and the endpoints behind it.
fn wanted(
    services: &Store<Service>,
    slices: &Store<EndpointSlice>,
) -> BTreeMap<SocketAddr, Vec<SocketAddr>> {
    let slices = slices.all();
    let mut all = BTreeMap::new();
    for service in services.all() {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec
            .cluster_ip
            .as_deref()
            .and_then(|ip| ip.parse::<IpAddr>().ok())
        else {
            continue;
        };
        let (name, namespace) = (service.name_any(), service.namespace());
        let own = slices.iter().filter(|s| {
            s.namespace() == namespace
                && s.labels().get("kubernetes.io/service-name") == Some(&name)
        });
        let own: Vec<_> = own.collect();
        for port in spec
            .ports
            .iter()
            .flatten()
            .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
        {
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let port_name = port.name.clone().unwrap_or_default();
            all.insert(SocketAddr::new(ip, number), endpoints(&own, &port_name));
        }
    }
    all
}

/// Ready endpoints; without any, those that still serve while they end.
fn endpoints(slices: &[&Arc<EndpointSlice>], port: &str) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices {
        let mut ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| p.name.as_deref().unwrap_or_default() == port);
        let Some(number) = ports
            .next()
            .and_then(|p| p.port)
            .and_then(|n| u16::try_from(n).ok())
        else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let addresses = endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok());
            let addresses = addresses.map(|a| SocketAddr::new(a, number));
            if conditions.ready.unwrap_or(true) {
                ready.extend(addresses);
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                ending.extend(addresses);
            }
        }
    }
    if ready.is_empty() { ending } else { ready }
}

fn open(address: SocketAddr, shutdown: &CancellationToken) -> Port {
    let port = Port {
        backends: Arc::default(),
        stop: shutdown.child_token(),
    };
    let (backends, stop) = (port.backends.clone(), port.stop.clone());
    tokio::spawn(async move {
        let Some(listener) = listen(address, &stop).await else {
            return;
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, _)) => {
                    tokio::spawn(forward(client, backends.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    port
}

async fn listen(address: SocketAddr, stop: &CancellationToken) -> Option<TcpListener> {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) if !told => {
                tracing::warn!(%error, %address, "service address cannot be bound; another local control plane may hold it");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Connects to the first backend that answers and copies both ways until both sides are done.
async fn forward(mut client: TcpStream, backends: Arc<Backends>) {
    let _ = client.set_nodelay(true);
    for address in backends.in_turn() {
        let connected =
            tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await;
        let Ok(Ok(mut server)) = connected else {
            continue;
        };
        let _ = server.set_nodelay(true);
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

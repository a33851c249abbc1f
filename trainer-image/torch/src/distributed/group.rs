//! Owns a group of ranks and its operations; it must not know what they compute.

use std::ffi::{c_char, c_int};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::Tensor;
use torch_sys::C_tensor;

use super::store::{Raw as RawStore, milliseconds, text};
use super::verdict::{self, Peers, Pulse};
use super::{Error, Store};
use crate::{check, handles};

/// Between two tries to reach rank 0, and two looks whether to stop.
const TRY: Duration = Duration::from_millis(200);

/// The shim's group.
#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn bessemer_torch_group_gloo(
        store: *mut RawStore,
        rank: c_int,
        size: c_int,
        own: *const c_char,
        timeout: i64,
        group: *mut *mut Raw,
    ) -> *mut c_char;
    fn bessemer_torch_group_free(group: *mut Raw);
    fn bessemer_torch_group_all_reduce(group: *mut Raw, tensor: *mut C_tensor) -> *mut c_char;
    fn bessemer_torch_group_broadcast(
        group: *mut Raw,
        tensor: *mut C_tensor,
        root: i64,
    ) -> *mut c_char;
    fn bessemer_torch_group_all_gather(
        group: *mut Raw,
        input: *mut C_tensor,
        outputs: *const *mut C_tensor,
        count: usize,
    ) -> *mut c_char;
    fn bessemer_torch_group_barrier(group: *mut Raw) -> *mut c_char;
}

/// What a rank knows before it meets the others.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Host and port at which rank 0 is to be found.
    pub rendezvous: String,
    /// Address of this rank; the others reach it there.
    pub own: IpAddr,
    /// Longest wait for the others to come.
    pub patience: Duration,
    /// Longest duration of one operation, the wait for the slowest rank included.
    pub timeout: Duration,
}

/// Processes that compute together. All ranks call the same operations in the same order. After the first failure the
/// group is closed.
#[derive(Debug)]
pub struct Group {
    connections: Option<Connections>,
    pulse: Option<Pulse>,
    store: Arc<Store>,
    peers: Peers,
    rank: usize,
    size: usize,
    number: u64,
}

/// The shim's group, closed when dropped.
#[derive(Debug)]
struct Connections(NonNull<Raw>);

// SAFETY: c10d::ProcessGroupGloo ties nothing to the thread that made it; calls are serialised by `&mut Group`.
unsafe impl Send for Connections {}

impl Drop for Connections {
    fn drop(&mut self) {
        // SAFETY: made by the shim and released once.
        unsafe { bessemer_torch_group_free(self.0.as_ptr()) };
    }
}

impl Group {
    /// Meets the other ranks. `stopping` is asked now and then.
    ///
    /// # Errors
    /// [`Error`], naming the address or the rank that is missing.
    pub fn join(membership: &Membership, stopping: &dyn Fn() -> bool) -> Result<Self, Error> {
        let (rank, size) = (membership.rank, membership.size);
        let refuse = |problem: String| Error::Refused {
            rank,
            address: membership.rendezvous.clone(),
            problem,
        };
        if rank >= size {
            return Err(refuse(format!("there are only {size} ranks")));
        }
        let until = Instant::now() + membership.patience;
        let store = if rank == 0 {
            serve(membership)?
        } else {
            reach(membership, until, stopping)?
        };
        let (host, port) = split(store.address()).map_err(&refuse)?;
        let beating = Store::connect(host, port, membership.patience)?;
        if store.add(&format!("taken/{rank}"), 1)? > 1 {
            return Err(refuse("another process has that number".to_owned()));
        }
        let sizes = store.first("size", size.to_string().as_bytes())?;
        if sizes != size.to_string().as_bytes() {
            let found = String::from_utf8_lossy(&sizes).into_owned();
            return Err(refuse(format!("it counts {size} ranks, another {found}")));
        }
        let pulse = Pulse::start(beating, rank)?;
        store.set(
            &format!("rank/{rank}"),
            membership.own.to_string().as_bytes(),
        )?;
        let mut peers = Peers::new();
        for peer in (0..size).filter(|&peer| peer != rank) {
            let address = meet(&store, peer, membership, until, stopping)?;
            peers.insert(peer, address);
        }
        let mut group = Self {
            connections: None,
            pulse: Some(pulse),
            store: Arc::new(store),
            peers,
            rank,
            size,
            number: 0,
        };
        let own = text(&membership.own.to_string())?;
        let number = |value: usize| c_int::try_from(value).unwrap_or(c_int::MAX);
        let mut raw = std::ptr::null_mut();
        // SAFETY: the store and `own` outlive the call, `raw` is a place to write; the shim keeps the store by itself.
        let made = check(unsafe {
            bessemer_torch_group_gloo(
                group.store.raw(),
                number(rank),
                number(size),
                own.as_ptr(),
                milliseconds(membership.timeout.min(membership.patience)),
                &raw mut raw,
            )
        });
        match (made, NonNull::new(raw)) {
            (Ok(()), Some(raw)) => {
                group.connections = Some(Connections(raw));
                Ok(group)
            }
            (Ok(()), None) => Err(crate::Error("no group was made".to_owned()).into()),
            (Err(error), _) => Err(group.failed("connecting".to_owned(), &error)),
        }
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sums `tensor` over all ranks in place; every rank gets the same bits.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn sum(&mut self, tensor: &Tensor) -> Result<(), Error> {
        // SAFETY: group and tensor are alive for the call.
        self.run("all_reduce", |group| unsafe {
            bessemer_torch_group_all_reduce(group, tensor.as_ptr().cast_mut())
        })
    }

    /// Averages `tensor` over all ranks in place.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn average(&mut self, tensor: &Tensor) -> Result<(), Error> {
        self.sum(tensor)?;
        crate::scale(std::slice::from_ref(tensor), 1.0 / self.size as f64)?;
        Ok(())
    }

    /// Overwrites `tensor` with that of rank `root`.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), Error> {
        let root = i64::try_from(root).unwrap_or(i64::MAX);
        // SAFETY: group and tensor are alive for the call.
        self.run("broadcast", |group| unsafe {
            bessemer_torch_group_broadcast(group, tensor.as_ptr().cast_mut(), root)
        })
    }

    /// The tensors of all ranks in order; all have the shape of `tensor`.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn all_gather(&mut self, tensor: &Tensor) -> Result<Vec<Tensor>, Error> {
        let all: Vec<Tensor> = (0..self.size).map(|_| tensor.zeros_like()).collect();
        let pointers = handles(&all);
        // SAFETY: group and tensors are alive for the call, the count is that of the pointers.
        self.run("all_gather", |group| unsafe {
            bessemer_torch_group_all_gather(
                group,
                tensor.as_ptr().cast_mut(),
                pointers.as_ptr(),
                pointers.len(),
            )
        })?;
        Ok(all)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn barrier(&mut self) -> Result<(), Error> {
        // SAFETY: the group is alive for the call.
        self.run("barrier", |group| unsafe {
            bessemer_torch_group_barrier(group)
        })
    }

    /// Leaves for a reason of this rank's own, which the others then tell in place of "lost".
    pub fn leave(mut self, reason: &str) {
        if self.connections.take().is_some() {
            // Without the store the others find out by themselves.
            let _ = verdict::leave(&self.store, self.rank, &self.peers, reason);
        }
    }

    fn run(&mut self, name: &str, call: impl FnOnce(*mut Raw) -> *mut c_char) -> Result<(), Error> {
        self.number += 1;
        let operation = format!("{name} {}", self.number);
        let Some(connections) = &self.connections else {
            return Err(Error::Failed {
                operation,
                rank: self.rank,
                verdict: "the group is closed".to_owned(),
                detail: "an operation before has failed".to_owned(),
            });
        };
        if let Some(pulse) = &self.pulse {
            pulse.tell(&operation);
        }
        let done = check(call(connections.0.as_ptr()));
        if let Some(pulse) = &self.pulse {
            pulse.tell(&format!("work after {operation}"));
        }
        done.map_err(|error| self.failed(operation, &error))
    }

    /// Closes the group, so that ranks which wait for this one notice at once, and finds out who was lost.
    fn failed(&mut self, operation: String, error: &crate::Error) -> Error {
        self.connections = None;
        Error::Failed {
            operation,
            rank: self.rank,
            verdict: verdict::find(&self.store, self.rank, &self.peers),
            detail: error.to_string(),
        }
    }
}

fn serve(membership: &Membership) -> Result<Store, Error> {
    let refuse = |problem: String| Error::Listen {
        address: membership.rendezvous.clone(),
        problem,
    };
    let (_, port) = split(&membership.rendezvous).map_err(refuse)?;
    let address = SocketAddr::new(membership.own, port);
    let listener = TcpListener::bind(address).map_err(|error| Error::Listen {
        address: address.to_string(),
        problem: error.to_string(),
    })?;
    Store::serve(listener, membership.patience)
}

/// Resolves the name of rank 0 and connects to it. Both may take a while: its pod may not be there yet.
fn reach(
    membership: &Membership,
    until: Instant,
    stopping: &dyn Fn() -> bool,
) -> Result<Store, Error> {
    let address = membership.rendezvous.clone();
    let seconds = membership.patience.as_secs();
    loop {
        let error = match address.to_socket_addrs() {
            Ok(mut found) => match found
                .find(|found| TcpStream::connect_timeout(found, TRY * 5).is_ok())
            {
                Some(found) => {
                    let left = until.saturating_duration_since(Instant::now());
                    return Store::connect(&found.ip().to_string(), found.port(), left.max(TRY));
                }
                None => Error::Unreachable {
                    address: address.clone(),
                    seconds,
                    problem: "nobody listens there".to_owned(),
                },
            },
            Err(error) => Error::Unresolvable {
                address: address.clone(),
                seconds,
                problem: error.to_string(),
            },
        };
        if stopping() {
            return Err(Error::Stopped);
        }
        if Instant::now() >= until {
            return Err(error);
        }
        std::thread::sleep(TRY);
    }
}

/// Waits for a rank to come and returns its address.
fn meet(
    store: &Store,
    peer: usize,
    membership: &Membership,
    until: Instant,
    stopping: &dyn Fn() -> bool,
) -> Result<String, Error> {
    let key = format!("rank/{peer}");
    while !store.has(&key)? {
        if stopping() {
            return Err(Error::Stopped);
        }
        if Instant::now() >= until {
            return Err(Error::Absent {
                rank: peer,
                size: membership.size,
                address: membership.rendezvous.clone(),
                seconds: membership.patience.as_secs(),
            });
        }
        std::thread::sleep(TRY);
    }
    Ok(String::from_utf8_lossy(&store.get(&key, membership.patience)?).into_owned())
}

fn split(address: &str) -> Result<(&str, u16), String> {
    address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| format!("{address} is no host and port"))
}

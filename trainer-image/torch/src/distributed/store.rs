//! Owns the binding of c10d's TCPStore; it must not know what the keys mean.

use std::ffi::{CString, c_char, c_int};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::Error;
use crate::{bessemer_torch_free, check};

/// The shim's store.
#[repr(C)]
pub(super) struct Raw {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn bessemer_torch_store_new(
        host: *const c_char,
        port: u16,
        listener: c_int,
        timeout: i64,
        store: *mut *mut Raw,
    ) -> *mut c_char;
    fn bessemer_torch_store_free(store: *mut Raw);
    fn bessemer_torch_store_set(
        store: *mut Raw,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> *mut c_char;
    fn bessemer_torch_store_get(
        store: *mut Raw,
        key: *const c_char,
        value: *mut *mut u8,
        length: *mut usize,
    ) -> *mut c_char;
    fn bessemer_torch_store_wait(store: *mut Raw, key: *const c_char, timeout: i64) -> *mut c_char;
    fn bessemer_torch_store_add(
        store: *mut Raw,
        key: *const c_char,
        amount: i64,
        sum: *mut i64,
    ) -> *mut c_char;
    fn bessemer_torch_store_has(
        store: *mut Raw,
        key: *const c_char,
        found: *mut bool,
    ) -> *mut c_char;
    fn bessemer_torch_store_first(
        store: *mut Raw,
        key: *const c_char,
        wanted: *const u8,
        wanted_length: usize,
        value: *mut *mut u8,
        length: *mut usize,
    ) -> *mut c_char;
}

/// A key-value store that several processes share. It lives as long as the process that serves it.
#[derive(Debug)]
pub struct Store {
    raw: NonNull<Raw>,
    address: String,
}

// SAFETY: c10d::TCPStore guards every operation by a mutex of its own and ties nothing to a thread.
unsafe impl Send for Store {}
// SAFETY: as above; all operations take the store by shared reference.
unsafe impl Sync for Store {}

impl Store {
    /// Serves a store on `listener` and uses it.
    ///
    /// # Errors
    /// [`Error::Listen`] when it cannot be served there.
    pub fn serve(listener: TcpListener, timeout: Duration) -> Result<Self, Error> {
        let refuse = |address: String, problem: String| Error::Listen { address, problem };
        let address = listener
            .local_addr()
            .map_err(|error| refuse(String::new(), error.to_string()))?;
        let (host, port) = (address.ip().to_string(), address.port());
        Self::new(&host, port, listener.into_raw_fd(), timeout)
            .map_err(|error| refuse(address.to_string(), error.to_string()))
    }

    /// Uses the store that another process serves at `host` and `port`; tries until `timeout`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nobody answers.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        Self::new(host, port, -1, timeout).map_err(|error| Error::Unreachable {
            address: format!("{host}:{port}"),
            seconds: timeout.as_secs(),
            problem: error.to_string(),
        })
    }

    fn new(
        host: &str,
        port: u16,
        listener: c_int,
        timeout: Duration,
    ) -> Result<Self, crate::Error> {
        let name = text(host)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `name` outlives the call, `raw` is a place to write, and the descriptor, if any, is handed over.
        check(unsafe {
            bessemer_torch_store_new(
                name.as_ptr(),
                port,
                listener,
                milliseconds(timeout),
                &raw mut raw,
            )
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| crate::Error("no store was made".to_owned()))?;
        Ok(Self {
            raw,
            address: format!("{host}:{port}"),
        })
    }

    /// Where it is served.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn raw(&self) -> *mut Raw {
        self.raw.as_ptr()
    }

    /// Sets a key, whether or not it exists.
    ///
    /// # Errors
    /// [`Error::Store`] when the store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        // SAFETY: key and value outlive the call, the store is alive.
        self.run("set", key, |raw, name| unsafe {
            bessemer_torch_store_set(raw, name, value.as_ptr(), value.len())
        })
    }

    /// The value of a key, waited for until `timeout`.
    ///
    /// # Errors
    /// [`Error::Store`] when nobody set it in time or the store is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, Error> {
        self.wait(key, timeout)?;
        let mut given = Given::default();
        // SAFETY: the key outlives the call, `given` is a place to write, the store is alive.
        self.run("get", key, |raw, name| unsafe {
            bessemer_torch_store_get(raw, name, &raw mut given.bytes, &raw mut given.length)
        })?;
        Ok(given.take())
    }

    /// Waits until somebody has set a key.
    ///
    /// # Errors
    /// [`Error::Store`] when nobody did in time or the store is gone.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<(), Error> {
        // SAFETY: the key outlives the call, the store is alive.
        self.run("wait", key, |raw, name| unsafe {
            bessemer_torch_store_wait(raw, name, milliseconds(timeout))
        })
    }

    /// Adds to a counter, which begins at 0, and returns its new value.
    ///
    /// # Errors
    /// [`Error::Store`] when the store is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, Error> {
        let mut sum = 0;
        // SAFETY: the key outlives the call, `sum` is a place to write, the store is alive.
        self.run("add", key, |raw, name| unsafe {
            bessemer_torch_store_add(raw, name, amount, &raw mut sum)
        })?;
        Ok(sum)
    }

    /// Whether a key is set.
    ///
    /// # Errors
    /// [`Error::Store`] when the store is gone.
    pub fn has(&self, key: &str) -> Result<bool, Error> {
        let mut found = false;
        // SAFETY: the key outlives the call, `found` is a place to write, the store is alive.
        self.run("look", key, |raw, name| unsafe {
            bessemer_torch_store_has(raw, name, &raw mut found)
        })?;
        Ok(found)
    }

    /// Sets a key unless it is set already; returns what it holds then.
    ///
    /// # Errors
    /// [`Error::Store`] when the store is gone.
    pub fn first(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, Error> {
        let mut given = Given::default();
        // SAFETY: key and value outlive the call, `given` is a place to write, the store is alive.
        self.run("set", key, |raw, name| unsafe {
            bessemer_torch_store_first(
                raw,
                name,
                value.as_ptr(),
                value.len(),
                &raw mut given.bytes,
                &raw mut given.length,
            )
        })?;
        Ok(given.take())
    }

    fn run(
        &self,
        operation: &'static str,
        key: &str,
        call: impl FnOnce(*mut Raw, *const c_char) -> *mut c_char,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let name = text(key)?;
        check(call(self.raw(), name.as_ptr())).map_err(|error| Error::Store {
            operation,
            key: key.to_owned(),
            address: self.address.clone(),
            seconds: begun.elapsed().as_secs(),
            detail: error.to_string(),
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by the shim and released once.
        unsafe { bessemer_torch_store_free(self.raw()) };
    }
}

/// Bytes that the shim allocated.
struct Given {
    bytes: *mut u8,
    length: usize,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            bytes: std::ptr::null_mut(),
            length: 0,
        }
    }
}

impl Given {
    fn take(self) -> Vec<u8> {
        if self.bytes.is_null() {
            return Vec::new();
        }
        // SAFETY: the shim wrote `length` bytes there.
        let copy = unsafe { std::slice::from_raw_parts(self.bytes, self.length) }.to_vec();
        // SAFETY: released once, by the allocator that made it.
        unsafe { bessemer_torch_free(self.bytes.cast()) };
        copy
    }
}

pub(super) fn text(text: &str) -> Result<CString, crate::Error> {
    CString::new(text).map_err(|error| crate::Error(error.to_string()))
}

pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

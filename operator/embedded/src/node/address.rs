//! Loopback addresses of pods: owns which 127.64.x.y are taken in this agent.
//! It must not bind them; the pods do.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Addresses by pod uid.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<Ipv4Addr, String>>);

impl Pool {
    /// The address of a pod, the same at every call. It follows from the uid, so agents of
    /// different state directories on one machine hardly ever meet.
    pub fn take(&self, uid: &str) -> Ipv4Addr {
        let mut taken = self.0.lock();
        let digest = Sha256::digest(uid);
        let mut number = digest
            .iter()
            .take(2)
            .fold(0_u16, |n, byte| (n << 8) | u16::from(*byte));
        loop {
            let [high, low] = number.to_be_bytes();
            let address = Ipv4Addr::new(127, 64, high, low);
            let free =
                !matches!(low, 0 | 255) && taken.get(&address).is_none_or(|owner| owner == uid);
            if free {
                taken.insert(address, uid.to_owned());
                return address;
            }
            number = number.wrapping_add(1);
        }
    }

    /// Gives a pod's address back.
    pub fn give(&self, uid: &str) {
        self.0.lock().retain(|_, owner| owner != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_distinct_and_reused() {
        let pool = Pool::default();
        let all: std::collections::BTreeSet<_> =
            (0..500).map(|n| pool.take(&n.to_string())).collect();
        assert_eq!(all.len(), 500);
        assert_eq!(pool.take("7"), pool.take("7"));
        let seventh = pool.take("7");
        pool.give("7");
        assert_eq!(pool.take("7"), seventh);
    }
}

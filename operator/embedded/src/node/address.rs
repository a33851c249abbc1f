//! Loopback addresses of pods: owns which 127.64.x.y are taken in this agent, and the names that stand for them.
//! It must not bind them; the pods do.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// By what a pod's address is kept: its host name among the pods of its owner where a headless Service gives it one, so
/// that they know it before it begins; else its uid.
pub fn key(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().filter(|spec| spec.subdomain.is_some());
    spec.and_then(|spec| host_key(pod, spec.hostname.as_deref()?))
        .or_else(|| pod.uid())
        .unwrap_or_default()
}

/// The key of the pod named `host` that has the same owner as `pod`.
fn host_key(pod: &Pod, host: &str) -> Option<String> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))?;
    Some(format!("{}/{host}", owner.uid))
}

/// Addresses by key.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<Ipv4Addr, String>>);

impl Pool {
    /// The address of a pod, the same at every call. It follows from a uid, so agents of
    /// different state directories on one machine hardly ever meet.
    pub fn take(&self, key: &str) -> Ipv4Addr {
        let mut taken = self.0.lock();
        let digest = Sha256::digest(key);
        let mut number = digest
            .iter()
            .take(2)
            .fold(0_u16, |n, byte| (n << 8) | u16::from(*byte));
        loop {
            let [high, low] = number.to_be_bytes();
            let address = Ipv4Addr::new(127, 64, high, low);
            let free =
                !matches!(low, 0 | 255) && taken.get(&address).is_none_or(|owner| owner == key);
            if free {
                taken.insert(address, key.to_owned());
                return address;
            }
            number = number.wrapping_add(1);
        }
    }

    /// Gives a pod's address back.
    pub fn give(&self, key: &str) {
        self.0.lock().retain(|_, owner| owner != key);
    }

    /// Replaces a name `host.subdomain.namespace.svc` by its address, where the subdomain is that of `pod` itself. There
    /// is no DNS for the processes of one machine.
    pub fn resolve(&self, pod: &Pod, text: String) -> String {
        let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_ref());
        let found = subdomain
            .zip(pod.namespace())
            .and_then(|(subdomain, namespace)| {
                let (before, after) = text.split_once(&format!(".{subdomain}.{namespace}.svc"))?;
                let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let start = before.rfind(|c| !label(c)).map_or(0, |at| at + 1);
                let (before, host) = before.split_at_checked(start)?;
                let address = self.take(&host_key(pod, host)?);
                let after = after.strip_prefix(".cluster.local").unwrap_or(after);
                Some(format!("{before}{address}{after}"))
            });
        found.unwrap_or(text)
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

    #[test]
    fn pods_of_one_owner_know_each_others_addresses_by_name() {
        let pod = |owner: &str, host: &str| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "ns", "uid": format!("{owner} {host}"), "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": owner, "controller": true}
                ]},
                "spec": {"hostname": host, "subdomain": "ranks", "containers": []}
            }))
            .unwrap()
        };
        let (pool, second) = (Pool::default(), pod("a", "job-1"));
        let name = |text: &str| pool.resolve(&second, text.to_owned());
        let told = name("job-0.ranks.ns.svc:29500");
        assert_eq!(
            told,
            format!("{}:29500", pool.take(&key(&pod("a", "job-0"))))
        );
        assert_eq!(
            name("tcp://job-0.ranks.ns.svc.cluster.local:29500/x"),
            format!("tcp://{told}/x")
        );
        for other in ["job-0.ranks.other.svc:1", "job-0.others.ns.svc:1", "plain"] {
            assert_eq!(name(other), other);
        }
        assert_ne!(
            pool.take(&key(&pod("b", "job-0"))),
            pool.take(&key(&pod("a", "job-0")))
        );
        let alone = Pod::default();
        assert_eq!(
            pool.resolve(&alone, "job-0.ranks.ns.svc".to_owned()),
            "job-0.ranks.ns.svc"
        );
    }
}

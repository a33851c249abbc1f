//! Runs: caching, attempts, retries, deadlines, suspension, cleanup.

use crate::cluster::Cluster;
use crate::fixture::chain;

#[test]
fn one_file_in_any_order_ends_with_a_served_model() {
    let mut cluster = Cluster::new();
    let chain = chain(&mut cluster);
    cluster.settle();
    for key in [&chain.text, &chain.pairs, &chain.base, &chain.chat, &chain.score] {
        assert_eq!(cluster.reason(key), "Complete", "{key}: {}", cluster.message(key));
    }
    assert_eq!(cluster.reason(&chain.served), "Serving", "{}", cluster.message(&chain.served));
    assert_eq!(cluster.of_kind("Job").len(), 5);
    let writes = cluster.writes;
    cluster.settle();
    assert_eq!(cluster.writes, writes, "O8: nothing is written at the fixpoint");
}

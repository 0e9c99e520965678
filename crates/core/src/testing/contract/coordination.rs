use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;

use super::Replicas;
use crate::{
    audit::Cursor,
    coordinator::{Coordinator, LEASE},
    ids::ClusterId,
};

const INTERVAL: Duration = Duration::from_secs(30);
const RECEIVER: &str = "webhook";

impl Replicas {
    /// Registers clusters.
    async fn register(&self, count: usize) -> BTreeSet<ClusterId> {
        let mut ids = BTreeSet::new();
        for n in 0..count {
            let record = self.ports.record(&format!("cluster-{n}"));
            ids.insert(self.ports.register(record).await.id);
        }
        ids
    }

    async fn claim_delivery(&self, replica: &dyn Coordinator) -> Option<Cursor> {
        replica.claim_delivery(RECEIVER, self.ports.now()).await.unwrap()
    }
}

async fn claim_probes(replica: &dyn Coordinator, limit: usize, at: Timestamp) -> Vec<ClusterId> {
    let claimed = replica.claim_probes(INTERVAL, limit, at).await.unwrap();
    assert!(claimed.len() <= limit, "{claimed:?}");
    claimed
}

pub(super) async fn each_probe_is_claimed_once_per_interval(replicas: &Replicas) {
    let all = replicas.register(30).await;
    let mut at = replicas.ports.now();
    assert!(claim_probes(&*replicas.one, 100, at).await.is_empty(), "a cluster is probed at registration");
    for _ in 0..3 {
        at += INTERVAL;
        let both = [&replicas.one, &replicas.two];
        let concurrent = both.into_iter().cycle().take(12).map(|replica| claim_probes(&**replica, 4, at));
        let mut claimed = join_all(concurrent).await.concat();
        while claimed.len() < all.len() {
            let more = claim_probes(&*replicas.one, 4, at).await;
            assert!(!more.is_empty(), "no claim after {} clusters", claimed.len());
            claimed.extend(more);
        }
        assert_eq!(claimed.len(), all.len(), "no cluster is claimed twice");
        assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), all);
        assert!(claim_probes(&*replicas.two, 100, at).await.is_empty());
    }
}

pub(super) async fn oldest_claims_come_first(replicas: &Replicas) {
    replicas.register(6).await;
    let mut at = replicas.ports.now();
    let mut claimed = Vec::new();
    for _ in 0..2 {
        at += INTERVAL;
        claimed.extend(claim_probes(&*replicas.one, 3, at).await);
    }
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 6, "{claimed:?}");
}

/// A claim more than one interval in the future was made before the clock was set back. A claim less than that in the
/// future is one of a replica whose clock differs.
pub(super) async fn clock_set_back_does_not_stop_probes(replicas: &Replicas) {
    let all = replicas.register(3).await;
    let claim = async |at| claim_probes(&*replicas.one, 100, at).await.into_iter().collect::<BTreeSet<_>>();
    let now = replicas.ports.now();
    assert!(claim(now - INTERVAL).await.is_empty(), "a small clock difference");
    let before = now - 20 * INTERVAL;
    assert_eq!(claim(before).await, all);
    assert!(claim(before).await.is_empty(), "claimed once");
    assert_eq!(claim(before + INTERVAL).await, all);
}

pub(super) async fn one_replica_delivers_until_its_lease_ends(replicas: &Replicas) {
    let Replicas { one, two, ports, .. } = replicas;
    assert!(one.take_lease(ports.now()).await.unwrap());
    let start = Cursor::default();
    assert_eq!(one.cursor(RECEIVER).await.unwrap(), start);
    assert_eq!(replicas.claim_delivery(&**one).await, Some(start));
    assert_eq!(replicas.claim_delivery(&**two).await, None);
    let cursor = Cursor { sequence: 7, checkpoint: 5 };
    assert!(one.save_cursor(RECEIVER, cursor).await.unwrap());
    assert!(!two.save_cursor(RECEIVER, Cursor { sequence: 9, checkpoint: 9 }).await.unwrap());
    assert_eq!(
        replicas.claim_delivery(&**one).await,
        Some(cursor),
        "a second claim by the same replica succeeds"
    );
    assert_eq!(two.cursor(RECEIVER).await.unwrap(), cursor);
    assert_eq!(two.cursor("another").await.unwrap(), start);
    assert!(!two.save_cursor("another", cursor).await.unwrap(), "no replica has claimed this receiver");

    one.end_lease().await.unwrap();
    assert_eq!(replicas.claim_delivery(&**two).await, Some(cursor), "delivery continues at the saved cursor");
    assert!(!one.save_cursor(RECEIVER, Cursor { sequence: 8, checkpoint: 5 }).await.unwrap());
    assert_eq!(one.cursor(RECEIVER).await.unwrap(), cursor);
}

pub(super) async fn lease_expires_unless_it_is_renewed(replicas: &Replicas) {
    let Replicas { one, two, ports, .. } = replicas;
    assert!(one.take_lease(ports.now()).await.unwrap());
    assert!(replicas.claim_delivery(&**one).await.is_some());
    let mut at = ports.now();
    for _ in 0..3 {
        replicas.expire_leases().await;
        at += LEASE;
        one.renew_lease(at).await.unwrap();
        assert_eq!(two.claim_delivery(RECEIVER, at).await.unwrap(), None, "the lease was renewed");
    }
    replicas.expire_leases().await;
    at += LEASE;
    assert!(two.claim_delivery(RECEIVER, at).await.unwrap().is_some());
}

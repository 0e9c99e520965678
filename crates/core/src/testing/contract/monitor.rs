use std::time::Duration;

use super::StorePorts;
use crate::{cluster::Health, role::Role};

pub(super) async fn stored_objects_are_counted(ports: &StorePorts) {
    let stats = async |at| ports.monitor.stats(at).await.unwrap();
    let empty = stats(ports.now()).await;
    assert_eq!((empty.clusters.len(), empty.sessions, empty.audit_sequence), (0, 0, 0));

    let untested = ports.register(ports.record("staging")).await;
    let probed = ports.register(ports.online_record("prod")).await;
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, ..) = ports.session(&user).await;
    let mut stored = stats(ports.now()).await;
    stored.clusters.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(stored.clusters, [(untested.id, Health::Offline), (probed.id, Health::Online)]);
    assert_eq!((stored.sessions, stored.audit_sequence), (1, 4));
    assert_eq!(stats(session.expires_at - Duration::from_micros(1)).await.sessions, 1);
    assert_eq!(stats(session.expires_at).await.sessions, 0, "the session has expired");
}

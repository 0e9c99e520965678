//! Poller of one cluster's usage.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use http::StatusCode;
use pilothouse_core::{
    Result,
    access::Permit,
    ids::ClusterId,
    inventory::{List, with_workloads},
    usage::{KnownUsage, UsageTable},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Usages, lock,
    parts::{Due, Part, Parts, Polled},
    response,
};
use crate::{
    cache::ListCache, client::ClusterClient, error::Failure, observe::Observer, request::Call,
    transport::Transport,
};

/// Maximum wait of the first read of a part for its first poll.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// Memory that stands for one row of a pod when its usage is added to its workload's, in bytes.
const ROW_BYTES: usize = 128;

/// The usage of one cluster, over one connection.
pub(super) struct ClusterUsage {
    pub(super) cluster: ClusterId,
    transport: Arc<Transport>,
    parts: Mutex<Parts>,
    /// Notified by a read that may be due for a poll.
    demand: Notify,
    /// Changed by every poll.
    polled: watch::Sender<()>,
    cache: Option<Weak<ListCache>>,
    observer: Arc<dyn Observer>,
    deadline: Duration,
}

impl ClusterUsage {
    pub(super) fn new(cluster: ClusterId, transport: Arc<Transport>, usages: &Usages) -> Self {
        let Usages { cache, observer, deadline, .. } = usages;
        Self {
            cluster,
            transport,
            parts: Mutex::default(),
            demand: Notify::new(),
            polled: watch::Sender::new(()),
            cache: cache.clone(),
            observer: observer.clone(),
            deadline: *deadline,
        }
    }

    /// Records a read under a permit ([`Parts::record_read`]).
    ///
    /// # Errors
    /// As [`Parts::record_read`].
    pub(super) fn record_read(&self, permit: &Permit, now: Instant) -> Result<(Part, bool)> {
        let mut parts = self.parts();
        let read = parts.record_read(permit, now)?;
        if !parts.is_polled(&read.0) {
            self.demand.notify_one();
        }
        Ok(read)
    }

    /// What is known of a part.
    pub(super) fn known(&self, part: &Part) -> KnownUsage {
        self.parts().known(part)
    }

    /// Waits for a moment until a part was polled.
    pub(super) async fn wait_for_first(&self, part: &Part) {
        let mut polled = self.polled.subscribe();
        let polled = async { while !self.is_polled(part) && polled.changed().await.is_ok() {} };
        // without a result in time, the usage is not known
        let _ = timeout(FIRST_WAIT, polled).await;
    }

    /// Whether the connection is the current one of the cluster.
    pub(super) fn is_open(&self) -> bool {
        !self.transport.closed().is_cancelled()
    }

    /// Whether somebody reads the usage.
    pub(super) fn is_read(&self) -> bool {
        self.parts().is_read(Instant::now())
    }

    fn is_polled(&self, part: &Part) -> bool {
        self.parts().is_polled(part)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        lock(&self.parts)
    }

    /// Polls the parts that are due, and waits until the next is. Returns false if nobody reads any part.
    async fn step(&self, usages: &Weak<Usages>) -> bool {
        let due = self.parts().due(Instant::now());
        for Due { part, permit, with_workloads } in due {
            let polled = match self.poll(&part, &permit, with_workloads).await {
                Ok(table) => {
                    if let Some(usages) = usages.upgrade() {
                        usages.rings().push(|key| {
                            let is_polled =
                                key.cluster == self.cluster && part.contains(key.namespace.as_deref());
                            if is_polled { table.get(key.subject()) } else { None }
                        });
                    }
                    Polled::Read(table)
                }
                Err(absent)
                    if absent.is(StatusCode::NOT_FOUND) || absent.is(StatusCode::SERVICE_UNAVAILABLE) =>
                {
                    Polled::Absent
                }
                Err(refused) if refused.is(StatusCode::FORBIDDEN) => Polled::Forbidden,
                Err(failure) => {
                    tracing::debug!(cluster = %self.cluster, error = %failure.error, "cannot read usage");
                    Polled::Failed
                }
            };
            self.parts().store(&part, polled, Instant::now());
            self.polled.send_replace(());
        }
        let next = self.parts().next_due(Instant::now());
        let Some(next) = next else { return false };
        tokio::select! {
            () = sleep_until(next) => {}
            () = self.demand.notified() => {}
        }
        true
    }

    async fn poll(&self, part: &Part, permit: &Permit, is_of_workloads: bool) -> Result<UsageTable, Failure> {
        let client = ClusterClient::new(self.transport.clone(), permit, self.deadline, &self.observer)?;
        let client = client.of_aggregated_api();
        let (kind, namespace) = part.target();
        let response = client.read(&Call::usage(kind, namespace)?).await?;
        let bytes = response.body.len();
        let table = client.run_job(bytes, move || response::table(kind, &response)).await??;
        let cache =
            self.cache.as_ref().and_then(Weak::upgrade).filter(|_| is_of_workloads && !table.is_empty());
        let Some(cache) = cache else { return Ok(table) };
        // without the rows of pods, the usage of workloads is not known
        let Ok(Some(pods)) = cache.all_rows(permit, List::Pods, &self.transport).await else {
            return Ok(table);
        };
        // the deadline of the client may be over
        let client = ClusterClient::new(self.transport.clone(), permit, self.deadline, &self.observer)?;
        let bytes = pods.len() * ROW_BYTES;
        Ok(client.run_job(bytes, move || with_workloads(table, &pods)).await?)
    }
}

/// Polls until nobody reads usage, the connection is closed, or the adapter is dropped.
pub(super) async fn run(usage: Arc<ClusterUsage>, usages: Weak<Usages>) {
    loop {
        let closed = usage.transport.closed().clone();
        let is_read = closed.run_until_cancelled(usage.step(&usages)).await;
        let Some(all) = usages.upgrade() else { return };
        if is_read != Some(true) && all.remove(&usage) {
            return;
        }
    }
}

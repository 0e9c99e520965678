//! The stacks of registered clusters: one per cluster, for the version of its connection that is stored now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderValue;
use pilothouse_core::{
    Cause, Error, Result,
    cluster::{ClusterId, Connection, Connections, StoredConnection},
};

use tokio::runtime::Handle;

use crate::{
    budget::{Budget, ClusterBudget},
    dial::EgressGuard,
    transport::{Transport, TransportContext},
};

/// Keeps connections warm, and never one of an older credential: the registry is asked every time.
pub(crate) struct ClientPool {
    pub(crate) connections: Arc<dyn Connections>,
    /// For registered clusters.
    pub(crate) guard: EgressGuard,
    /// For connections that are not registered.
    pub(crate) trial_guard: EgressGuard,
    pub(crate) user_agent: HeaderValue,
    /// Where connections live.
    pub(crate) runtime: Handle,
    /// The budget that the reads of all clusters share.
    pub(crate) budget: Arc<Budget>,
    pub(crate) entries: Mutex<HashMap<ClusterId, PoolEntry>>,
}

/// What is known of a cluster.
pub(crate) enum PoolEntry {
    /// It has a stack, for one version of its connection.
    Open(Arc<Transport>),
    /// It was removed; up to which version of its connection it stays closed. A database that lost its last commits gives
    /// the id again, to a newer connection.
    Removed(i64),
}

impl ClientPool {
    /// The stack of a registered cluster.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; as [`Connections::connection`] and [`Transport::new`].
    pub(crate) async fn of(&self, id: ClusterId) -> Result<Arc<Transport>> {
        match self.connections.connection(id).await? {
            Some(stored) => self.registered(id, &stored),
            None => {
                self.close_removed(id);
                Err(absent(id))
            }
        }
    }

    /// The stack of a registered cluster for this stored connection, or for a newer one that is known.
    ///
    /// # Errors
    /// `NotFound` when the cluster was removed meanwhile; as [`Transport::new`].
    pub(crate) fn registered(&self, id: ClusterId, stored: &StoredConnection) -> Result<Arc<Transport>> {
        // held until there is one, for two would be two circuits, and two of every kept list
        let mut entries = self.entries();
        match entries.get(&id) {
            Some(PoolEntry::Removed(version)) if *version >= stored.version => return Err(absent(id)),
            Some(PoolEntry::Open(transport)) if transport.context().version() >= stored.version => {
                return Ok(transport.clone());
            }
            Some(PoolEntry::Open(_) | PoolEntry::Removed(_)) | None => {}
        }
        close(entries.remove(&id));
        let transport =
            Arc::new(self.transport(&stored.connection, &self.guard, self.context(stored.version))?);
        entries.insert(id, PoolEntry::Open(transport.clone()));
        Ok(transport)
    }

    /// A stack without a connection yet, for a probe of a registered cluster.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn probing(&self, connection: &Connection, common: TransportContext) -> Result<Transport> {
        self.transport(connection, &self.guard, common)
    }

    /// A stack for a connection that is not registered.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn trying(&self, connection: &Connection) -> Result<Transport> {
        self.transport(connection, &self.trial_guard, self.context(0))
    }

    fn context(&self, version: i64) -> TransportContext {
        TransportContext::new(version, ClusterBudget::new(&self.budget))
    }

    fn transport(
        &self,
        connection: &Connection,
        guard: &EgressGuard,
        common: TransportContext,
    ) -> Result<Transport> {
        Transport::new(connection, guard, &self.user_agent, &self.runtime, common)
    }

    /// Closes the stack of a cluster whose connection was replaced or removed.
    pub(crate) async fn confirm(&self, id: ClusterId) {
        match self.connections.connection(id).await {
            Ok(Some(stored)) => self.close_older(id, stored.version),
            Ok(None) => self.close_removed(id),
            // asked again soon by `confirm_all`
            Err(error) => {
                tracing::debug!(%error, cluster = %id, "cannot read the stored connection of the cluster")
            }
        }
    }

    /// The same for all clusters: connections are replaced and removed by other replicas, too.
    pub(crate) async fn confirm_all(&self) {
        // only these: one that is opened meanwhile may be newer than the answer
        let open: Vec<_> =
            self.entries().iter().filter_map(|(id, known)| known.is_open().then_some(*id)).collect();
        if open.is_empty() {
            return;
        }
        // without a database nothing is known, so nothing is done
        let Ok(versions) = self.connections.versions().await else { return };
        for id in open {
            match versions.get(&id) {
                Some(version) => self.close_older(id, *version),
                None => self.close_removed(id),
            }
        }
    }

    fn close_older(&self, id: ClusterId, version: i64) {
        let mut entries = self.entries();
        if matches!(entries.get(&id), Some(PoolEntry::Open(transport)) if transport.context().version() < version)
        {
            close(entries.remove(&id));
        }
    }

    fn close_removed(&self, id: ClusterId) {
        let mut entries = self.entries();
        // an id without a stack is not remembered, so made-up ids take no memory
        if let Some(known) = entries.get_mut(&id) {
            let removed = PoolEntry::Removed(known.version());
            close(Some(std::mem::replace(known, removed)));
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ClusterId, PoolEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolEntry {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn version(&self) -> i64 {
        match self {
            Self::Open(transport) => transport.context().version(),
            Self::Removed(version) => *version,
        }
    }
}

fn close(known: Option<PoolEntry>) {
    if let Some(PoolEntry::Open(transport)) = known {
        transport.close();
    }
}

fn absent(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}

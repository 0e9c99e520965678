//! Client pool: at most one transport per registered cluster, for the current version of its stored connection. It is
//! created by the first request to the cluster other than a probe, so that a cluster that is only probed takes no
//! memory for TLS settings and idle connections.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderValue;
use pilothouse_core::{
    Cause, Error, Result,
    cluster::Connections,
    connection::{Connection, StoredConnection},
    ids::ClusterId,
};

use tokio::runtime::Handle;

use crate::{
    budget::{Budget, ClusterBudget},
    dial::EgressGuard,
    transport::{Transport, TransportContext},
};

/// Pool of transports. Connections stay open between requests, but no request uses an older credential: each request
/// reads the stored connection from the registry.
pub(crate) struct ClientPool {
    pub(crate) connections: Arc<dyn Connections>,
    /// Egress guard for registered clusters.
    pub(crate) guard: EgressGuard,
    /// Egress guard for connection tests of unregistered clusters.
    pub(crate) test_guard: EgressGuard,
    pub(crate) user_agent: HeaderValue,
    /// Runtime on which connections run.
    pub(crate) runtime: Handle,
    /// Read budget shared by all clusters.
    pub(crate) budget: Arc<Budget>,
    pub(crate) entries: Mutex<HashMap<ClusterId, PoolEntry>>,
}

/// State of a cluster in the pool.
pub(crate) enum PoolEntry {
    /// The cluster is used, over one version of its connection.
    Open(OpenEntry),
    /// The cluster was removed; connections up to this version stay closed. A database that lost its last commits may
    /// assign the id again, with a newer connection.
    Removed(i64),
}

/// A cluster that is used, over one version of its connection.
pub(crate) struct OpenEntry {
    context: TransportContext,
    /// The transport with the pooled connections; none before the first request other than a probe.
    transport: Option<Arc<Transport>>,
}

impl ClientPool {
    /// The transport of a registered cluster.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; `Unreachable` when its connection was replaced meanwhile; as
    /// [`Connections::connection`] and [`Transport::new`].
    pub(crate) async fn get(&self, id: ClusterId) -> Result<Arc<Transport>> {
        if let Some(stored) = self.connections.connection(id).await? {
            self.get_or_open(id, &stored)
        } else {
            self.close_removed(id);
            Err(not_found(id))
        }
    }

    /// The transport of a registered cluster for this stored connection, or for a newer one in the pool.
    fn get_or_open(&self, id: ClusterId, stored: &StoredConnection) -> Result<Arc<Transport>> {
        // locked until the transport exists: two transports would mean two copies of each cached list
        let mut entries = self.entries();
        let open = self.open_entry(&mut entries, id, stored.version)?;
        if let Some(transport) = &open.transport {
            return Ok(transport.clone());
        }
        if open.context.version() != stored.version {
            return Err(replaced());
        }
        let transport = Arc::new(self.build(&stored.connection, &self.guard, open.context.clone())?);
        open.transport = Some(transport.clone());
        Ok(transport)
    }

    /// The state that all transports of a registered cluster share, for this version of its connection. Creates no
    /// transport.
    ///
    /// # Errors
    /// `NotFound` when the cluster was removed meanwhile; `Unreachable` when its connection was replaced.
    pub(crate) fn context(&self, id: ClusterId, version: i64) -> Result<TransportContext> {
        let context = self.open_entry(&mut self.entries(), id, version)?.context.clone();
        if context.version() == version { Ok(context) } else { Err(replaced()) }
    }

    /// The entry of a cluster for this version of its connection, or for a newer one. Replaces an older entry.
    ///
    /// # Errors
    /// `NotFound` when the cluster was removed.
    fn open_entry<'e>(
        &self,
        entries: &'e mut HashMap<ClusterId, PoolEntry>,
        id: ClusterId,
        version: i64,
    ) -> Result<&'e mut OpenEntry> {
        if entries.get(&id).is_none_or(|entry| entry.version() < version) {
            close(entries.remove(&id));
            let opened = OpenEntry { context: self.new_context(version), transport: None };
            entries.insert(id, PoolEntry::Open(opened));
        }
        match entries.get_mut(&id) {
            Some(PoolEntry::Open(open)) => Ok(open),
            Some(PoolEntry::Removed(_)) | None => Err(not_found(id)),
        }
    }

    /// A transport without open connections, for a probe of a registered cluster.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn probe_transport(
        &self,
        connection: &Connection,
        context: TransportContext,
    ) -> Result<Transport> {
        self.build(connection, &self.guard, context)
    }

    /// A transport for a connection test of an unregistered cluster.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn test_transport(&self, connection: &Connection) -> Result<Transport> {
        self.build(connection, &self.test_guard, self.new_context(0))
    }

    fn new_context(&self, version: i64) -> TransportContext {
        TransportContext::new(version, ClusterBudget::new(&self.budget))
    }

    fn build(
        &self,
        connection: &Connection,
        guard: &EgressGuard,
        context: TransportContext,
    ) -> Result<Transport> {
        Transport::new(connection, guard, &self.user_agent, &self.runtime, context)
    }

    /// Closes the transport of a cluster whose stored connection was replaced or removed.
    pub(crate) async fn recheck(&self, id: ClusterId) {
        match self.connections.connection(id).await {
            Ok(Some(stored)) => self.close_older(id, stored.version),
            Ok(None) => self.close_removed(id),
            // checked again soon by `recheck_all`
            Err(error) => {
                tracing::debug!(%error, cluster = %id, "cannot read the stored connection of the cluster");
            }
        }
    }

    /// Closes the entries of all clusters whose stored connections were replaced or removed, as by another replica.
    pub(crate) async fn recheck_all(&self) {
        // an entry that is opened after this may be newer than the versions that are read below
        let open: Vec<_> =
            self.entries().iter().filter_map(|(id, entry)| entry.is_open().then_some(*id)).collect();
        if open.is_empty() {
            return;
        }
        // an error does not prove that a connection was replaced, so the entries stay
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
        if matches!(entries.get(&id), Some(PoolEntry::Open(open)) if open.context.version() < version) {
            close(entries.remove(&id));
        }
    }

    fn close_removed(&self, id: ClusterId) {
        let mut entries = self.entries();
        // no entry is added for an unknown id, so requests for arbitrary ids take no memory
        if let Some(entry) = entries.get_mut(&id) {
            let removed = PoolEntry::Removed(entry.version());
            close(Some(std::mem::replace(entry, removed)));
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
            Self::Open(open) => open.context.version(),
            Self::Removed(version) => *version,
        }
    }
}

fn close(entry: Option<PoolEntry>) {
    if let Some(PoolEntry::Open(OpenEntry { context, transport })) = entry {
        context.close();
        if let Some(transport) = transport {
            transport.close();
        }
    }
}

/// The error for a connection that was replaced while a request used it: an older credential is never used again.
fn replaced() -> Error {
    Error::new(Cause::Unreachable)
}

fn not_found(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{
        cluster::MockConnections,
        connection::{ApiServer, Credential},
    };

    use super::*;
    use crate::{
        ReadBudgets,
        dns::{DnsResolver, ResolverLimits, SystemResolver},
        egress::EgressRules,
    };

    const ID: ClusterId = ClusterId(1);

    fn pool() -> ClientPool {
        let runtime = Handle::current();
        let guard = || {
            let resolver = Arc::new(SystemResolver);
            let resolver = DnsResolver::new(resolver, ResolverLimits::REGISTERED, runtime.clone());
            EgressGuard { rules: Arc::new(EgressRules::default()), resolver: Arc::new(resolver) }
        };
        ClientPool {
            connections: Arc::new(MockConnections::new()),
            guard: guard(),
            test_guard: guard(),
            user_agent: HeaderValue::from_static("pilothouse/test"),
            runtime: runtime.clone(),
            budget: Budget::new(ReadBudgets::default(), 1),
            entries: Mutex::default(),
        }
    }

    fn stored(version: i64) -> StoredConnection {
        let connection = Connection {
            server: ApiServer::new("https://cluster.example.com").unwrap(),
            ca: None,
            tls_server_name: None,
            insecure_skip_tls_verify: true,
            credential: Credential::Token("token".to_owned().into()),
        };
        StoredConnection { connection, version }
    }

    fn has_transport(pool: &ClientPool) -> bool {
        matches!(pool.entries().get(&ID), Some(PoolEntry::Open(open)) if open.transport.is_some())
    }

    fn cause<T>(result: Result<T>) -> Option<Cause> {
        result.err().map(|error| error.cause)
    }

    #[tokio::test]
    async fn probe_creates_no_transport_and_shares_the_breaker() {
        let pool = pool();
        let context = pool.context(ID, 1).unwrap();
        assert!(!has_transport(&pool));
        let transport = pool.get_or_open(ID, &stored(1)).unwrap();
        assert!(has_transport(&pool));
        assert!(Arc::ptr_eq(&pool.get_or_open(ID, &stored(1)).unwrap(), &transport), "one transport");
        assert!(std::ptr::eq(transport.breaker(), context.breaker()));
        assert!(std::ptr::eq(transport.breaker(), pool.context(ID, 1).unwrap().breaker()));
    }

    #[tokio::test]
    async fn replaced_and_removed_connections_are_closed_and_not_used_again() {
        let pool = pool();
        let transport = pool.get_or_open(ID, &stored(1)).unwrap();
        pool.context(ID, 2).unwrap();
        assert!(transport.closed().is_cancelled(), "the transport of the older connection is closed");
        assert_eq!(cause(pool.context(ID, 1)), Some(Cause::Unreachable));
        assert_eq!(cause(pool.get_or_open(ID, &stored(1))), Some(Cause::Unreachable));
        let newer = pool.get_or_open(ID, &stored(2)).unwrap();
        let probed = pool.context(ID, 2).unwrap();
        pool.close_removed(ID);
        assert!(newer.closed().is_cancelled());
        assert!(pool.probe_transport(&stored(2).connection, probed).unwrap().closed().is_cancelled());
        assert_eq!(cause(pool.context(ID, 2)), Some(Cause::NotFound));
        assert_eq!(cause(pool.get_or_open(ID, &stored(2))), Some(Cause::NotFound));
        assert!(pool.context(ID, 3).is_ok(), "the id was assigned again");
    }
}

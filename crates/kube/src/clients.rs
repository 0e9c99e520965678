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
    dial::Guard,
    stack::{Common, Stack},
};

/// Keeps connections warm, and never one of an older credential: the registry is asked every time.
pub(crate) struct Clients {
    pub(crate) connections: Arc<dyn Connections>,
    /// For registered clusters.
    pub(crate) guard: Guard,
    /// For connections that are not registered.
    pub(crate) trial_guard: Guard,
    pub(crate) user_agent: HeaderValue,
    /// Where connections live.
    pub(crate) runtime: Handle,
    /// The budget that the reads of all clusters share.
    pub(crate) budget: Arc<Budget>,
    pub(crate) stacks: Mutex<HashMap<ClusterId, Known>>,
}

/// What is known of a cluster.
pub(crate) enum Known {
    /// It has a stack, for one version of its connection.
    Open(Arc<Stack>),
    /// It was removed; up to which version of its connection it stays closed. A database that lost its last commits gives
    /// the id again, to a newer connection.
    Removed(i64),
}

impl Clients {
    /// The stack of a registered cluster.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; as [`Connections::connection`] and [`Stack::new`].
    pub(crate) async fn of(&self, id: ClusterId) -> Result<Arc<Stack>> {
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
    /// `NotFound` when the cluster was removed meanwhile; as [`Stack::new`].
    pub(crate) fn registered(&self, id: ClusterId, stored: &StoredConnection) -> Result<Arc<Stack>> {
        // held until there is one, for two would be two circuits, and two of every kept list
        let mut stacks = self.stacks();
        match stacks.get(&id) {
            Some(Known::Removed(version)) if *version >= stored.version => return Err(absent(id)),
            Some(Known::Open(stack)) if stack.common().version() >= stored.version => {
                return Ok(stack.clone());
            }
            Some(Known::Open(_) | Known::Removed(_)) | None => {}
        }
        close(stacks.remove(&id));
        let stack = Arc::new(self.stack(&stored.connection, &self.guard, self.common(stored.version))?);
        stacks.insert(id, Known::Open(stack.clone()));
        Ok(stack)
    }

    /// A stack without a connection yet, for a probe of a registered cluster.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub(crate) fn probing(&self, connection: &Connection, common: Common) -> Result<Stack> {
        self.stack(connection, &self.guard, common)
    }

    /// A stack for a connection that is not registered.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub(crate) fn trying(&self, connection: &Connection) -> Result<Stack> {
        self.stack(connection, &self.trial_guard, self.common(0))
    }

    fn common(&self, version: i64) -> Common {
        Common::new(version, ClusterBudget::new(&self.budget))
    }

    fn stack(&self, connection: &Connection, guard: &Guard, common: Common) -> Result<Stack> {
        Stack::new(connection, guard, &self.user_agent, &self.runtime, common)
    }

    /// Closes the stack of a cluster whose connection was replaced or removed.
    pub(crate) async fn confirm(&self, id: ClusterId) {
        match self.connections.connection(id).await {
            Ok(Some(stored)) => self.close_older(id, stored.version),
            Ok(None) => self.close_removed(id),
            // asked again soon by `confirm_all`
            Err(error) => tracing::debug!(%error, cluster = %id, "cannot read the cluster's connection"),
        }
    }

    /// The same for all clusters: connections are replaced and removed by other replicas, too.
    pub(crate) async fn confirm_all(&self) {
        // only these: one that is opened meanwhile may be newer than the answer
        let open: Vec<_> =
            self.stacks().iter().filter_map(|(id, known)| known.is_open().then_some(*id)).collect();
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
        let mut stacks = self.stacks();
        if matches!(stacks.get(&id), Some(Known::Open(stack)) if stack.common().version() < version) {
            close(stacks.remove(&id));
        }
    }

    fn close_removed(&self, id: ClusterId) {
        let mut stacks = self.stacks();
        // an id without a stack is not remembered, so made-up ids take no memory
        if let Some(known) = stacks.get_mut(&id) {
            let removed = Known::Removed(known.version());
            close(Some(std::mem::replace(known, removed)));
        }
    }

    fn stacks(&self) -> MutexGuard<'_, HashMap<ClusterId, Known>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn version(&self) -> i64 {
        match self {
            Self::Open(stack) => stack.common().version(),
            Self::Removed(version) => *version,
        }
    }
}

fn close(known: Option<Known>) {
    if let Some(Known::Open(stack)) = known {
        stack.close();
    }
}

fn absent(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}

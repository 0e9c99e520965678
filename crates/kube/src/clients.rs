//! The stacks of registered clusters: one per cluster, for the version of its connection that is stored now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;
use pilothouse_core::{
    Cause, Error, Result,
    cluster::{ClusterId, Connections},
};

use tokio::runtime::Handle;

use crate::{budget::Budget, dial::Guard, stack::Stack};

/// Keeps connections warm, and never one of an older credential: the registry is asked every time.
pub(crate) struct Clients {
    pub(crate) connections: Arc<dyn Connections>,
    pub(crate) guard: Guard,
    pub(crate) user_agent: HeaderValue,
    /// Where connections live.
    pub(crate) runtime: Handle,
    /// Of what is read from all of them.
    pub(crate) budget: Arc<Budget>,
    pub(crate) stacks: Mutex<HashMap<ClusterId, (i64, Arc<Stack>)>>,
}

impl Clients {
    /// The stack of a registered cluster.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; as [`Connections::connection`] and [`Stack::new`].
    pub(crate) async fn of(&self, id: ClusterId) -> Result<Arc<Stack>> {
        let Some(stored) = self.connections.connection(id).await? else {
            self.stacks().remove(&id);
            return Err(Error::new(Cause::NotFound).resource("cluster").name(id.to_string()));
        };
        // held until there is one, for two would be two circuits, and two of every kept list
        let mut stacks = self.stacks();
        if let Some((version, stack)) = stacks.get(&id)
            && *version == stored.version
        {
            return Ok(stack.clone());
        }
        let Self { guard, user_agent, runtime, budget, .. } = self;
        let stack = Arc::new(Stack::new(&stored.connection, guard, user_agent, runtime, budget)?);
        stacks.insert(id, (stored.version, stack.clone()));
        Ok(stack)
    }

    fn stacks(&self) -> std::sync::MutexGuard<'_, HashMap<ClusterId, (i64, Arc<Stack>)>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

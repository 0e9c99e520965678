//! The store of sessions with a short memory: who calls again within a second is not looked up again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Rotation, SecretHash, Session, SessionId, SessionRecord, SessionStore};
use crate::{
    access::Permit,
    clock::{Clock, Spawner, detached},
    error::Result,
    ttl_cache::TtlCache,
    user::{PasswordHash, User, UserId, Username},
};

/// Sessions by cookie, as they were read a moment ago.
pub(crate) type SessionCache = Arc<TtlCache<SecretHash, (Session, User)>>;

/// A [`SessionStore`] that remembers what it found by cookie, and forgets it with each change that goes through it. All
/// changes of a process do: [`crate::app::App`] hands out no other store.
pub(crate) struct CachedSessions {
    store: Arc<dyn SessionStore>,
    known: SessionCache,
    spawner: Arc<dyn Spawner>,
}

impl CachedSessions {
    pub(crate) fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        Self { store, known: Arc::new(TtlCache::new(clock)), spawner }
    }

    /// What changes of users must forget, too.
    pub(crate) fn known(&self) -> SessionCache {
        self.known.clone()
    }

    /// Runs a change to its end, whoever waits for it, and forgets.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, self.known.invalidate_after(work)).await
    }
}

#[async_trait]
impl SessionStore for CachedSessions {
    async fn open(
        &self,
        permit: &Permit,
        session: SessionRecord,
        verified: &PasswordHash,
    ) -> Result<Session> {
        let (store, permit, verified) = (self.store.clone(), permit.clone(), verified.clone());
        self.change(async move { store.open(&permit, session, &verified).await }).await
    }

    async fn find(&self, cookie: SecretHash) -> Result<Option<(Session, User)>> {
        self.known.get(cookie, self.store.find(cookie)).await
    }

    async fn find_uncached(&self, cookie: SecretHash) -> Result<Option<(Session, User)>> {
        self.known.read(cookie, self.store.find(cookie)).await
    }

    /// Of a stream, which asks rarely and wants to know.
    async fn get(&self, id: SessionId) -> Result<Option<(Session, User)>> {
        self.store.get(id).await
    }

    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()> {
        let store = self.store.clone();
        self.change(async move { store.touch(id, at).await }).await
    }

    async fn rotate(
        &self,
        permit: &Permit,
        id: SessionId,
        presented: SecretHash,
        fresh: SecretHash,
        at: Timestamp,
        grace: Duration,
    ) -> Result<Rotation> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.rotate(&permit, id, presented, fresh, at, grace).await }).await
    }

    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.end(&permit, id).await }).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        self.store.list(user).await
    }
}

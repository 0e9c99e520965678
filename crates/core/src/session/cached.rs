//! Sub-second cache in front of the session store.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{FoundSession, RefreshExchange, Rotation, SecretHash, Session, SessionRecord, SessionStore};
use crate::{
    access::Permit,
    clock::Clock,
    error::Result,
    ids::{SessionId, UserId},
    spawn::{Spawner, detached},
    ttl_cache::TtlCache,
    user::{PasswordHash, Username},
};

/// Cache of sessions by cookie.
pub(crate) type SessionCache = Arc<TtlCache<SecretHash, FoundSession>>;

/// A [`SessionStore`] that caches sessions by cookie and invalidates the cache with each change through it. All
/// changes of a process go through this type: [`crate::app::App`] provides no other store.
pub(crate) struct CachedSessions {
    store: Arc<dyn SessionStore>,
    cache: SessionCache,
    spawner: Arc<dyn Spawner>,
}

impl CachedSessions {
    pub(crate) fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        Self { store, cache: Arc::new(TtlCache::new(clock)), spawner }
    }

    /// The cache. Changes of users and of rights must invalidate it as well.
    pub(crate) fn session_cache(&self) -> SessionCache {
        self.cache.clone()
    }

    /// Runs a change to completion, even if the caller stops waiting, and invalidates the cache.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, self.cache.invalidate_after(work)).await
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

    async fn find(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.cache.get(cookie, self.store.find(cookie)).await
    }

    async fn find_uncached(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.cache.read(cookie, self.store.find(cookie)).await
    }

    /// Not cached: streams check rarely and need the current state.
    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>> {
        self.store.get(id).await
    }

    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()> {
        let store = self.store.clone();
        self.change(async move { store.touch(id, at).await }).await
    }

    async fn renew_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.renew_factor(&permit, id, at).await }).await
    }

    async fn rotate(&self, permit: &Permit, id: SessionId, exchange: RefreshExchange) -> Result<Rotation> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.rotate(&permit, id, exchange).await }).await
    }

    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.end(&permit, id).await }).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        self.store.list(user).await
    }
}

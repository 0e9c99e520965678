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
    ttl_cache::{Caches, Invalidate, TtlCache},
    user::{PasswordHash, Username},
};

/// A [`SessionStore`] that caches sessions by cookie, for requests, and by id, for the checks of streams: a user may have
/// many of both. Each change through it invalidates the caches. All changes of a process go through this type:
/// [`crate::app::App`] provides no other store.
pub(crate) struct CachedSessions {
    store: Arc<dyn SessionStore>,
    by_cookie: Arc<TtlCache<SecretHash, FoundSession>>,
    by_id: Arc<TtlCache<SessionId, FoundSession>>,
    spawner: Arc<dyn Spawner>,
}

impl CachedSessions {
    pub(crate) fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        let by_cookie = Arc::new(TtlCache::new(clock.clone()));
        Self { store, by_cookie, by_id: Arc::new(TtlCache::new(clock)), spawner }
    }

    /// The caches. Changes of users and of rights must invalidate them as well.
    pub(crate) fn caches(&self) -> [Arc<dyn Invalidate>; 2] {
        [self.by_cookie.clone(), self.by_id.clone()]
    }

    /// Runs a change to completion, even if the caller stops waiting, and invalidates the caches.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, Caches::new(self.caches()).invalidate_after(work)).await
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
        self.by_cookie.get(cookie, self.store.find(cookie)).await
    }

    async fn find_uncached(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.by_cookie.read(cookie, self.store.find(cookie)).await
    }

    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>> {
        self.by_id.get(id, self.store.get(id)).await
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

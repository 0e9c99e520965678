//! Sub-second cache in front of the token store.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{ApiToken, FoundOwner, FoundToken, TokenRecord, TokenStore};
use crate::{
    access::Permit,
    clock::Clock,
    error::Result,
    ids::{TokenId, UserId},
    session::SecretHash,
    spawn::{Spawner, detached},
    ttl_cache::{Caches, Invalidate, TtlCache},
};

/// A [`TokenStore`] that caches tokens by secret, for requests, and by id, for the checks of streams, and invalidates the
/// caches with each change through it. All changes of a process go through this type: [`crate::app::App`] provides no other store.
pub(crate) struct CachedTokens {
    store: Arc<dyn TokenStore>,
    /// By the hash of the secret. It has unknown secrets too, so that a client that repeats a revoked token causes no
    /// query for each request.
    by_secret: Arc<TtlCache<SecretHash, Option<FoundToken>>>,
    by_id: Arc<TtlCache<TokenId, FoundToken>>,
    spawner: Arc<dyn Spawner>,
}

impl CachedTokens {
    pub(crate) fn new(store: Arc<dyn TokenStore>, clock: Arc<dyn Clock>, spawner: Arc<dyn Spawner>) -> Self {
        let by_secret = Arc::new(TtlCache::new(clock.clone()));
        Self { store, by_secret, by_id: Arc::new(TtlCache::new(clock)), spawner }
    }

    /// The caches. Changes of users, service accounts and rights must invalidate them as well.
    pub(crate) fn caches(&self) -> [Arc<dyn Invalidate>; 2] {
        [self.by_secret.clone(), self.by_id.clone()]
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
impl TokenStore for CachedTokens {
    async fn create(&self, permit: &Permit, token: TokenRecord) -> Result<ApiToken> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.create(&permit, token).await }).await
    }

    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>> {
        let read = async { self.store.find(secret).await.map(Some) };
        Ok(self.by_secret.get(secret, read).await?.flatten())
    }

    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>> {
        self.by_id.get(id, self.store.get(id)).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>> {
        self.store.list(user).await
    }

    async fn rename(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.rename(&permit, id, name).await }).await
    }

    async fn revoke(&self, permit: &Permit, id: TokenId) -> Result<bool> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.revoke(&permit, id).await }).await
    }

    async fn touch(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()> {
        let store = self.store.clone();
        self.change(async move { store.touch(id, at, ip).await }).await
    }
}

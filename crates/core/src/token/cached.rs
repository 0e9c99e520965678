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
    ttl_cache::TtlCache,
};

/// Cache of tokens by the hash of the secret. Unknown secrets are cached too, so that a client that repeats a revoked
/// token causes no query for each request.
pub(crate) type TokenCache = Arc<TtlCache<SecretHash, Option<FoundToken>>>;

/// A [`TokenStore`] that caches tokens by secret and invalidates the cache with each change through it. All changes of a
/// process go through this type: [`crate::app::App`] provides no other store.
pub(crate) struct CachedTokens {
    store: Arc<dyn TokenStore>,
    cache: TokenCache,
    spawner: Arc<dyn Spawner>,
}

impl CachedTokens {
    pub(crate) fn new(store: Arc<dyn TokenStore>, clock: Arc<dyn Clock>, spawner: Arc<dyn Spawner>) -> Self {
        Self { store, cache: Arc::new(TtlCache::new(clock)), spawner }
    }

    /// The cache. Changes of users, service accounts and rights must invalidate it as well.
    pub(crate) fn token_cache(&self) -> TokenCache {
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
impl TokenStore for CachedTokens {
    async fn create(&self, permit: &Permit, token: TokenRecord) -> Result<ApiToken> {
        let (store, permit) = (self.store.clone(), permit.clone());
        self.change(async move { store.create(&permit, token).await }).await
    }

    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>> {
        let read = async { self.store.find(secret).await.map(Some) };
        Ok(self.cache.get(secret, read).await?.flatten())
    }

    /// Not cached: streams check rarely and need the current state.
    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>> {
        self.store.get(id).await
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

//! User registry that invalidates the session cache: cached sessions contain their users.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::SessionCache;
use crate::{
    access::Permit,
    error::Result,
    ids::UserId,
    spawn::{Spawner, detached},
    user::{PasswordHash, SetBy, User, UserPatch, UserRecord, UserRegistry, Username},
};

/// A [`UserRegistry`] whose changes invalidate the session cache.
pub(crate) struct InvalidatingUsers {
    pub(crate) registry: Arc<dyn UserRegistry>,
    pub(crate) session_cache: SessionCache,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl InvalidatingUsers {
    /// Runs a change to completion, even if the caller stops waiting, and invalidates the session cache.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, self.session_cache.invalidate_after(work)).await
    }
}

#[async_trait]
impl UserRegistry for InvalidatingUsers {
    async fn list(&self) -> Result<Vec<User>> {
        self.registry.list().await
    }

    async fn credentials(&self, username: &Username) -> Result<Option<(User, PasswordHash)>> {
        self.registry.credentials(username).await
    }

    async fn create(&self, permit: &Permit, user: UserRecord) -> Result<User> {
        self.registry.create(permit, user).await
    }

    async fn create_first(&self, permit: &Permit, user: UserRecord) -> Result<Option<User>> {
        self.registry.create_first(permit, user).await
    }

    async fn update(&self, permit: &Permit, id: UserId, patch: UserPatch, at: Timestamp) -> Result<User> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.update(&permit, id, patch, at).await }).await
    }

    async fn delete(&self, permit: &Permit, id: UserId) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.delete(&permit, id).await }).await
    }

    async fn set_password(
        &self,
        permit: &Permit,
        id: UserId,
        password: PasswordHash,
        by: SetBy,
        at: Timestamp,
    ) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.set_password(&permit, id, password, by, at).await }).await
    }
}

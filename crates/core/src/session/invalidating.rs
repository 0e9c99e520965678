//! Registries that invalidate the caches of sessions and tokens: the cached values contain users, the state of their
//! second factor, service accounts and the rights stamp.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    access::Permit,
    break_glass::{BreakGlassRecord, BreakGlassRegistry, BreakGlassRow},
    cluster::{Cluster, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, ProbeResult},
    error::Result,
    grant::{
        Decision, GrantRecord, GrantRegistry, GrantRequest, OwnRole, RequestRecord, RequestRegistry,
        RightsStamp, RolePatch, RoleRecord, RoleRegistry,
    },
    ids::{BreakGlassId, ClusterId, GrantId, GrantRequestId, ServiceAccountId, SessionId, UserId},
    rights::{Grant, RoleName, Subject},
    second_factor::{Confirmation, FactorUse, SecondFactor, SecondFactorStore, TotpSeed},
    service_account::{ServiceAccount, ServiceAccountPatch, ServiceAccountRecord, ServiceAccountStore},
    spawn::{Spawner, detached},
    ttl_cache::Caches,
    user::{PasswordHash, SetBy, User, UserPatch, UserRecord, UserRegistry, Username},
};

/// A registry whose changes invalidate the caches of sessions and tokens, so that the changes apply to the next request
/// of this process.
pub(crate) struct Invalidating<R: ?Sized> {
    pub(crate) registry: Arc<R>,
    pub(crate) caches: Caches,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl<R: ?Sized> Invalidating<R> {
    /// Runs a change to completion, even if the caller stops waiting, and invalidates the caches.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, self.caches.invalidate_after(work)).await
    }
}

#[async_trait]
impl UserRegistry for Invalidating<dyn UserRegistry> {
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

#[async_trait]
impl ClusterRegistry for Invalidating<dyn ClusterRegistry> {
    async fn list(&self) -> Result<Vec<Cluster>> {
        self.registry.list().await
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        self.registry.find(id).await
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        self.registry.name(id).await
    }

    async fn create(&self, permit: &Permit, cluster: ClusterRecord) -> Result<Cluster> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.create(&permit, cluster).await }).await
    }

    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.update(&permit, patch, at).await }).await
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.delete(&permit).await }).await
    }

    async fn record_probe(&self, id: ClusterId, version: i64, probe_result: ProbeResult) -> Result<()> {
        self.registry.record_probe(id, version, probe_result).await
    }
}

#[async_trait]
impl RoleRegistry for Invalidating<dyn RoleRegistry> {
    async fn list(&self) -> Result<Vec<OwnRole>> {
        self.registry.list().await
    }

    async fn create(&self, permit: &Permit, role: RoleRecord) -> Result<OwnRole> {
        // nothing to invalidate: no grant names a new role
        self.registry.create(permit, role).await
    }

    async fn update(&self, permit: &Permit, name: &RoleName, patch: RolePatch) -> Result<OwnRole> {
        let (registry, permit, name) = (self.registry.clone(), permit.clone(), name.clone());
        self.change(async move { registry.update(&permit, &name, patch).await }).await
    }

    async fn delete(&self, permit: &Permit, name: &RoleName) -> Result<()> {
        // no live grant names the role, but the ceiling of a token may
        let (registry, permit, name) = (self.registry.clone(), permit.clone(), name.clone());
        self.change(async move { registry.delete(&permit, &name).await }).await
    }
}

#[async_trait]
impl GrantRegistry for Invalidating<dyn GrantRegistry> {
    async fn list(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>> {
        self.registry.list(subject, live_at).await
    }

    async fn find(&self, id: GrantId) -> Result<Option<Grant>> {
        self.registry.find(id).await
    }

    async fn create(
        &self,
        permit: &Permit,
        grant: GrantRecord,
        judged: Option<RightsStamp>,
    ) -> Result<Grant> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.create(&permit, grant, judged).await }).await
    }

    async fn revoke(&self, permit: &Permit, id: GrantId) -> Result<Grant> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.revoke(&permit, id).await }).await
    }
}

#[async_trait]
impl RequestRegistry for Invalidating<dyn RequestRegistry> {
    async fn list(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>> {
        self.registry.list(user, now).await
    }

    async fn find(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>> {
        self.registry.find(id, now).await
    }

    async fn create(&self, permit: &Permit, request: RequestRecord) -> Result<GrantRequest> {
        self.registry.create(permit, request).await
    }

    async fn decide(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.decide(&permit, id, decision, reason, judged).await }).await
    }
}

#[async_trait]
impl BreakGlassRegistry for Invalidating<dyn BreakGlassRegistry> {
    async fn list(&self, user: Option<UserId>) -> Result<Vec<BreakGlassRow>> {
        self.registry.list(user).await
    }

    async fn find(&self, id: BreakGlassId) -> Result<Option<BreakGlassRow>> {
        self.registry.find(id).await
    }

    async fn open(&self, permit: &Permit, record: BreakGlassRecord) -> Result<BreakGlassRow> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.open(&permit, record).await }).await
    }

    async fn review(&self, permit: &Permit, id: BreakGlassId, note: String) -> Result<BreakGlassRow> {
        self.registry.review(permit, id, note).await
    }
}

#[async_trait]
impl SecondFactorStore for Invalidating<dyn SecondFactorStore> {
    async fn find(&self, user: UserId) -> Result<Option<SecondFactor>> {
        self.registry.find(user).await
    }

    async fn begin(&self, permit: &Permit, user: UserId, enrolment: Uuid, seed: TotpSeed) -> Result<()> {
        // nothing to invalidate: a pending enrolment is no second factor
        self.registry.begin(permit, user, enrolment, seed).await
    }

    async fn confirm(&self, permit: &Permit, user: UserId, confirmation: Confirmation) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.confirm(&permit, user, confirmation).await }).await
    }

    async fn spend(&self, user: UserId, factor_use: FactorUse) -> Result<bool> {
        self.registry.spend(user, factor_use).await
    }

    async fn remove(&self, permit: &Permit, user: UserId, keep: Option<SessionId>) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.remove(&permit, user, keep).await }).await
    }
}

#[async_trait]
impl ServiceAccountStore for Invalidating<dyn ServiceAccountStore> {
    async fn list(&self) -> Result<Vec<ServiceAccount>> {
        self.registry.list().await
    }

    async fn find(&self, id: ServiceAccountId) -> Result<Option<ServiceAccount>> {
        self.registry.find(id).await
    }

    async fn create(&self, permit: &Permit, account: ServiceAccountRecord) -> Result<ServiceAccount> {
        // nothing to invalidate: a new account has no token
        self.registry.create(permit, account).await
    }

    async fn update(
        &self,
        permit: &Permit,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.update(&permit, id, patch).await }).await
    }

    async fn delete(&self, permit: &Permit, id: ServiceAccountId) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.delete(&permit, id).await }).await
    }
}

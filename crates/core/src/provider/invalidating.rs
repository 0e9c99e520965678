//! The store of identity providers, whose changes invalidate the session cache.

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{
    Admission, Binding, ConfirmationClaim, DueConfirmation, EndedSessions, FederationStore, Liveness,
    PendingLogin, Person, ProviderSession,
};
use crate::{
    access::Permit,
    error::Result,
    ids::{SessionId, UserId},
    name::ProviderId,
    session::{Invalidating, SecretHash, Session, SessionRecord},
    user::User,
};

#[async_trait]
impl FederationStore for Invalidating<dyn FederationStore> {
    async fn bind(&self, binding: &Binding) -> Result<bool> {
        self.registry.bind(binding).await
    }

    async fn begin(&self, login: PendingLogin) -> Result<()> {
        self.registry.begin(login).await
    }

    async fn take(
        &self,
        provider: &ProviderId,
        state: SecretHash,
        browser: SecretHash,
        at: Timestamp,
    ) -> Result<Option<String>> {
        self.registry.take(provider, state, browser, at).await
    }

    async fn admit(&self, permit: &Permit, admission: Admission) -> Result<User> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.admit(&permit, admission).await }).await
    }

    async fn user_of(&self, provider: &ProviderId, subject: &str) -> Result<Option<User>> {
        self.registry.user_of(provider, subject).await
    }

    async fn open(
        &self,
        permit: &Permit,
        session: SessionRecord,
        origin: ProviderSession,
    ) -> Result<Session> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.open(&permit, session, origin).await }).await
    }

    async fn provider_of(&self, session: SessionId) -> Result<Option<ProviderId>> {
        self.registry.provider_of(session).await
    }

    async fn claim_due(&self, claim: ConfirmationClaim) -> Result<Vec<DueConfirmation>> {
        self.registry.claim_due(claim).await
    }

    async fn release(&self, due: &[DueConfirmation], visited_at: Timestamp) -> Result<()> {
        self.registry.release(due, visited_at).await
    }

    async fn confirm(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()> {
        let (registry, due, person) = (self.registry.clone(), due.clone(), person.clone());
        self.change(async move { registry.confirm(&due, &person, refresh_token, at).await }).await
    }

    async fn withdraw(&self, permit: &Permit, ended: EndedSessions, live: Liveness) -> Result<Option<usize>> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.withdraw(&permit, ended, live).await }).await
    }

    async fn confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>> {
        self.registry.confirmed_at(user).await
    }
}

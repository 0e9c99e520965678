use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MemoryStore, State, grants::author};
use crate::{
    access::{Permit, Principal},
    error::{Cause, Error, Result},
    ids::{ServiceAccountId, TokenId, UserId},
    rights::Subject,
    service_account::{ServiceAccount, ServiceAccountPatch, ServiceAccountRecord, ServiceAccountStore},
    session::SecretHash,
    token::{ApiToken, FoundOwner, FoundToken, TokenRecord, TokenStore},
    user::User,
};

#[async_trait]
impl TokenStore for MemoryStore {
    async fn create(&self, permit: &Permit, record: TokenRecord) -> Result<ApiToken> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        match record.owner {
            Principal::User(id) => {
                state.user(id)?;
            }
            Principal::ServiceAccount(id) => {
                state.account(id)?;
            }
        }
        if let Some(role) = &record.ceiling.role {
            state.role_rules(role)?;
        }
        let live = state.tokens.iter().filter(|(token, _)| token.owner == record.owner && token.is_live(at));
        if live.count() >= ApiToken::MAX_LIVE {
            return Err(Error::new(Cause::TooMany).resource("token"));
        }
        let token = ApiToken {
            id: TokenId(state.next_id()),
            name: record.name,
            prefix: record.prefix,
            owner: record.owner,
            ceiling: record.ceiling,
            networks: record.networks,
            created_at: at,
            expires_at: record.expires_at,
            last_used_at: None,
            last_used_ip: None,
            revoked_at: None,
        };
        state.tokens.push((token.clone(), record.secret));
        state.record_success(permit, None)?;
        Ok(token)
    }

    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>> {
        Ok(self.lock().found_token(|_, hash| *hash == secret))
    }

    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>> {
        Ok(self.lock().found_token(|token, _| token.id == id))
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>> {
        let state = self.lock();
        let is_of_user = |owner: &FoundOwner| match owner {
            FoundOwner::User(owner) => user.is_none_or(|user| owner.id == user),
            FoundOwner::ServiceAccount { account, .. } => {
                user.is_none_or(|user| account.owner_user_id == Some(user))
            }
        };
        let live = state.tokens.iter().filter(|(token, _)| token.revoked_at.is_none());
        let owned = live.filter_map(|(token, _)| Some((token.clone(), state.owner_of(token)?)));
        Ok(owned.filter(|(_, owner)| is_of_user(owner)).collect())
    }

    async fn rename(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken> {
        let mut state = self.write()?;
        let token = state
            .token(id)
            .ok_or_else(|| Error::new(Cause::NotFound).resource("token").name(id.to_string()))?;
        token.name = name;
        let renamed = token.clone();
        state.record_success(permit, None)?;
        Ok(renamed)
    }

    async fn revoke(&self, permit: &Permit, id: TokenId) -> Result<bool> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        let Some(token) = state.token(id) else { return Ok(false) };
        token.revoked_at = Some(at);
        state.record_success(permit, None)?;
        Ok(true)
    }

    async fn touch(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()> {
        let mut state = self.lock();
        if let Some(token) = state.token(id).filter(|token| token.last_used_at.is_none_or(|last| last < at)) {
            (token.last_used_at, token.last_used_ip) = (Some(at), ip);
        }
        Ok(())
    }
}

#[async_trait]
impl ServiceAccountStore for MemoryStore {
    async fn list(&self) -> Result<Vec<ServiceAccount>> {
        let state = self.lock();
        Ok(state.service_accounts.iter().map(|account| state.with_owner(account)).collect())
    }

    async fn find(&self, id: ServiceAccountId) -> Result<Option<ServiceAccount>> {
        let state = self.lock();
        Ok(state
            .service_accounts
            .iter()
            .find(|account| account.id == id)
            .map(|account| state.with_owner(account)))
    }

    async fn create(&self, permit: &Permit, record: ServiceAccountRecord) -> Result<ServiceAccount> {
        let mut state = self.write()?;
        let (by, at) = author(permit)?;
        if state.service_accounts.iter().any(|account| account.name == record.name) {
            return Err(Error::new(Cause::NameTaken).resource("service_account").name(record.name.as_str()));
        }
        state.user(record.owner_user_id)?;
        let account = ServiceAccount {
            id: ServiceAccountId(state.next_id()),
            name: record.name,
            description: record.description,
            owner_user_id: Some(record.owner_user_id),
            owner: None,
            created_at: at,
            created_by: by,
        };
        state.service_accounts.push(account.clone());
        state.record_success(permit, None)?;
        Ok(state.with_owner(&account))
    }

    async fn update(
        &self,
        permit: &Permit,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount> {
        let mut state = self.write()?;
        if let Some(owner) = patch.owner_user_id {
            state.user(owner)?;
        }
        let account = state.account(id)?;
        account.description = patch.description.unwrap_or_else(|| account.description.clone());
        account.owner_user_id = patch.owner_user_id.or(account.owner_user_id);
        let changed = account.clone();
        state.record_success(permit, None)?;
        Ok(state.with_owner(&changed))
    }

    async fn delete(&self, permit: &Permit, id: ServiceAccountId) -> Result<()> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        state.account(id)?;
        state.revoke_tokens(Principal::ServiceAccount(id), at);
        state.revoke_grants(permit, &Subject::ServiceAccount(id))?;
        state.service_accounts.retain(|account| account.id != id);
        state.change_rights(permit)
    }
}

impl State {
    /// A service account. The name of its owner is not stored.
    pub(super) fn account(&mut self, id: ServiceAccountId) -> Result<&mut ServiceAccount> {
        let found = self.service_accounts.iter_mut().find(|account| account.id == id);
        found.ok_or_else(|| Error::new(Cause::NotFound).resource("service_account").name(id.to_string()))
    }

    /// Revokes the tokens of a user or service account.
    pub(super) fn revoke_tokens(&mut self, owner: Principal, at: Timestamp) {
        let live = self.tokens.iter_mut().map(|(token, _)| token).filter(|token| token.revoked_at.is_none());
        live.filter(|token| token.owner == owner).for_each(|token| token.revoked_at = Some(at));
    }

    /// Leaves the service accounts of a user without an owner.
    pub(super) fn leave_accounts(&mut self, user: UserId) {
        let owned = self.service_accounts.iter_mut().filter(|account| account.owner_user_id == Some(user));
        owned.for_each(|account| account.owner_user_id = None);
    }

    /// A token that is not revoked.
    fn token(&mut self, id: TokenId) -> Option<&mut ApiToken> {
        let mut tokens = self.tokens.iter_mut().map(|(token, _)| token);
        tokens.find(|token| token.id == id && token.revoked_at.is_none())
    }

    fn found_token(&self, wanted: impl Fn(&ApiToken, &SecretHash) -> bool) -> Option<FoundToken> {
        let (token, _) = self.tokens.iter().find(|(token, hash)| wanted(token, hash))?;
        if token.revoked_at.is_some() {
            return None;
        }
        let owner = self.owner_of(token)?;
        let user = match &owner {
            FoundOwner::User(user) => Some(user.id),
            FoundOwner::ServiceAccount { account, .. } => account.owner_user_id,
        };
        let confirmed_at = user.and_then(|user| self.confirmed_at(user));
        let enrolled = match &owner {
            FoundOwner::User(user) => self.confirmed_factor(user.id).is_some(),
            FoundOwner::ServiceAccount { .. } => false,
        };
        Some(FoundToken { token: token.clone(), owner, confirmed_at, enrolled, rights: self.rights_stamp })
    }

    fn owner_of(&self, token: &ApiToken) -> Option<FoundOwner> {
        match token.owner {
            Principal::User(id) => self.find_user(id).cloned().map(FoundOwner::User),
            Principal::ServiceAccount(id) => {
                let account = self.service_accounts.iter().find(|account| account.id == id)?;
                let owner = account.owner_user_id.and_then(|owner| self.find_user(owner));
                Some(FoundOwner::ServiceAccount {
                    account: self.with_owner(account),
                    owner_enabled: owner.is_some_and(|owner| !owner.disabled),
                })
            }
        }
    }

    fn with_owner(&self, account: &ServiceAccount) -> ServiceAccount {
        let owner = account.owner_user_id.and_then(|owner| self.find_user(owner));
        ServiceAccount { owner: owner.map(|owner| owner.username.clone()), ..account.clone() }
    }

    fn find_user(&self, id: UserId) -> Option<&User> {
        self.users.iter().map(|(user, _)| user).find(|user| user.id == id)
    }
}

//! Use cases of service accounts, for super admins.

use std::sync::Arc;

use super::{ServiceAccount, ServiceAccountPatch, ServiceAccountRecord, ServiceAccountStore};
use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    error::{Cause, Error, Reason, Result},
    gate::Gate,
    ids::ServiceAccountId,
    name::is_invisible,
    rows::{ListQuery, Pagination, Row, select},
};

/// Maximum length of a description in characters.
const MAX_DESCRIPTION: usize = 1024;

/// Use cases of service accounts.
#[derive(Clone)]
pub struct ServiceAccounts {
    pub(crate) gate: Gate,
    pub(crate) store: Arc<dyn ServiceAccountStore>,
}

impl ServiceAccounts {
    /// A page of service accounts.
    ///
    /// # Errors
    /// `RoleTooLow`, `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::ServiceAccount)).await?;
        let rows = self.store.list().await?.iter().map(Row::of).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Creates a service account. It has no rights before it has a grant.
    ///
    /// # Errors
    /// `InvalidInput`, `RoleTooLow`, `TokenNotAllowed`, `NameTaken`, `NotFound` of the owner, `StoreUnavailable`.
    pub async fn create(&self, caller: &Caller, account: ServiceAccountRecord) -> Result<ServiceAccount> {
        check_description(&account.description)?;
        let access = AccessRequest::to(Verb::Create, Resource::ServiceAccount)
            .named(account.name.as_str())
            .with("owner_user_id", account.owner_user_id.0);
        let store = self.store.clone();
        let work = async move |permit: Permit| store.create(&permit, account).await;
        self.gate.change_local(caller, access, work).await
    }

    /// Changes the description or the owner of a service account. A new owner can use all rights of the account. Super
    /// admins may give every right, so the grants of the account need no further check.
    ///
    /// # Errors
    /// `InvalidInput`, `RoleTooLow`, `TokenNotAllowed`, `NotFound` of the account or the owner, `StoreUnavailable`.
    pub async fn update(
        &self,
        caller: &Caller,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount> {
        if let Some(description) = &patch.description {
            check_description(description)?;
        }
        if patch == ServiceAccountPatch::default() {
            return Err(Error::invalid("description", Reason::Required));
        }
        let mut granted = self.grant_for_account(caller, Verb::Update, id).await?;
        if let Some(owner) = patch.owner_user_id {
            granted = granted.with("owner_user_id", owner.0);
        }
        let store = self.store.clone();
        let work = async move |permit: Permit| store.update(&permit, id, patch).await;
        self.gate.change_local_granted(granted, work).await
    }

    /// Deletes a service account, and revokes its grants and tokens.
    ///
    /// # Errors
    /// `RoleTooLow`, `TokenNotAllowed`, `NotFound`, `StoreUnavailable`.
    pub async fn delete(&self, caller: &Caller, id: ServiceAccountId) -> Result<()> {
        let granted = self.grant_for_account(caller, Verb::Delete, id).await?;
        let store = self.store.clone();
        self.gate.change_local_granted(granted, async move |permit| store.delete(&permit, id).await).await
    }

    /// A service account by name, for the command line.
    ///
    /// # Errors
    /// `NotFound`, `StoreUnavailable`.
    pub async fn find(&self, name: &str) -> Result<ServiceAccount> {
        let found = self.store.list().await?.into_iter().find(|account| account.name.as_str() == name);
        found.ok_or_else(|| Error::new(Cause::NotFound).resource("service_account").name(name))
    }

    /// Grants a change of a service account. The audit row has its name if it exists, otherwise the id.
    async fn grant_for_account(&self, caller: &Caller, verb: Verb, id: ServiceAccountId) -> Result<Granted> {
        let access = AccessRequest::to(verb, Resource::ServiceAccount).named(id.to_string());
        let granted = self.gate.grant(caller, access).await?;
        Ok(match self.store.find(id).await? {
            Some(account) => granted.named(account.name.as_str()),
            None => granted,
        })
    }
}

fn check_description(text: &str) -> Result<()> {
    let refused = |c: char| is_invisible(c) || (c.is_control() && c != '\n' && c != '\t');
    if text.chars().count() > MAX_DESCRIPTION {
        Err(Error::invalid("description", Reason::TooLong))
    } else if text.chars().any(refused) {
        Err(Error::invalid("description", Reason::Malformed))
    } else {
        Ok(())
    }
}

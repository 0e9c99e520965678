//! Liveness of API tokens: the rule for requests, and for streams that outlive a request.

use std::sync::Arc;

use async_trait::async_trait;

use super::{FoundToken, TokenStore};
use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
    gate::{CurrentRights, TokenCheck},
    ids::TokenId,
    rights::{Ceiling, Rights},
    session::{RightsOf, SecretHash, UserRights},
};

/// Finds live tokens: neither revoked nor expired, of owners who are enabled and, if federated, confirmed.
#[derive(Clone)]
pub(crate) struct LiveTokens {
    pub(crate) store: Arc<dyn TokenStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Rights of users and service accounts.
    pub(crate) rights: Arc<UserRights>,
}

impl LiveTokens {
    /// The token of a secret.
    ///
    /// # Errors
    /// `TokenInvalid`, `TokenExpired`; `StoreUnavailable`.
    pub(super) async fn by_secret(&self, secret: SecretHash) -> Result<FoundToken> {
        self.require_live(self.store.find(secret).await?)
    }

    /// The rights of the owner, within the ceiling.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(super) async fn rights_of(&self, found: &FoundToken) -> Result<Arc<Rights>> {
        self.rights_within(found, Some((found.token.id, &found.token.ceiling))).await
    }

    /// The rights of the owner, without the ceiling.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(super) async fn rights_of_owner(&self, found: &FoundToken) -> Result<Arc<Rights>> {
        self.rights_within(found, None).await
    }

    async fn rights_within(
        &self,
        found: &FoundToken,
        ceiling: Option<(TokenId, &Ceiling)>,
    ) -> Result<Arc<Rights>> {
        let (principal, role) = (found.token.owner, found.owner.role());
        self.rights.of_principal(RightsOf { principal, role, stamp: found.rights, ceiling }).await
    }

    fn require_live(&self, found: Option<FoundToken>) -> Result<FoundToken> {
        let now = self.clock.now();
        let found = found.filter(|found| found.is_accepted(now));
        let found = found.ok_or_else(|| Error::new(Cause::TokenInvalid))?;
        if found.token.is_live(now) { Ok(found) } else { Err(Error::new(Cause::TokenExpired)) }
    }
}

#[async_trait]
impl TokenCheck for LiveTokens {
    async fn current_rights(&self, token: TokenId) -> Result<CurrentRights> {
        let found = self.require_live(self.store.get(token).await?)?;
        Ok(CurrentRights { role: found.owner.role(), rights: self.rights_of(&found).await? })
    }
}

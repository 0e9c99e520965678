//! Use cases of API tokens: create, list, rename, revoke, and the authentication of a request.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    ApiToken, FoundOwner, FoundToken, LiveTokens, Networks, TokenKind, TokenRecord, TokenRow, TokenSecret,
    TokenStore,
};
use crate::{
    access::{AccessRequest, Caller, Factor, Granted, Origin, Permit, Principal, Resource, Verb},
    clock::Clock,
    error::{Cause, Error, Reason, Result},
    gate::Gate,
    ids::{ServiceAccountId, TokenId, UserId},
    name::{ProviderId, is_invisible},
    rights::{Ceiling, ClusterScope, Extent, Reach, RightResource, RightVerb},
    rng::Rng,
    rows::{ListQuery, Pagination, Row, select},
    second_factor::RequireSecondFactor,
    service_account::ServiceAccountStore,
    user::{User, UserRegistry},
};

/// Minimum interval between two records of a token's use.
const USE_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum length of a name in characters.
const MAX_NAME: usize = 64;

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// Days until it expires; [`NewToken::DEFAULT_DAYS`] if `None`.
    pub expires_in_days: Option<u32>,
    /// Ceiling to which the rights of its owner are cut.
    pub ceiling: Ceiling,
    /// Networks from which it is accepted.
    pub networks: Networks,
    /// Its owner: the caller if `None`. Another user only for the command line.
    pub owner: Option<Principal>,
}

impl NewToken {
    /// Default number of days until a token expires.
    pub const DEFAULT_DAYS: u32 = 90;
    /// Allowed numbers of days.
    pub const DAYS: RangeInclusive<u32> = 1..=365;
}

/// A token that was made, with its secret. The `Debug` output contains no secret.
#[derive(Clone, Debug)]
pub struct CreatedToken {
    /// The token as displayed.
    pub token: TokenRow,
    /// The secret, shown once.
    pub secret: TokenSecret,
}

/// An authenticated request with an API token.
#[derive(Clone, Debug)]
pub struct TokenSignedIn {
    /// The caller, for the gate.
    pub caller: Caller,
    /// The token and its owner.
    pub found: FoundToken,
}

impl TokenSignedIn {
    /// The token as displayed.
    pub fn token_row(&self) -> TokenRow {
        TokenRow::of(&self.found.token, &self.found.owner)
    }
}

/// Use cases of API tokens.
#[derive(Clone)]
pub struct Tokens {
    pub(crate) gate: Gate,
    pub(crate) store: Arc<dyn TokenStore>,
    pub(crate) live: LiveTokens,
    pub(crate) accounts: Arc<dyn ServiceAccountStore>,
    pub(crate) users: Arc<dyn UserRegistry>,
    pub(crate) require_factor: RequireSecondFactor,
    /// The providers that are trusted for second factors.
    pub(crate) trusted_providers: Arc<BTreeSet<ProviderId>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
}

impl Tokens {
    /// Authenticates a request by its bearer token, and records the use of the token at most once a minute. Owner and
    /// rights are read from the database: current if this process changed them, otherwise at most one second old. A
    /// text that is no API token causes no query.
    ///
    /// # Errors
    /// `TokenInvalid`, `TokenExpired`, `TokenNetwork`; `StoreUnavailable`.
    pub async fn authenticate(&self, bearer: &str, origin: Origin) -> Result<TokenSignedIn> {
        let secret = TokenSecret::parse(bearer).ok_or_else(|| Error::new(Cause::TokenInvalid))?;
        let mut found = self.live.by_secret(secret.hash()).await?;
        if !found.token.networks.contain(origin.source_ip) {
            return Err(Error::new(Cause::TokenNetwork));
        }
        let now = self.clock.now();
        let is_due = |last| now.duration_since(last).unsigned_abs() >= USE_INTERVAL;
        if found.token.last_used_at.is_none_or(is_due)
            // authentication itself requires no write
            && self.store.touch(found.token.id, now, origin.source_ip).await.is_ok()
        {
            (found.token.last_used_at, found.token.last_used_ip) = (Some(now), origin.source_ip);
        }
        let rights = self.live.rights_of(&found).await?;
        let factor = self.factor_of(&found).await?;
        let (user_id, service_account) = match found.token.owner {
            Principal::User(id) => (Some(id), None),
            Principal::ServiceAccount(id) => (None, Some(id)),
        };
        let anonymous = Caller::anonymous(found.owner.caller_name(), origin);
        let caller = Caller {
            user_id,
            service_account,
            token: Some(found.token.id),
            factor,
            ..anonymous.with_rights(found.owner.role(), rights)
        };
        Ok(TokenSignedIn { caller, found })
    }

    /// The second factor of the owner of a token. A request with a token gives no code. A user of a trusted provider
    /// counts as enrolled. A service account has no second factor, and the settings require none.
    async fn factor_of(&self, found: &FoundToken) -> Result<Factor> {
        let FoundOwner::User(user) = &found.owner else { return Ok(Factor::default()) };
        // the requirement depends on all rights of the owner: a ceiling does not remove it
        let required = match &self.require_factor {
            RequireSecondFactor::None => false,
            setting => {
                let rights = self.live.rights_of_owner(found).await?;
                setting.of(user.role, &rights)
            }
        };
        let provider = user.username.as_str().split_once(':').and_then(|(id, _)| ProviderId::new(id).ok());
        let by_provider = provider.is_some_and(|id| self.trusted_providers.contains(&id));
        Ok(Factor { enrolled: found.enrolled || by_provider, required, at: None })
    }

    /// Makes a token: of the caller, of a service account that the caller owns, or, for a super admin, of any service
    /// account.
    ///
    /// # Errors
    /// `InvalidInput`; `TokenNotAllowed` for a caller with a token; `SecondFactorStale`; `NotFound` of the service
    /// account, also if the caller may not make tokens of it, and of the role; `TooMany` if the owner has
    /// [`ApiToken::MAX_LIVE`] live tokens; `StoreUnavailable`.
    pub async fn create(&self, caller: &Caller, new: NewToken) -> Result<CreatedToken> {
        let NewToken { name, expires_in_days, ceiling, networks, owner } = new;
        let name = check_name(&name)?;
        let days = expires_in_days.unwrap_or(NewToken::DEFAULT_DAYS);
        if !NewToken::DAYS.contains(&days) {
            return Err(Error::invalid("expires_in_days", Reason::OutOfRange));
        }
        check_size(&ceiling)?;
        let access = AccessRequest::to(Verb::Create, Resource::Token).named(&*name);
        let granted = self.gate.grant(caller, access).await?;
        let owner = owner.or_else(|| caller.principal()).ok_or_else(|| Error::new(Cause::NotSignedIn))?;
        let kind = match owner {
            Principal::User(_) => TokenKind::Person,
            Principal::ServiceAccount(_) => TokenKind::ServiceAccount,
        };
        let found = self.owner_for(caller, owner).await;
        let expires_at = self.clock.now() + Duration::from_secs(u64::from(days) * 24 * 3600);
        let secret = TokenSecret::generate(kind, &*self.rng);
        let granted = granted
            .with("owner", owner.to_string())
            .with("ceiling", serde_json::to_value(&ceiling).unwrap_or_default())
            .with("networks", networks.texts())
            .with("expires_at", expires_at.to_string());
        let record = TokenRecord {
            name,
            secret: secret.hash(),
            prefix: secret.prefix(),
            owner,
            ceiling,
            networks,
            expires_at,
        };
        let store = self.store.clone();
        let work = async move |permit: Permit| {
            let owner = found?;
            let created = store.create(&permit, record).await?;
            Ok(TokenRow::of(&created, &owner))
        };
        let token = self.gate.change_local_granted(granted, work).await?;
        Ok(CreatedToken { token, secret })
    }

    /// A page of tokens that are not revoked: the caller's own and those of the caller's service accounts, or all for a
    /// super admin.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Token)).await?;
        let visible = self.visible(caller).await?;
        let rows = visible.iter().map(|(token, owner)| Row::of(&TokenRow::of(token, owner)));
        Ok(select(rows.collect::<Result<_>>()?, query))
    }

    /// All tokens that [`Tokens::list`] lists, by id, for the command line.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn all(&self, caller: &Caller) -> Result<Vec<TokenRow>> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Token)).await?;
        let visible = self.visible(caller).await?;
        Ok(visible.iter().map(|(token, owner)| TokenRow::of(token, owner)).collect())
    }

    /// Changes the name of a token that the caller may list. Any other token is reported as not found.
    ///
    /// # Errors
    /// `InvalidInput`, `NotFound`, `TokenNotAllowed`, `StoreUnavailable`.
    pub async fn rename(&self, caller: &Caller, id: TokenId, name: &str) -> Result<TokenRow> {
        let name = check_name(name)?;
        let (granted, found) = self.grant_for_token(caller, Verb::Update, id).await?;
        let granted = granted.with("name", &*name);
        let store = self.store.clone();
        let work = async move |permit: Permit| {
            let (_, owner) = found.ok_or_else(|| not_found(id))?;
            let renamed = store.rename(&permit, id, name).await?;
            Ok(TokenRow::of(&renamed, &owner))
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Revokes a token that the caller may list, for ever. Any other token is reported as not found.
    ///
    /// # Errors
    /// `NotFound`, `TokenNotAllowed`, `StoreUnavailable`.
    pub async fn revoke(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let (granted, found) = self.grant_for_token(caller, Verb::Revoke, id).await?;
        let store = self.store.clone();
        let work = async move |permit: Permit| {
            let revoked = found.is_some() && store.revoke(&permit, id).await?;
            if revoked { Ok(()) } else { Err(not_found(id)) }
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Grants a change of a token. The audit row has the name of the token if the caller may list it.
    async fn grant_for_token(
        &self,
        caller: &Caller,
        verb: Verb,
        id: TokenId,
    ) -> Result<(Granted, Option<(ApiToken, FoundOwner)>)> {
        let access = AccessRequest::to(verb, Resource::Token).named(id.to_string());
        let granted = self.gate.grant(caller, access).await?;
        let found = self.visible(caller).await?.into_iter().find(|(token, _)| token.id == id);
        let granted = match &found {
            Some((token, _)) => {
                granted.named(&*token.name).with("id", id.0).with("owner", token.owner.to_string())
            }
            None => granted,
        };
        Ok((granted, found))
    }

    /// The tokens that the caller may list.
    async fn visible(&self, caller: &Caller) -> Result<Vec<(ApiToken, FoundOwner)>> {
        if is_admin_of_tokens(caller) {
            return self.store.list(None).await;
        }
        match caller.principal() {
            Some(Principal::User(id)) => self.store.list(Some(id)).await,
            Some(owner @ Principal::ServiceAccount(_)) => {
                let mut tokens = self.store.list(None).await?;
                tokens.retain(|(token, _)| token.owner == owner);
                Ok(tokens)
            }
            None => Ok(Vec::new()),
        }
    }

    /// The owner of a new token, if the caller may make tokens of it.
    async fn owner_for(&self, caller: &Caller, owner: Principal) -> Result<FoundOwner> {
        match owner {
            Principal::User(id) => {
                let is_allowed = caller.principal().is_none_or(|own| own == Principal::User(id));
                let user = self.user(id).await?.filter(|_| is_allowed);
                let absent = || Error::new(Cause::NotFound).resource("user").name(id.to_string());
                user.map(FoundOwner::User).ok_or_else(absent)
            }
            Principal::ServiceAccount(id) => self.account_for(caller, id).await,
        }
    }

    async fn account_for(&self, caller: &Caller, id: ServiceAccountId) -> Result<FoundOwner> {
        let is_allowed = |owner: Option<UserId>| {
            is_admin_of_tokens(caller) || (owner.is_some() && owner == caller.user_id)
        };
        let found = self.accounts.find(id).await?.filter(|account| is_allowed(account.owner_user_id));
        let absent = || Error::new(Cause::NotFound).resource("service_account").name(id.to_string());
        let account = found.ok_or_else(absent)?;
        let owner = match account.owner_user_id {
            Some(owner) => self.user(owner).await?,
            None => None,
        };
        Ok(FoundOwner::ServiceAccount { account, owner_enabled: owner.is_some_and(|owner| !owner.disabled) })
    }

    async fn user(&self, id: UserId) -> Result<Option<User>> {
        Ok(self.users.list().await?.into_iter().find(|user| user.id == id))
    }
}

/// Whether the caller sees and revokes the tokens of others, and makes tokens of all service accounts.
fn is_admin_of_tokens(caller: &Caller) -> bool {
    caller.rights.extent(RightVerb::Update, &RightResource::Tokens) != Extent::None
}

fn not_found(id: TokenId) -> Error {
    Error::new(Cause::NotFound).resource("token").name(id.to_string())
}

/// Trims and checks a name: 1 to [`MAX_NAME`] characters, none of them invisible.
fn check_name(text: &str) -> Result<String> {
    let text = text.trim();
    let reason = match text.chars().take(MAX_NAME + 1).count() {
        0 => Reason::Required,
        1..=MAX_NAME if text.chars().any(|c| c.is_control() || is_invisible(c)) => Reason::Malformed,
        1..=MAX_NAME => return Ok(text.to_owned()),
        _ => Reason::TooLong,
    };
    Err(Error::invalid("name", reason))
}

/// Checks the number of ids and of patterns of a ceiling.
fn check_size(ceiling: &Ceiling) -> Result<()> {
    let ids = if let ClusterScope::Ids(ids) = &ceiling.clusters { ids.len() } else { 0 };
    let patterns = if let Reach::Namespaces(set) = &ceiling.reach { set.patterns().len() } else { 0 };
    if ids > ClusterScope::MAX_IDS {
        Err(Error::invalid("clusters", Reason::TooLong))
    } else if patterns > Reach::MAX_PATTERNS {
        Err(Error::invalid("namespaces", Reason::TooLong))
    } else {
        Ok(())
    }
}

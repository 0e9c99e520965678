//! Storage of API tokens.
//!
//! The creation of a token locks the rights stamp first, as the deletion of its owner does: a token is either revoked by
//! the deletion, or not created.

use std::net::IpAddr;

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, JoinOnDsl as _, NullableExpressionMethods as _,
    OptionalExtension as _, QueryDsl as _, Queryable, Selectable, SelectableHelper as _, define_sql_function,
    sql_types::{BigInt, Nullable},
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{Permit, Principal},
    grant::RightsStamp,
    ids::{ServiceAccountId, TokenId, UserId},
    rights::BuiltInRole,
    session::SecretHash,
    token::{ApiToken, FoundOwner, FoundToken, TokenRecord, TokenStore},
    user::User,
};

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact},
    error::corrupt,
    grant::{from_json, require_role, require_service_account, to_json, username},
    rights_stamp::StampedRights as _,
    schema::{At, api_tokens, rights_stamp, roles, second_factors, service_accounts, users},
    service_account::Row as AccountRow,
    user::Row as UserRow,
};

define_sql_function! {
    /// SQL `coalesce` of two ids.
    fn coalesce(first: Nullable<BigInt>, second: Nullable<BigInt>) -> Nullable<BigInt>;
}

/// A stored token, without its hash.
#[derive(Queryable, Selectable)]
#[diesel(table_name = api_tokens)]
struct Row {
    id: i64,
    name: String,
    prefix: String,
    user_id: Option<i64>,
    service_account_id: Option<i64>,
    ceiling: String,
    networks: String,
    created_at: At,
    expires_at: At,
    last_used_at: Option<At>,
    last_used_ip: Option<String>,
    revoked_at: Option<At>,
}

impl TryFrom<Row> for ApiToken {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let user = row.user_id.map(|id| Principal::User(UserId(id)));
        let account = row.service_account_id.map(|id| Principal::ServiceAccount(ServiceAccountId(id)));
        let last_used_ip = row.last_used_ip.map(|ip| ip.parse::<IpAddr>()).transpose();
        Ok(Self {
            id: TokenId(row.id),
            name: row.name,
            prefix: row.prefix,
            owner: user.or(account).ok_or_else(|| corrupt("api_tokens.user_id"))?,
            ceiling: from_json(&row.ceiling, "api_tokens.ceiling")?,
            networks: from_json(&row.networks, "api_tokens.networks")?,
            created_at: row.created_at.0,
            expires_at: row.expires_at.0,
            last_used_at: row.last_used_at.map(|at| at.0),
            last_used_ip: last_used_ip.map_err(|_| corrupt("api_tokens.last_used_ip"))?,
            revoked_at: row.revoked_at.map(|at| at.0),
        })
    }
}

/// A token with its service account, and with the user who owns the token or the account.
type OwnedRow = (Row, Option<AccountRow>, Option<UserRow>);

/// As [`OwnedRow`], with the time at which a provider last confirmed the user, the time at which the user who owns the
/// token confirmed a second factor, and the rights stamp.
type FoundRow = (Row, Option<AccountRow>, Option<UserRow>, Option<At>, Option<At>, i64);

/// The token and its owner. `None` if a user who owns the token does not exist any more.
fn owned((row, account, user): OwnedRow) -> Result<Option<(ApiToken, FoundOwner)>> {
    let token = ApiToken::try_from(row)?;
    let user = user.map(User::try_from).transpose()?;
    let owner = match account {
        Some(account) => {
            let owner_enabled = user.as_ref().is_some_and(|user| !user.disabled);
            let account = account.with_owner(user.map(|user| user.username))?;
            Some(FoundOwner::ServiceAccount { account, owner_enabled })
        }
        None => user.map(FoundOwner::User),
    };
    Ok(owner.map(|owner| (token, owner)))
}

/// Tokens with their owners.
macro_rules! owned_tokens {
    () => {{
        let of_token = service_accounts::id.nullable().eq(api_tokens::service_account_id);
        let owner = coalesce(api_tokens::user_id, service_accounts::owner_user_id);
        api_tokens::table
            .left_join(service_accounts::table.on(of_token))
            .left_join(users::table.on(users::id.nullable().eq(owner)))
    }};
}

/// Revokes the tokens with this property.
macro_rules! revoke_tokens {
    ($conn:ident, $of_owner:expr, $at:expr) => {{
        use $crate::schema::{At, api_tokens};
        let live = api_tokens::table.filter($of_owner).filter(api_tokens::revoked_at.is_null());
        diesel::update(live).set(api_tokens::revoked_at.eq(At($at))).execute($conn).await?;
    }};
}

pub(crate) use revoke_tokens;

/// Key of a lookup.
#[derive(Clone, Copy)]
enum TokenKey {
    Secret(SecretHash),
    Id(TokenId),
}

fn token_error(cause: Cause, id: TokenId) -> Error {
    Error::new(cause).resource("token").name(id.to_string())
}

impl Store {
    async fn create_token(&self, permit: &Permit, record: TokenRecord) -> Result<ApiToken> {
        let entry = self.pending_entry(permit)?;
        let (ceiling, networks) = (to_json(&record.ceiling)?, to_json(&record.networks)?);
        transact!(self.db, |conn| {
            conn.lock_rights_stamp().await?;
            let (user, account) = match record.owner {
                Principal::User(id) => {
                    username!(conn, id);
                    (Some(id.0), None)
                }
                Principal::ServiceAccount(id) => {
                    require_service_account!(conn, id);
                    (None, Some(id.0))
                }
            };
            if let Some(role) = &record.ceiling.role {
                require_role!(conn, role);
            }
            let of_owner = api_tokens::user_id.eq(user).or(api_tokens::service_account_id.eq(account));
            let live = api_tokens::table
                .filter(of_owner)
                .filter(api_tokens::revoked_at.is_null())
                .filter(api_tokens::expires_at.gt(At(entry.at())));
            let live: i64 = live.count().get_result(conn).await?;
            if live.unsigned_abs() >= ApiToken::MAX_LIVE as u64 {
                return Err(Error::new(Cause::TooMany).resource("token").into());
            }
            let values = (
                api_tokens::hash.eq(record.secret.0.to_vec()),
                api_tokens::name.eq(&record.name),
                api_tokens::prefix.eq(&record.prefix),
                api_tokens::user_id.eq(user),
                api_tokens::service_account_id.eq(account),
                api_tokens::ceiling.eq(&ceiling),
                api_tokens::networks.eq(&networks),
                api_tokens::created_at.eq(At(entry.at())),
                api_tokens::expires_at.eq(At(record.expires_at)),
            );
            let row: Row = diesel::insert_into(api_tokens::table)
                .values(values)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(ApiToken::try_from(row)?)
        })
    }

    /// Reads a token, its owner, whether the owner has a second factor, and the rights stamp in one query, because every
    /// request needs them.
    async fn token(&self, which: TokenKey) -> Result<Option<FoundToken>> {
        read!(self.db, |conn| {
            let query = owned_tokens!()
                .left_join(
                    second_factors::table.on(second_factors::user_id.nullable().eq(api_tokens::user_id)),
                )
                .inner_join(rights_stamp::table.on(rights_stamp::id.eq(1)))
                .filter(api_tokens::revoked_at.is_null())
                .select((
                    Row::as_select(),
                    Option::<AccountRow>::as_select(),
                    Option::<UserRow>::as_select(),
                    users::confirmed_at.nullable(),
                    second_factors::confirmed_at.nullable(),
                    rights_stamp::stamp,
                ))
                .into_boxed();
            let query = match which {
                TokenKey::Secret(secret) => query.filter(api_tokens::hash.eq(secret.0.to_vec())),
                TokenKey::Id(id) => query.filter(api_tokens::id.eq(id.0)),
            };
            let found: Option<FoundRow> = query.first(conn).await.optional()?;
            let Some((row, account, user, confirmed_at, enrolled_at, stamp)) = found else {
                return Ok(None);
            };
            let found = |(token, owner)| FoundToken {
                token,
                owner,
                confirmed_at: confirmed_at.map(|at| at.0),
                enrolled: enrolled_at.is_some(),
                rights: RightsStamp(stamp),
            };
            Ok(owned((row, account, user))?.map(found))
        })
    }

    async fn list_tokens(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>> {
        read!(self.db, |conn| {
            let mut query = owned_tokens!()
                .filter(api_tokens::revoked_at.is_null())
                .select((Row::as_select(), Option::<AccountRow>::as_select(), Option::<UserRow>::as_select()))
                .order_by(api_tokens::id)
                .into_boxed();
            if let Some(UserId(user)) = user {
                let of_user = api_tokens::user_id.eq(user).or(service_accounts::owner_user_id.eq(user));
                query = query.filter(of_user);
            }
            let rows: Vec<OwnedRow> = query.load(conn).await?;
            Ok(rows.into_iter().filter_map(|row| owned(row).transpose()).collect::<Result<_>>()?)
        })
    }

    async fn rename_token(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            let live = api_tokens::table.find(id.0).filter(api_tokens::revoked_at.is_null());
            let row: Option<Row> = diesel::update(live)
                .set(api_tokens::name.eq(&name))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let row = row.ok_or_else(|| token_error(Cause::NotFound, id))?;
            conn.record_success(entry).await?;
            Ok(ApiToken::try_from(row)?)
        })
    }

    async fn revoke_token(&self, permit: &Permit, id: TokenId) -> Result<bool> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            let live = api_tokens::table.find(id.0).filter(api_tokens::revoked_at.is_null());
            let revoked =
                diesel::update(live).set(api_tokens::revoked_at.eq(At(entry.at()))).execute(conn).await? > 0;
            if revoked {
                conn.record_success(entry).await?;
            }
            Ok(revoked)
        })
    }

    async fn touch_token(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()> {
        change!(self.db, |conn| {
            let is_older = api_tokens::last_used_at.is_null().or(api_tokens::last_used_at.lt(At(at)));
            let used = (
                api_tokens::last_used_at.eq(At(at)),
                api_tokens::last_used_ip.eq(ip.map(|ip| ip.to_string())),
            );
            diesel::update(api_tokens::table.find(id.0).filter(is_older)).set(used).execute(conn).await?;
            Ok(())
        })
    }
}

#[async_trait]
impl TokenStore for Store {
    async fn create(&self, permit: &Permit, token: TokenRecord) -> Result<ApiToken> {
        self.create_token(permit, token).await
    }

    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>> {
        self.token(TokenKey::Secret(secret)).await
    }

    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>> {
        self.token(TokenKey::Id(id)).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>> {
        self.list_tokens(user).await
    }

    async fn rename(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken> {
        self.rename_token(permit, id, name).await
    }

    async fn revoke(&self, permit: &Permit, id: TokenId) -> Result<bool> {
        self.revoke_token(permit, id).await
    }

    async fn touch(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()> {
        self.touch_token(id, at, ip).await
    }
}

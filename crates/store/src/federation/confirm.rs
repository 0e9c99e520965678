//! Claims of confirmations: one of several replicas reads a person from the provider again.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, NullableExpressionMethods as _, QueryDsl as _,
    dsl::exists,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    ids::{SessionId, UserId},
    provider::{ConfirmationClaim, DueConfirmation, ProviderKind},
    seal::Keyring,
    user::Username,
};
use secrecy::SecretString;

use super::{provider_id, refresh_token_owner};
use crate::{
    Store,
    db::{read, transact_retried},
    error::corrupt,
    schema::{At, api_tokens, provider_sessions, service_accounts, sessions, users},
};

/// Id and name of a user, provider, subject, last confirmation.
type PersonRow = (i64, String, Option<String>, Option<String>, Option<At>);

/// Session, id of the row, sealed refresh token.
type TokenRow = (i64, String, Option<Vec<u8>>);

/// A claimed confirmation.
type ClaimedRow = (PersonRow, Option<TokenRow>);

fn due_person(
    (id, username, provider, subject, confirmed_at): PersonRow,
    token: Option<TokenRow>,
    keyring: &dyn Keyring,
) -> Result<DueConfirmation> {
    let session = token.as_ref().map(|(session, ..)| SessionId(*session));
    let refresh_token = match token {
        Some((_, uuid, Some(sealed))) => Some(open_token(&uuid, &sealed, keyring)?),
        _ => None,
    };
    Ok(DueConfirmation {
        user_id: UserId(id),
        username: Username::stored(&username).map_err(|_| corrupt("users.username"))?,
        provider: provider_id(&provider.ok_or_else(|| corrupt("users.provider"))?)?,
        subject: subject.ok_or_else(|| corrupt("users.subject"))?,
        session,
        refresh_token,
        confirmed_at: confirmed_at.map(|at| at.0),
    })
}

fn open_token(uuid: &str, sealed: &[u8], keyring: &dyn Keyring) -> Result<SecretString> {
    let uuid = uuid.parse().map_err(|_| corrupt("provider_sessions.uuid"))?;
    let opened = keyring.open(&refresh_token_owner(uuid), sealed)?;
    let text = String::from_utf8(opened);
    // the error would contain the token
    text.map(SecretString::from).map_err(|_| Error::internal("a decrypted refresh token is not UTF-8"))
}

impl Store {
    pub(super) async fn claim_confirmations(
        &self,
        claim: &ConfirmationClaim,
    ) -> Result<Vec<DueConfirmation>> {
        let claimed = match claim.kind {
            ProviderKind::Oidc => self.claim_sessions(claim).await?,
            ProviderKind::Ldap => self.claim_people(claim).await?,
        };
        let keyring = &*self.deps.keyring;
        let open = |(person, token)| {
            due_person(person, token, keyring).inspect_err(|error| {
                tracing::error!(%error, "a user of an identity provider cannot be read again");
            })
        };
        // a refresh token that cannot be unsealed must not stop the other confirmations
        Ok(claimed.into_iter().filter_map(|row| open(row).ok()).collect())
    }

    /// Claims the sessions of an OpenID provider that are due.
    async fn claim_sessions(&self, claim: &ConfirmationClaim) -> Result<Vec<ClaimedRow>> {
        let (provider, live, rows) = (claim.provider.to_string(), claim.live, row_limit(claim));
        let before = claim.before;
        let is_due = move || {
            provider_sessions::visited_at.lt(At(before)).or(provider_sessions::visited_at.gt(At(live.at)))
        };
        // usually no confirmation is due, and then nothing is written
        let due: Vec<i64> = read!(self.db, |conn| {
            let due: Vec<i64> = provider_sessions::table
                .inner_join(sessions::table)
                .filter(provider_sessions::provider.eq(provider))
                .filter(provider_sessions::refresh_token.is_not_null())
                .filter(sessions::expires_at.gt(At(live.at)))
                .filter(sessions::last_seen_at.gt(At(live.used_after)))
                .filter(is_due())
                .select(provider_sessions::session_id)
                .order_by(provider_sessions::visited_at)
                .limit(rows)
                .load(conn)
                .await?;
            Ok(due)
        })?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        transact_retried!(self.db, |conn| {
            // a row that another replica has claimed meanwhile is no longer due
            let still_due = provider_sessions::table
                .filter(provider_sessions::session_id.eq_any(due.clone()))
                .filter(is_due());
            let tokens: Vec<TokenRow> = diesel::update(still_due)
                .set(provider_sessions::visited_at.eq(At(live.at)))
                .returning((
                    provider_sessions::session_id,
                    provider_sessions::uuid,
                    provider_sessions::refresh_token,
                ))
                .get_results(conn)
                .await?;
            let mut claimed: Vec<ClaimedRow> = Vec::new();
            for token in tokens {
                let person: PersonRow = sessions::table
                    .inner_join(users::table)
                    .filter(sessions::id.eq(token.0))
                    .select((
                        users::id,
                        users::username,
                        users::provider,
                        users::subject,
                        users::confirmed_at,
                    ))
                    .first(conn)
                    .await?;
                claimed.push((person, Some(token)));
            }
            Ok(claimed)
        })
    }

    /// Claims the users of a directory who are due.
    async fn claim_people(&self, claim: &ConfirmationClaim) -> Result<Vec<ClaimedRow>> {
        let (provider, live, rows) = (claim.provider.to_string(), claim.live, row_limit(claim));
        let before = claim.before;
        let is_due = move || users::visited_at.lt(At(before)).or(users::visited_at.gt(At(live.at)));
        // usually no confirmation is due, and then nothing is written
        let due: Vec<i64> = read!(self.db, |conn| {
            let has_session = exists(
                sessions::table
                    .filter(sessions::user_id.eq(users::id))
                    .filter(sessions::expires_at.gt(At(live.at)))
                    .filter(sessions::last_seen_at.gt(At(live.used_after))),
            );
            let has_token = exists(
                api_tokens::table
                    .filter(api_tokens::user_id.eq(users::id.nullable()))
                    .filter(api_tokens::revoked_at.is_null())
                    .filter(api_tokens::expires_at.gt(At(live.at))),
            );
            // the tokens of a service account stop, too, when its owner is not confirmed
            let owns_account = exists(
                service_accounts::table.filter(service_accounts::owner_user_id.eq(users::id.nullable())),
            );
            let due: Vec<i64> = users::table
                .filter(users::provider.eq(provider))
                .filter(is_due())
                .filter(has_session.or(has_token).or(owns_account))
                .select(users::id)
                .order_by(users::visited_at)
                .limit(rows)
                .load(conn)
                .await?;
            Ok(due)
        })?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        transact_retried!(self.db, |conn| {
            // a row that another replica has claimed meanwhile is no longer due
            let still_due = users::table.filter(users::id.eq_any(due.clone())).filter(is_due());
            let people: Vec<PersonRow> = diesel::update(still_due)
                .set(users::visited_at.eq(At(live.at)))
                .returning((users::id, users::username, users::provider, users::subject, users::confirmed_at))
                .get_results(conn)
                .await?;
            let claimed: Vec<ClaimedRow> = people.into_iter().map(|person| (person, None)).collect();
            Ok(claimed)
        })
    }

    pub(super) async fn release_confirmations(
        &self,
        due: &[DueConfirmation],
        visited_at: Timestamp,
    ) -> Result<()> {
        let session_ids: Vec<i64> = due.iter().filter_map(|due| due.session).map(|id| id.0).collect();
        let user_ids: Vec<i64> =
            due.iter().filter(|due| due.session.is_none()).map(|due| due.user_id.0).collect();
        transact_retried!(self.db, |conn| {
            let people = users::table.filter(users::id.eq_any(user_ids.clone()));
            diesel::update(people).set(users::visited_at.eq(At(visited_at))).execute(conn).await?;
            let claimed =
                provider_sessions::table.filter(provider_sessions::session_id.eq_any(session_ids.clone()));
            diesel::update(claimed)
                .set(provider_sessions::visited_at.eq(At(visited_at)))
                .execute(conn)
                .await?;
            Ok(())
        })
    }
}

/// Maximum number of rows of a claim.
fn row_limit(claim: &ConfirmationClaim) -> i64 {
    i64::try_from(claim.limit).unwrap_or(i64::MAX)
}

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
    provider::{DueConfirmation, ProviderKind},
    seal::Keyring,
    user::Username,
};
use secrecy::SecretString;

use super::{provider_id, refresh_token_owner};
use crate::{
    Store,
    db::{read, transact_retried},
    error::corrupt,
    schema::{At, api_tokens, identity_providers, provider_sessions, service_accounts, sessions, users},
};

/// Id and name of a user, provider, subject.
type PersonRow = (i64, String, Option<String>, Option<String>);

/// Session, id of the row, sealed refresh token.
type TokenRow = (i64, String, Option<Vec<u8>>);

fn due_person(
    (id, username, provider, subject): PersonRow,
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
        before: Timestamp,
        at: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueConfirmation>> {
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let session_is_due =
            move || provider_sessions::visited_at.lt(At(before)).or(provider_sessions::visited_at.gt(At(at)));
        let user_is_due = move || users::visited_at.lt(At(before)).or(users::visited_at.gt(At(at)));
        // usually no confirmation is due, and then nothing is written
        let (due_sessions, due_users): (Vec<(At, i64)>, Vec<(Option<At>, i64)>) = read!(self.db, |conn| {
            let due_sessions: Vec<(At, i64)> = provider_sessions::table
                .inner_join(sessions::table)
                .filter(provider_sessions::refresh_token.is_not_null())
                .filter(sessions::expires_at.gt(At(at)))
                .filter(session_is_due())
                .select((provider_sessions::visited_at, provider_sessions::session_id))
                .order_by(provider_sessions::visited_at)
                .limit(rows)
                .load(conn)
                .await?;
            let of_directories = identity_providers::table
                .filter(identity_providers::kind.eq(ProviderKind::Ldap.as_str()))
                .select(identity_providers::id.nullable());
            let has_session = exists(
                sessions::table
                    .filter(sessions::user_id.eq(users::id))
                    .filter(sessions::expires_at.gt(At(at))),
            );
            let has_token = exists(
                api_tokens::table
                    .filter(api_tokens::user_id.eq(users::id.nullable()))
                    .filter(api_tokens::revoked_at.is_null())
                    .filter(api_tokens::expires_at.gt(At(at))),
            );
            // the tokens of a service account stop, too, when its owner is not confirmed
            let owns_account = exists(
                service_accounts::table.filter(service_accounts::owner_user_id.eq(users::id.nullable())),
            );
            let due_users: Vec<(Option<At>, i64)> = users::table
                .filter(users::provider.eq_any(of_directories))
                .filter(user_is_due())
                .filter(has_session.or(has_token).or(owns_account))
                .select((users::visited_at, users::id))
                .order_by(users::visited_at)
                .limit(rows)
                .load(conn)
                .await?;
            Ok((due_sessions, due_users))
        })?;
        // the oldest of both
        let of_sessions = due_sessions.into_iter().map(|(At(visited_at), id)| (visited_at, true, id));
        let of_users = due_users.into_iter().filter_map(|(visited_at, id)| Some((visited_at?.0, false, id)));
        let mut due: Vec<_> = of_sessions.chain(of_users).collect();
        due.sort_unstable();
        due.truncate(limit);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let ids = |sessions: bool| -> Vec<i64> {
            due.iter().filter(|(_, is_session, _)| *is_session == sessions).map(|(.., id)| *id).collect()
        };
        let (session_ids, user_ids) = (ids(true), ids(false));
        let claimed: Vec<(PersonRow, Option<TokenRow>)> = transact_retried!(self.db, |conn| {
            // a row that another replica has claimed meanwhile is no longer due
            let still_due = provider_sessions::table
                .filter(provider_sessions::session_id.eq_any(session_ids.clone()))
                .filter(session_is_due());
            let tokens: Vec<TokenRow> = diesel::update(still_due)
                .set(provider_sessions::visited_at.eq(At(at)))
                .returning((
                    provider_sessions::session_id,
                    provider_sessions::uuid,
                    provider_sessions::refresh_token,
                ))
                .get_results(conn)
                .await?;
            let still_due = users::table.filter(users::id.eq_any(user_ids.clone())).filter(user_is_due());
            let people: Vec<PersonRow> = diesel::update(still_due)
                .set(users::visited_at.eq(At(at)))
                .returning((users::id, users::username, users::provider, users::subject))
                .get_results(conn)
                .await?;
            let mut claimed: Vec<_> = people.into_iter().map(|person| (person, None)).collect();
            for token in tokens {
                let person: PersonRow = sessions::table
                    .inner_join(users::table)
                    .filter(sessions::id.eq(token.0))
                    .select((users::id, users::username, users::provider, users::subject))
                    .first(conn)
                    .await?;
                claimed.push((person, Some(token)));
            }
            Ok(claimed)
        })?;
        let keyring = &*self.deps.keyring;
        let open = |(person, token)| {
            due_person(person, token, keyring).inspect_err(|error| {
                tracing::error!(%error, "a user of an identity provider cannot be read again");
            })
        };
        // one that cannot be opened must not stop the others
        Ok(claimed.into_iter().filter_map(|row| open(row).ok()).collect())
    }
}

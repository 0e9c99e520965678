//! People of identity providers, as users.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::Permit,
    name::ProviderId,
    provider::{Admission, DueConfirmation, Person},
    role::Role,
    seal::SealedFor,
    user::User,
};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact, transact_retried},
    error::corrupt,
    grant::to_json,
    rekey::ActiveKey as _,
    rights_stamp::StampedRights as _,
    schema::{At, provider_sessions, users},
    user::Row as UserRow,
};

/// Owner of the refresh token of a session at its provider.
pub(crate) fn refresh_token_owner(row: Uuid) -> SealedFor {
    SealedFor { row, field: "provider_sessions.refresh_token" }
}

/// Stores groups and display name of a user, as reported by the provider, and the time of the confirmation. Changed
/// groups replace the rights stamp: `$groups` is the JSON of a sorted set, so equal groups give equal texts.
macro_rules! confirm_user {
    ($conn:ident, $id:expr, $person:expr, $groups:expr, $stamp:expr, $at:expr) => {{
        let stored: Option<String> = users::table.find($id).select(users::group_names).first($conn).await?;
        if stored.as_ref() != Some($groups) {
            $conn.replace_rights_stamp($stamp).await?;
        }
        let confirmed = (
            users::display_name.eq($person.display_name()),
            users::group_names.eq($groups),
            users::confirmed_at.eq(At($at)),
            users::visited_at.eq(At($at)),
        );
        let row: UserRow = diesel::update(users::table.find($id))
            .set(confirmed)
            .returning(UserRow::as_returning())
            .get_result($conn)
            .await?;
        User::try_from(row)?
    }};
}

impl Store {
    pub(super) async fn admit_person(&self, permit: &Permit, admission: Admission) -> Result<User> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let Admission { provider, person, username, other_username, at } = admission;
        let groups = to_json(person.groups())?;
        transact!(self.db, |conn| {
            // one replica at a time searches and creates the user, and changes groups
            conn.lock_rights_stamp().await?;
            let known: Option<i64> = users::table
                .filter(users::provider.eq(provider.as_str()))
                .filter(users::subject.eq(person.subject()))
                .select(users::id)
                .first(conn)
                .await
                .optional()?;
            if let Some(id) = known {
                return Ok(confirm_user!(conn, id, person, &groups, stamp, at));
            }
            let same_name = users::table.filter(users::username.eq(username.as_str()));
            let same_name: i64 = same_name.count().get_result(conn).await?;
            let username = if same_name > 0 { other_username } else { username };
            let values = (
                users::username.eq(username.as_str()),
                users::display_name.eq(person.display_name()),
                users::provider.eq(provider.as_str()),
                users::subject.eq(person.subject()),
                users::role.eq(Role::None.as_str()),
                users::disabled.eq(false),
                users::created_at.eq(At(at)),
                users::updated_at.eq(At(at)),
            );
            let id: i64 = diesel::insert_into(users::table)
                .values(values)
                .returning(users::id)
                .get_result(conn)
                .await?;
            let user = confirm_user!(conn, id, person, &groups, stamp, at);
            conn.record_success(entry).await?;
            Ok(user)
        })
    }

    pub(super) async fn user_of_person(&self, provider: &ProviderId, subject: &str) -> Result<Option<User>> {
        let (provider, subject) = (provider.to_string(), subject.to_owned());
        read!(self.db, |conn| {
            let found: Option<UserRow> = users::table
                .filter(users::provider.eq(provider))
                .filter(users::subject.eq(subject))
                .select(UserRow::as_select())
                .first(conn)
                .await
                .optional()?;
            Ok(found.map(User::try_from).transpose()?)
        })
    }

    pub(super) async fn confirm_person(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()> {
        let (stamp, keyring) = (self.new_rights_stamp(), self.deps.keyring.clone());
        let (due, person, groups) = (due.clone(), person.clone(), to_json(person.groups())?);
        let replaces_token = refresh_token.is_some();
        transact_retried!(self.db, |conn| {
            let key = conn.active_key().await?;
            conn.lock_rights_stamp().await?;
            // locks the user before the session, as a sign-in does; setting a column to itself locks the row
            let user = users::table
                .find(due.user_id.0)
                .filter(users::provider.eq(due.provider.as_str()))
                .filter(users::subject.eq(&due.subject));
            let locked =
                diesel::update(user).set(users::disabled.eq(users::disabled)).returning(users::confirmed_at);
            let confirmed_at: Option<Option<At>> = locked.get_result(conn).await.optional()?;
            let Some(confirmed_at) = confirmed_at else { return Ok(()) };
            let confirmed_at = confirmed_at.map(|at| at.0);
            // the provider has ended the person's sessions since the claim, or the person has signed in again
            if confirmed_at != due.confirmed_at && (confirmed_at.is_none() || due.session.is_none()) {
                return Ok(());
            }
            if let Some(session) = due.session {
                let row = diesel::update(provider_sessions::table.find(session.0))
                    .set(provider_sessions::visited_at.eq(At(at)))
                    .returning(provider_sessions::uuid);
                let uuid: Option<String> = row.get_result(conn).await.optional()?;
                // the session has ended
                let Some(uuid) = uuid else { return Ok(()) };
                if let Some(token) = &refresh_token {
                    let uuid = uuid.parse().map_err(|_| corrupt("provider_sessions.uuid"))?;
                    let sealer = keyring.keys(&key)?.sealer;
                    let sealed = sealer.seal(&refresh_token_owner(uuid), token.expose_secret().as_bytes())?;
                    diesel::update(provider_sessions::table.find(session.0))
                        .set(provider_sessions::refresh_token.eq(sealed))
                        .execute(conn)
                        .await?;
                }
            }
            confirm_user!(conn, due.user_id.0, person, &groups, stamp, at);
            Ok(())
        })?;
        if replaces_token {
            self.scrub_later();
        }
        Ok(())
    }
}

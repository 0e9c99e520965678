//! User registry.

use async_trait::async_trait;
use diesel::{
    AsChangeset, ExpressionMethods as _, NullableExpressionMethods as _, OptionalExtension as _,
    QueryDsl as _, Queryable, Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    ids::UserId,
    role::Role,
    user::{PasswordHash, SetBy, User, UserPatch, UserRecord, UserRegistry, Username},
};

use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact, transact_retried},
    error::{StoreError, corrupt},
    grant::end_rights_of_user,
    rights_stamp::StampedRights as _,
    schema::{At, install, sessions, users},
    token::revoke_tokens,
};

/// Columns of a user, without the password.
#[derive(Queryable, Selectable)]
#[diesel(table_name = users)]
pub(crate) struct Row {
    id: i64,
    username: String,
    display_name: String,
    role: String,
    disabled: bool,
    created_at: At,
    last_login_at: Option<At>,
}

impl TryFrom<Row> for User {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: UserId(row.id),
            username: Username::stored(&row.username).map_err(|_| corrupt("users.username"))?,
            display_name: row.display_name,
            role: Role::parse(&row.role).ok_or_else(|| corrupt("users.role"))?,
            disabled: row.disabled,
            created_at: row.created_at.0,
            last_login_at: row.last_login_at.map(|at| at.0),
        })
    }
}

/// Inserts a user.
macro_rules! insert {
    ($conn:ident, $record:ident) => {{
        let values = (
            users::username.eq($record.username.as_str()),
            users::display_name.eq(&$record.display_name),
            users::password.eq($record.password.phc()),
            users::role.eq($record.role.as_str()),
            users::disabled.eq(false),
            users::created_at.eq(At($record.at)),
            users::updated_at.eq(At($record.at)),
        );
        let row: Row = diesel::insert_into(users::table)
            .values(values)
            .returning(Row::as_returning())
            .get_result($conn)
            .await?;
        User::try_from(row)?
    }};
}

/// Reads one user for a change. The transaction has replaced the rights stamp before, so that two concurrent changes
/// cannot each count the other's user as the remaining super admin.
macro_rules! user {
    ($conn:ident, $id:expr) => {{
        let found: Option<Row> =
            users::table.find($id.0).select(Row::as_select()).first($conn).await.optional()?;
        User::try_from(found.ok_or_else(|| user_error(Cause::NotFound, $id))?)?
    }};
}

/// Fails with `LastSuperAdmin` when `$user` is the only enabled super admin.
macro_rules! require_other_super_admin {
    ($conn:ident, $user:expr) => {
        if $user.role == Role::SuperAdmin && !$user.disabled {
            let others: i64 = users::table
                .filter(users::role.eq(Role::SuperAdmin.as_str()))
                .filter(users::disabled.eq(false))
                .filter(users::id.ne($user.id.0))
                .count()
                .get_result($conn)
                .await?;
            if others == 0 {
                return Err(user_error(Cause::LastSuperAdmin, $user.id).into());
            }
        }
    };
}

fn user_error(cause: Cause, id: UserId) -> Error {
    Error::new(cause).resource("user").name(id.to_string())
}

#[derive(AsChangeset)]
#[diesel(table_name = users)]
struct UserChangeset {
    display_name: Option<String>,
    role: Option<&'static str>,
    disabled: Option<bool>,
    updated_at: At,
}

impl Store {
    async fn list_users(&self) -> Result<Vec<User>> {
        read!(self.db, |conn| {
            let rows: Vec<Row> = users::table.select(Row::as_select()).order_by(users::id).load(conn).await?;
            Ok(rows.into_iter().map(User::try_from).collect::<Result<_>>()?)
        })
    }

    async fn user_credentials(&self, username: &Username) -> Result<Option<(User, PasswordHash)>> {
        let username = username.to_string();
        read!(self.db, |conn| {
            let found: Option<(Row, String)> = users::table
                .filter(users::username.eq(username))
                // a user of an identity provider has no password
                .filter(users::password.is_not_null())
                .select((Row::as_select(), users::password.assume_not_null()))
                .first(conn)
                .await
                .optional()?;
            let read = |(row, phc): (Row, String)| -> Result<_> {
                Ok((User::try_from(row)?, PasswordHash::new(phc)))
            };
            Ok(found.map(read).transpose()?)
        })
    }

    async fn create_user(&self, permit: &Permit, record: UserRecord) -> Result<User> {
        let taken = Error::new(Cause::NameTaken).resource("user").name(record.username.as_str());
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            let inserted: Result<User, StoreError> = async { Ok(insert!(conn, record)) }.await;
            let user = inserted.map_err(|error| if error.is_duplicate() { taken.into() } else { error })?;
            conn.record_success(entry).await?;
            Ok(user)
        })
    }

    async fn create_first_user(&self, permit: &Permit, record: UserRecord) -> Result<Option<User>> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            // locks `install`, so that one replica at a time checks and inserts
            diesel::update(install::table)
                .set(install::fingerprint.eq(install::fingerprint))
                .execute(conn)
                .await?;
            let users: i64 = users::table.count().get_result(conn).await?;
            if users > 0 {
                return Ok(None);
            }
            let user = insert!(conn, record);
            conn.record_success(entry).await?;
            Ok(Some(user))
        })
    }

    async fn update_user(
        &self,
        permit: &Permit,
        id: UserId,
        patch: UserPatch,
        at: Timestamp,
    ) -> Result<User> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        transact_retried!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            let before = user!(conn, id);
            let role = patch.role.unwrap_or(before.role);
            let disabled = patch.disabled.unwrap_or(before.disabled);
            if role != Role::SuperAdmin || disabled {
                require_other_super_admin!(conn, before);
            }
            let change = UserChangeset {
                display_name: patch.display_name.clone(),
                role: patch.role.map(Role::as_str),
                disabled: patch.disabled,
                updated_at: At(at),
            };
            let row: Row = diesel::update(users::table.find(id.0))
                .set(change)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            if role != before.role || disabled {
                diesel::delete(sessions::table.filter(sessions::user_id.eq(id.0))).execute(conn).await?;
            }
            conn.record_success(entry.clone()).await?;
            Ok(User::try_from(row)?)
        })
        // sessions and second factors have sealed values
        .inspect(|_| self.scrub_later())
    }

    async fn delete_user(&self, permit: &Permit, id: UserId) -> Result<()> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        transact_retried!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            let user = user!(conn, id);
            require_other_super_admin!(conn, user);
            end_rights_of_user!(conn, id, entry);
            revoke_tokens!(conn, api_tokens::user_id.eq(id.0), entry.at());
            // the database deletes the user's sessions, too (ON DELETE CASCADE)
            diesel::delete(users::table.find(id.0)).execute(conn).await?;
            conn.record_success(entry.clone()).await
        })
        // sessions and second factors have sealed values
        .inspect(|_| self.scrub_later())
    }

    async fn set_user_password(
        &self,
        permit: &Permit,
        id: UserId,
        password: PasswordHash,
        by: SetBy,
        at: Timestamp,
    ) -> Result<()> {
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            if matches!(by, SetBy::Administrator) {
                // as the creation of a token does: no token of the user is created meanwhile
                conn.lock_rights_stamp().await?;
                revoke_tokens!(conn, api_tokens::user_id.eq(id.0), entry.at());
            }
            let mut user = diesel::update(users::table.find(id.0))
                .set((users::password.eq(password.phc()), users::updated_at.eq(At(at))))
                .into_boxed();
            if let SetBy::Owner { verified, .. } = &by {
                user = user.filter(users::password.eq(verified.phc()));
            }
            let changed = user.execute(conn).await?;
            let keep = match &by {
                SetBy::Administrator if changed == 0 => return Err(user_error(Cause::NotFound, id).into()),
                SetBy::Administrator => None,
                SetBy::Owner { session, .. } => {
                    // setting a column to itself locks the row, so that the session does not end before this
                    // transaction
                    let own = sessions::table.find(session.0).filter(sessions::user_id.eq(id.0));
                    let locked = diesel::update(own)
                        .set(sessions::generation.eq(sessions::generation))
                        .execute(conn)
                        .await?;
                    if changed == 0 || locked == 0 {
                        return Err(Error::new(Cause::SessionEnded).into());
                    }
                    Some(session.0)
                }
            };
            // ids begin at 1, so 0 keeps no session
            let others = sessions::table
                .filter(sessions::user_id.eq(id.0))
                .filter(sessions::id.ne(keep.unwrap_or_default()));
            diesel::delete(others).execute(conn).await?;
            conn.record_success(entry.clone()).await
        })
        // sessions and second factors have sealed values
        .inspect(|_| self.scrub_later())
    }
}

#[async_trait]
impl UserRegistry for Store {
    async fn list(&self) -> Result<Vec<User>> {
        self.list_users().await
    }

    async fn credentials(&self, username: &Username) -> Result<Option<(User, PasswordHash)>> {
        self.user_credentials(username).await
    }

    async fn create(&self, permit: &Permit, record: UserRecord) -> Result<User> {
        self.create_user(permit, record).await
    }

    async fn create_first(&self, permit: &Permit, record: UserRecord) -> Result<Option<User>> {
        self.create_first_user(permit, record).await
    }

    async fn update(&self, permit: &Permit, id: UserId, patch: UserPatch, at: Timestamp) -> Result<User> {
        self.update_user(permit, id, patch, at).await
    }

    async fn delete(&self, permit: &Permit, id: UserId) -> Result<()> {
        self.delete_user(permit, id).await
    }

    async fn set_password(
        &self,
        permit: &Permit,
        id: UserId,
        password: PasswordHash,
        by: SetBy,
        at: Timestamp,
    ) -> Result<()> {
        self.set_user_password(permit, id, password, by, at).await
    }
}

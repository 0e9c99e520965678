//! Session store: sessions and refresh tokens. Ending a session deletes its row and its tokens.
//!
//! Rows are locked in this order: `rights_stamp`, `users`, `sessions`, `refresh_tokens`, `audit_head`. The deletion of a
//! session locks the session before its tokens. A deletion of several sessions locks the rows in the order in which
//! the database finds them, so two such deletions may still deadlock; the one that PostgreSQL ends is retried once.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, JoinOnDsl as _, NullableExpressionMethods as _, OptionalExtension as _,
    QueryDsl as _, Queryable, Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    grant::RightsStamp,
    ids::{SessionId, UserId},
    session::{
        Activity, FoundSession, RefreshExchange, RefreshHolder, Rotation, SecretHash, Session, SessionRecord,
        SessionStore,
    },
    user::{PasswordHash, User, Username},
};

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact_retried},
    error::{StoreError, corrupt},
    schema::{At, refresh_tokens, rights_stamp, second_factors, sessions, users},
    user::Row as UserRow,
};

mod open;

pub(crate) use open::Proof;

#[derive(Queryable, Selectable)]
#[diesel(table_name = sessions)]
struct Row {
    id: i64,
    user_id: i64,
    generation: i64,
    source_ip: Option<String>,
    user_agent: Option<String>,
    created_at: At,
    last_seen_at: At,
    expires_at: At,
    authenticated_at: At,
    factor_at: Option<At>,
}

impl From<Row> for Session {
    fn from(row: Row) -> Self {
        Self {
            id: SessionId(row.id),
            user_id: UserId(row.user_id),
            generation: row.generation,
            source_ip: row.source_ip,
            user_agent: row.user_agent,
            created_at: row.created_at.0,
            last_seen_at: row.last_seen_at.0,
            expires_at: row.expires_at.0,
            authenticated_at: row.authenticated_at.0,
            factor_at: row.factor_at.map(|at| at.0),
        }
    }
}

/// Key of a session lookup.
#[derive(Clone, Copy)]
enum SessionKey {
    Cookie(SecretHash),
    Id(SessionId),
}

impl Store {
    /// Reads a session, its user, whether the user has a second factor, and the rights stamp in one query, because every
    /// request needs them.
    async fn session(&self, which: SessionKey) -> Result<Option<FoundSession>> {
        read!(self.db, |conn| {
            let query = sessions::table
                .inner_join(users::table)
                .inner_join(rights_stamp::table.on(rights_stamp::id.eq(1)))
                .left_join(second_factors::table.on(second_factors::user_id.eq(sessions::user_id)))
                .select((
                    Row::as_select(),
                    UserRow::as_select(),
                    second_factors::confirmed_at.nullable(),
                    rights_stamp::stamp,
                ))
                .into_boxed();
            let query = match which {
                SessionKey::Cookie(cookie) => query.filter(sessions::cookie.eq(cookie.0.to_vec())),
                SessionKey::Id(id) => query.filter(sessions::id.eq(id.0)),
            };
            let found: Option<(Row, UserRow, Option<At>, i64)> = query.first(conn).await.optional()?;
            let read = |(session, user, confirmed_at, stamp): (Row, UserRow, Option<At>, i64)| {
                let (session, user) = (Session::from(session), User::try_from(user)?);
                Ok(FoundSession {
                    session,
                    user,
                    enrolled: confirmed_at.is_some(),
                    rights: RightsStamp(stamp),
                })
            };
            found.map(read).transpose().map_err(StoreError::Refused)
        })
    }

    async fn touch_session(&self, id: SessionId, at: Timestamp) -> Result<()> {
        change!(self.db, |conn| {
            let older = sessions::table.find(id.0).filter(sessions::last_seen_at.lt(At(at)));
            diesel::update(older).set(sessions::last_seen_at.eq(At(at))).execute(conn).await?;
            Ok(())
        })
    }

    async fn renew_session_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()> {
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            let session = diesel::update(sessions::table.find(id.0));
            if session.set(sessions::factor_at.eq(At(at))).execute(conn).await? == 0 {
                return Err(Error::new(Cause::SessionEnded).into());
            }
            conn.record_success(entry.clone()).await
        })
    }

    async fn rotate_refresh_token(
        &self,
        permit: &Permit,
        id: SessionId,
        exchange: RefreshExchange,
    ) -> Result<Rotation> {
        let RefreshExchange { holder, presented, fresh, at, grace, activity } = exchange;
        let within_grace = move |time: Timestamp| at.duration_since(time).unsigned_abs() <= grace;
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            // lock the row of the session before those of its tokens, as a deletion of the session does, so that one
            // exchange at a time reads and changes its tokens; setting a column to itself locks the row
            let locked: Option<i64> = diesel::update(sessions::table.find(id.0))
                .set(sessions::generation.eq(sessions::generation))
                .returning(sessions::generation)
                .get_result(conn)
                .await
                .optional()?;
            let Some(generation) = locked else { return Ok(Rotation::Unknown) };
            let of_session = || refresh_tokens::table.filter(refresh_tokens::session_id.eq(id.0));
            let token = || of_session().filter(refresh_tokens::hash.eq(presented.0.to_vec()));
            let used: Option<Option<At>> =
                token().select(refresh_tokens::used_at).first(conn).await.optional()?;
            let Some(used) = used else { return Ok(Rotation::Unknown) };
            if let Some(At(used)) = used
                && !within_grace(used)
            {
                diesel::delete(sessions::table.find(id.0)).execute(conn).await?;
                conn.record_outcome(entry.clone(), &Err(Error::new(Cause::SessionEnded))).await?;
                return Ok(Rotation::Replayed);
            }
            if let RefreshHolder::Browser { generation: required } = holder {
                let rotated_at: Option<Option<At>> = of_session()
                    .filter(refresh_tokens::used_at.is_not_null())
                    .order_by(refresh_tokens::used_at.desc())
                    .select(refresh_tokens::used_at)
                    .first(conn)
                    .await
                    .optional()?;
                if let Some(At(issued_at)) = rotated_at.flatten()
                    && within_grace(issued_at)
                {
                    let unused = of_session().filter(refresh_tokens::used_at.is_null());
                    let newest: Vec<u8> = unused.select(refresh_tokens::hash).first(conn).await?;
                    let newest: [u8; 32] = newest.try_into().map_err(|_| corrupt("refresh_tokens.hash"))?;
                    return Ok(Rotation::Repeated { generation, issued_at, newest: SecretHash(newest) });
                }
                if required != generation {
                    return Ok(Rotation::JustUsed);
                }
            }
            if used.is_some() {
                return Ok(Rotation::JustUsed);
            }
            diesel::update(token()).set(refresh_tokens::used_at.eq(At(at))).execute(conn).await?;
            let token = (refresh_tokens::hash.eq(fresh.0.to_vec()), refresh_tokens::session_id.eq(id.0));
            diesel::insert_into(refresh_tokens::table).values(token).execute(conn).await?;
            let seen = (activity == Activity::User).then(|| sessions::last_seen_at.eq(At(at)));
            let generation = diesel::update(sessions::table.find(id.0))
                .set((sessions::generation.eq(sessions::generation + 1), seen))
                .returning(sessions::generation)
                .get_result(conn)
                .await?;
            conn.record_success(entry.clone()).await?;
            Ok(Rotation::Rotated(generation))
        })
    }

    async fn end_session(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            let ended = diesel::delete(sessions::table.find(id.0)).execute(conn).await? > 0;
            if ended {
                conn.record_success(entry.clone()).await?;
            }
            Ok(ended)
        })
        // with the session, the sealed refresh token of its provider is deleted
        .inspect(|_| self.scrub_later())
    }

    async fn list_sessions(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        read!(self.db, |conn| {
            let mut query = sessions::table.inner_join(users::table).into_boxed();
            if let Some(user) = user {
                query = query.filter(sessions::user_id.eq(user.0));
            }
            let rows: Vec<(Row, String)> =
                query.select((Row::as_select(), users::username)).order_by(sessions::id).load(conn).await?;
            let read = |(row, username): (Row, String)| {
                let username = Username::stored(&username).map_err(|_| corrupt("users.username"))?;
                Ok((row.into(), username))
            };
            Ok(rows.into_iter().map(read).collect::<Result<_>>()?)
        })
    }
}

#[async_trait]
impl SessionStore for Store {
    async fn open(&self, permit: &Permit, record: SessionRecord, verified: &PasswordHash) -> Result<Session> {
        self.open_session(permit, record, Proof::Password(verified.clone())).await
    }

    async fn find(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.session(SessionKey::Cookie(cookie)).await
    }

    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>> {
        self.session(SessionKey::Id(id)).await
    }

    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()> {
        self.touch_session(id, at).await
    }

    async fn renew_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()> {
        self.renew_session_factor(permit, id, at).await
    }

    async fn rotate(&self, permit: &Permit, id: SessionId, exchange: RefreshExchange) -> Result<Rotation> {
        self.rotate_refresh_token(permit, id, exchange).await
    }

    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        self.end_session(permit, id).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        self.list_sessions(user).await
    }
}

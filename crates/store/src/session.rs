//! Session store: sessions and refresh tokens. Ending a session deletes its row and its tokens.
//!
//! Rows are locked in this order: `rights_stamp`, `users`, `sessions`, `refresh_tokens`, `audit_head`. The deletion of a
//! session locks the session before its tokens. A deletion of several sessions locks the rows in the order in which
//! the database finds them, so two such deletions may still deadlock; the one that PostgreSQL ends is retried once.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    grant::RightsStamp,
    ids::{SessionId, UserId},
    session::{
        Activity, ClientAddress, FoundSession, RefreshExchange, Rotation, SecretHash, Session, SessionRecord,
        SessionStore, ThrottleKey,
    },
    user::{PasswordHash, User, Username},
};

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact_retried},
    error::{StoreError, corrupt},
    schema::{At, login_addresses, refresh_tokens, rights_stamp, sessions, throttles, users},
    user::Row as UserRow,
};

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
    /// Reads a session, its user and the rights stamp in one query, because every request needs them.
    async fn session(&self, which: SessionKey) -> Result<Option<FoundSession>> {
        read!(self.db, |conn| {
            let query = sessions::table
                .inner_join(users::table)
                .inner_join(rights_stamp::table.on(rights_stamp::id.eq(1)))
                .select((Row::as_select(), UserRow::as_select(), rights_stamp::stamp))
                .into_boxed();
            let query = match which {
                SessionKey::Cookie(cookie) => query.filter(sessions::cookie.eq(cookie.0.to_vec())),
                SessionKey::Id(id) => query.filter(sessions::id.eq(id.0)),
            };
            let found: Option<(Row, UserRow, i64)> = query.first(conn).await.optional()?;
            let read = |(session, user, stamp): (Row, UserRow, i64)| {
                let (session, user) = (Session::from(session), User::try_from(user)?);
                Ok(FoundSession { session, user, rights: RightsStamp(stamp) })
            };
            found.map(read).transpose().map_err(StoreError::Refused)
        })
    }

    async fn open_session(
        &self,
        permit: &Permit,
        record: SessionRecord,
        verified: &PasswordHash,
    ) -> Result<Session> {
        let (entry, verified) = (self.pending_entry(permit)?, verified.clone());
        transact_retried!(self.db, |conn| {
            let as_verified = users::table
                .find(record.user_id.0)
                .filter(users::disabled.eq(false))
                .filter(users::password.eq(verified.phc()));
            // locks the row of the user, so that one transaction at a time changes the user's addresses
            let updated =
                diesel::update(as_verified).set(users::last_login_at.eq(At(record.at))).execute(conn).await?;
            if updated == 0 {
                return Err(Error::new(Cause::BadCredentials).into());
            }
            if let Some(key) = &record.throttle_key {
                diesel::delete(throttles::table.find(&key.key)).execute(conn).await?;
            }
            if let Some(address) = record.source_ip.map(ClientAddress::of) {
                let login = (
                    login_addresses::user_id.eq(record.user_id.0),
                    login_addresses::address.eq(address.as_str()),
                    login_addresses::last_login_at.eq(At(record.at)),
                );
                diesel::insert_into(login_addresses::table)
                    .values(login)
                    .on_conflict((login_addresses::user_id, login_addresses::address))
                    .do_update()
                    .set(login_addresses::last_login_at.eq(At(record.at)))
                    .execute(conn)
                    .await?;
                let of_user = login_addresses::table.filter(login_addresses::user_id.eq(record.user_id.0));
                let newest: Vec<String> = of_user
                    .select(login_addresses::address)
                    .order_by(login_addresses::last_login_at.desc())
                    .limit(ThrottleKey::ADDRESSES.into())
                    .load(conn)
                    .await?;
                diesel::delete(of_user.filter(login_addresses::address.ne_all(newest))).execute(conn).await?;
            }
            // expired sessions are unusable
            diesel::delete(sessions::table.filter(sessions::expires_at.le(At(record.at))))
                .execute(conn)
                .await?;

            let values = (
                sessions::cookie.eq(record.cookie.0.to_vec()),
                sessions::user_id.eq(record.user_id.0),
                sessions::generation.eq(1),
                sessions::source_ip.eq(record.source_ip.map(|ip| ip.to_string())),
                sessions::user_agent.eq(&record.user_agent),
                sessions::created_at.eq(At(record.at)),
                sessions::last_seen_at.eq(At(record.at)),
                sessions::expires_at.eq(At(record.expires_at)),
            );
            let row: Row = diesel::insert_into(sessions::table)
                .values(values)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let token =
                (refresh_tokens::hash.eq(record.refresh.0.to_vec()), refresh_tokens::session_id.eq(row.id));
            diesel::insert_into(refresh_tokens::table).values(token).execute(conn).await?;
            conn.record_success(entry.clone()).await?;
            Ok(Session::from(row))
        })
    }

    async fn touch_session(&self, id: SessionId, at: Timestamp) -> Result<()> {
        change!(self.db, |conn| {
            let older = sessions::table.find(id.0).filter(sessions::last_seen_at.lt(At(at)));
            diesel::update(older).set(sessions::last_seen_at.eq(At(at))).execute(conn).await?;
            Ok(())
        })
    }

    async fn rotate_refresh_token(
        &self,
        permit: &Permit,
        id: SessionId,
        exchange: RefreshExchange,
    ) -> Result<Rotation> {
        let RefreshExchange { presented, fresh, at, grace, activity } = exchange;
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            // lock the row of the session before those of its tokens, as a deletion of the session does; setting a
            // column to itself locks the row
            let locked = diesel::update(sessions::table.find(id.0))
                .set(sessions::generation.eq(sessions::generation))
                .execute(conn)
                .await?;
            if locked == 0 {
                return Ok(Rotation::Unknown);
            }
            let token = || {
                refresh_tokens::table.find(presented.0.to_vec()).filter(refresh_tokens::session_id.eq(id.0))
            };
            // one statement: only one of several concurrent calls finds the token unused
            let claimed = diesel::update(token().filter(refresh_tokens::used_at.is_null()))
                .set(refresh_tokens::used_at.eq(At(at)))
                .execute(conn)
                .await?;
            if claimed == 0 {
                let used: Option<Option<At>> =
                    token().select(refresh_tokens::used_at).first(conn).await.optional()?;
                let Some(At(used)) = used.flatten() else { return Ok(Rotation::Unknown) };
                if at.duration_since(used).unsigned_abs() <= grace {
                    return Ok(Rotation::JustUsed);
                }
                diesel::delete(sessions::table.find(id.0)).execute(conn).await?;
                conn.record_outcome(entry.clone(), &Err(Error::new(Cause::SessionEnded))).await?;
                return Ok(Rotation::Replayed);
            }
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
                let username = Username::new(&username).map_err(|_| corrupt("users.username"))?;
                Ok((row.into(), username))
            };
            Ok(rows.into_iter().map(read).collect::<Result<_>>()?)
        })
    }
}

#[async_trait]
impl SessionStore for Store {
    async fn open(&self, permit: &Permit, record: SessionRecord, verified: &PasswordHash) -> Result<Session> {
        self.open_session(permit, record, verified).await
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

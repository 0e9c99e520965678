//! Registry of grants. Roles, requests and the rows of rights are in submodules.
//!
//! Every change locks the rights stamp first (see [`crate::rights_stamp`]), so the checks of a change hold when it commits.

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    grant::{GrantRecord, GrantRegistry, RightsStamp},
    ids::GrantId,
    rights::{BuiltInRole, Grant, GrantSource, RoleName, Subject},
};

use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact},
    rights_stamp::StampedRights as _,
    schema::{At, grants, roles, users},
};

mod columns;
mod request;
mod role;
mod source;

use columns::{GrantColumns, to_json};

/// Condition of live grants: neither revoked nor ended. Their start may lie in the future.
macro_rules! is_live {
    ($at:expr) => {{
        use diesel::BoolExpressionMethods as _;
        use $crate::schema::{At, grants};
        grants::revoked_at.is_null().and(grants::ends_at.is_null().or(grants::ends_at.gt(At($at))))
    }};
}

/// Fails with `NotFound` if there is no role of this name.
macro_rules! require_role {
    ($conn:ident, $name:expr) => {
        if BuiltInRole::parse($name.as_str()).is_none() {
            let own = roles::table.find($name.as_str()).filter(roles::deleted_at.is_null());
            let found: i64 = own.count().get_result($conn).await?;
            if found == 0 {
                return Err($crate::grant::role_error(Cause::NotFound, &$name).into());
            }
        }
    };
}

/// Reads the name of a user; fails with `NotFound` if there is no such user.
macro_rules! username {
    ($conn:ident, $id:expr) => {{
        let found: Option<String> =
            users::table.find($id.0).select(users::username).first($conn).await.optional()?;
        found.ok_or_else(|| Error::new(Cause::NotFound).resource("user").name($id.to_string()))?
    }};
}

/// Checks and inserts a grant. Author and time are those of the pending entry.
macro_rules! insert_grant {
    ($conn:ident, $record:expr, $source:expr, $entry:expr) => {{
        let (record, at): (GrantRecord, Timestamp) = ($record, $entry.at());
        require_role!($conn, record.role);
        if let Subject::User(id) = record.subject {
            username!($conn, id);
        }
        let subject = record.subject.to_string();
        let of_subject = grants::table.filter(grants::subject.eq(&subject)).filter(is_live!(at));
        let live: i64 = of_subject.count().get_result($conn).await?;
        if live.unsigned_abs() >= Grant::MAX_LIVE as u64 {
            return Err(Error::new(Cause::TooMany).resource("grant").into());
        }
        let values = (
            grants::subject.eq(&subject),
            grants::role.eq(record.role.as_str()),
            grants::clusters.eq(to_json(&record.clusters)?),
            grants::namespaces.eq(to_json(&record.reach)?),
            grants::starts_at.eq(At(record.from.unwrap_or(at))),
            grants::ends_at.eq(record.until.map(At)),
            grants::reason.eq(&record.reason),
            grants::source.eq($source.to_string()),
            grants::created_at.eq(At(at)),
            grants::created_by.eq($entry.author()),
        );
        let row: GrantColumns = diesel::insert_into(grants::table)
            .values(values)
            .returning(GrantColumns::as_returning())
            .get_result($conn)
            .await?;
        Grant::try_from(row)?
    }};
}

/// Revokes the live grants of a user and withdraws the user's pending requests.
macro_rules! end_rights_of_user {
    ($conn:ident, $user:expr, $entry:expr) => {{
        use pilothouse_core::{
            grant::{GrantRequest, RequestState},
            rights::Subject,
        };
        use $crate::schema::{At, grant_requests, grants};
        let (at, author) = ($entry.at(), $entry.author());
        let of_user = grants::table.filter(grants::subject.eq(Subject::User($user).to_string()));
        diesel::update(of_user.filter($crate::grant::is_live!(at)))
            .set((grants::revoked_at.eq(At(at)), grants::revoked_by.eq(author)))
            .execute($conn)
            .await?;
        let pending = grant_requests::table
            .filter(grant_requests::user_id.eq($user.0))
            .filter(grant_requests::status.eq(RequestState::Pending.as_str()))
            .filter(grant_requests::created_at.gt(At(at - GrantRequest::LIFETIME)));
        diesel::update(pending)
            .set((
                grant_requests::status.eq(RequestState::Withdrawn.as_str()),
                grant_requests::decided_at.eq(At(at)),
                grant_requests::decided_by.eq(author),
            ))
            .execute($conn)
            .await?;
    }};
}

pub(crate) use {end_rights_of_user, insert_grant, is_live, require_role, username};

/// The error of a change of a role.
fn role_error(cause: Cause, name: &RoleName) -> Error {
    Error::new(cause).resource("role").name(name.as_str())
}

impl Store {
    async fn list_grants(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>> {
        read!(self.db, |conn| {
            let mut query = grants::table.select(GrantColumns::as_select()).order_by(grants::id).into_boxed();
            if let Some(subject) = subject {
                query = query.filter(grants::subject.eq(subject.to_string()));
            }
            if let Some(at) = live_at {
                query = query.filter(is_live!(at));
            }
            let rows: Vec<GrantColumns> = query.load(conn).await?;
            Ok(rows.into_iter().map(Grant::try_from).collect::<Result<_>>()?)
        })
    }

    async fn find_grant(&self, id: GrantId) -> Result<Option<Grant>> {
        read!(self.db, |conn| {
            let row: Option<GrantColumns> =
                grants::table.find(id.0).select(GrantColumns::as_select()).first(conn).await.optional()?;
            Ok(row.map(Grant::try_from).transpose()?)
        })
    }

    async fn create_grant(
        &self,
        permit: &Permit,
        grant: GrantRecord,
        judged: Option<RightsStamp>,
    ) -> Result<Grant> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        transact!(self.db, |conn| {
            if !conn.has_rights_stamp(judged).await? {
                return Err(Error::new(Cause::Modified).resource("grant").into());
            }
            conn.replace_rights_stamp(stamp).await?;
            let grant = insert_grant!(conn, grant, GrantSource::Manual, entry);
            conn.record_success(entry).await?;
            Ok(grant)
        })
    }

    async fn revoke_grant(&self, permit: &Permit, id: GrantId) -> Result<Grant> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            let live = grants::table.find(id.0).filter(is_live!(entry.at()));
            diesel::update(live)
                .set((grants::revoked_at.eq(At(entry.at())), grants::revoked_by.eq(entry.author())))
                .execute(conn)
                .await?;
            let row: Option<GrantColumns> =
                grants::table.find(id.0).select(GrantColumns::as_select()).first(conn).await.optional()?;
            let not_found = || Error::new(Cause::NotFound).resource("grant").name(id.to_string());
            let grant = Grant::try_from(row.ok_or_else(not_found)?)?;
            conn.record_success(entry).await?;
            Ok(grant)
        })
    }
}

#[async_trait]
impl GrantRegistry for Store {
    async fn list(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>> {
        self.list_grants(subject, live_at).await
    }

    async fn find(&self, id: GrantId) -> Result<Option<Grant>> {
        self.find_grant(id).await
    }

    async fn create(
        &self,
        permit: &Permit,
        grant: GrantRecord,
        judged: Option<RightsStamp>,
    ) -> Result<Grant> {
        self.create_grant(permit, grant, judged).await
    }

    async fn revoke(&self, permit: &Permit, id: GrantId) -> Result<Grant> {
        self.revoke_grant(permit, id).await
    }
}

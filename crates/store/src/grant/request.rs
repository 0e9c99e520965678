//! Registry of requests for grants.

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    grant::{Decision, GrantRecord, GrantRequest, RequestRecord, RequestRegistry, RequestState, RightsStamp},
    ids::{GrantRequestId, UserId},
    rights::{BuiltInRole, Grant, GrantSource, Subject},
};

use super::{
    columns::{GrantColumns, RequestColumns, to_json},
    insert_grant, is_live, require_role, username,
};
use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact},
    rights_stamp::StampedRights as _,
    schema::{At, grant_requests, grants, roles, users},
};

/// The request of a row with its state at `now`.
fn request_at(row: RequestColumns, now: Timestamp) -> Result<GrantRequest> {
    Ok(GrantRequest::try_from(row)?.at(now))
}

impl Store {
    async fn list_requests(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>> {
        read!(self.db, |conn| {
            let mut query = grant_requests::table
                .select(RequestColumns::as_select())
                .order_by(grant_requests::id)
                .into_boxed();
            if let Some(user) = user {
                query = query.filter(grant_requests::user_id.eq(user.0));
            }
            let rows: Vec<RequestColumns> = query.load(conn).await?;
            Ok(rows.into_iter().map(|row| request_at(row, now)).collect::<Result<_>>()?)
        })
    }

    async fn find_request(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>> {
        read!(self.db, |conn| {
            let row: Option<RequestColumns> = grant_requests::table
                .find(id.0)
                .select(RequestColumns::as_select())
                .first(conn)
                .await
                .optional()?;
            Ok(row.map(|row| request_at(row, now)).transpose()?)
        })
    }

    async fn create_request(&self, permit: &Permit, request: RequestRecord) -> Result<GrantRequest> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            // the role is not deleted before this transaction ends, and no other request of the user is stored
            conn.lock_rights_stamp().await?;
            require_role!(conn, request.role);
            let username = username!(conn, request.user_id);
            let pending = grant_requests::table
                .filter(grant_requests::user_id.eq(request.user_id.0))
                .filter(grant_requests::status.eq(RequestState::Pending.as_str()))
                .filter(grant_requests::created_at.gt(At(entry.at() - GrantRequest::LIFETIME)));
            let pending: i64 = pending.count().get_result(conn).await?;
            if pending.unsigned_abs() >= GrantRequest::MAX_PENDING as u64 {
                return Err(Error::new(Cause::TooMany).resource("grant_request").into());
            }
            let values = (
                grant_requests::user_id.eq(request.user_id.0),
                grant_requests::username.eq(username),
                grant_requests::role.eq(request.role.as_str()),
                grant_requests::clusters.eq(to_json(&request.clusters)?),
                grant_requests::namespaces.eq(to_json(&request.reach)?),
                grant_requests::duration_seconds.eq(i64::from(request.duration_seconds)),
                grant_requests::reason.eq(&request.reason),
                grant_requests::status.eq(RequestState::Pending.as_str()),
                grant_requests::created_at.eq(At(entry.at())),
            );
            let row: RequestColumns = diesel::insert_into(grant_requests::table)
                .values(values)
                .returning(RequestColumns::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(GrantRequest::try_from(row)?)
        })
    }

    async fn decide_request(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let refused = move |cause| Error::new(cause).resource("grant_request").name(id.to_string());
        transact!(self.db, |conn| {
            if !conn.has_rights_stamp(judged).await? {
                return Err(refused(Cause::Modified).into());
            }
            match decision {
                Decision::Approve => conn.replace_rights_stamp(stamp).await?,
                Decision::Deny | Decision::Withdraw => conn.lock_rights_stamp().await?,
            }
            let row: Option<RequestColumns> = grant_requests::table
                .find(id.0)
                .select(RequestColumns::as_select())
                .first(conn)
                .await
                .optional()?;
            let request = request_at(row.ok_or_else(|| refused(Cause::NotFound))?, entry.at())?;
            if request.state != RequestState::Pending {
                return Err(refused(Cause::RequestDecided).into());
            }
            let grant_id = match decision {
                Decision::Approve => {
                    let enabled = users::table.find(request.user_id.0).filter(users::disabled.eq(false));
                    let enabled: i64 = enabled.count().get_result(conn).await?;
                    if enabled == 0 {
                        let user = request.user_id.to_string();
                        return Err(Error::new(Cause::NotFound).resource("user").name(user).into());
                    }
                    let record = GrantRecord::of_request(&request, entry.at());
                    Some(insert_grant!(conn, record, GrantSource::Request(id), entry).id.0)
                }
                Decision::Deny | Decision::Withdraw => None,
            };
            let decided = (
                grant_requests::status.eq(decision.state().as_str()),
                grant_requests::decided_at.eq(At(entry.at())),
                grant_requests::decided_by.eq(entry.author()),
                grant_requests::decision_reason.eq(&reason),
                grant_requests::grant_id.eq(grant_id),
            );
            let row: RequestColumns = diesel::update(grant_requests::table.find(id.0))
                .set(decided)
                .returning(RequestColumns::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(GrantRequest::try_from(row)?)
        })
    }
}

#[async_trait]
impl RequestRegistry for Store {
    async fn list(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>> {
        self.list_requests(user, now).await
    }

    async fn find(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>> {
        self.find_request(id, now).await
    }

    async fn create(&self, permit: &Permit, request: RequestRecord) -> Result<GrantRequest> {
        self.create_request(permit, request).await
    }

    async fn decide(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest> {
        self.decide_request(permit, id, decision, reason, judged).await
    }
}

//! Registry of the uses of break-glass.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    break_glass::{BreakGlassRecord, BreakGlassRegistry, BreakGlassRow},
    grant::GrantRecord,
    ids::{BreakGlassId, ClusterId, GrantId, UserId},
    rights::{BuiltInRole, ClusterScope, Grant, GrantSource, Reach, RoleName, Subject},
};

use super::{
    columns::{GrantColumns, to_json},
    insert_grant, is_live, require_role, username,
};
use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact},
    rights_stamp::StampedRights as _,
    schema::{At, break_glass, clusters, grants, roles, users},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = break_glass)]
struct Row {
    id: i64,
    user_id: i64,
    username: String,
    cluster_id: i64,
    reason: String,
    grant_id: i64,
    created_at: At,
    ends_at: At,
    reviewed_at: Option<At>,
    reviewed_by: Option<String>,
    review_note: Option<String>,
}

impl From<Row> for BreakGlassRow {
    fn from(row: Row) -> Self {
        Self {
            id: BreakGlassId(row.id),
            user_id: UserId(row.user_id),
            username: row.username,
            cluster_id: ClusterId(row.cluster_id),
            reason: row.reason,
            grant_id: GrantId(row.grant_id),
            created_at: row.created_at.0,
            until: row.ends_at.0,
            reviewed: row.reviewed_at.is_some(),
            reviewed_at: row.reviewed_at.map(|at| at.0),
            reviewed_by: row.reviewed_by,
            note: row.review_note,
        }
    }
}

fn absent(resource: &'static str, id: impl ToString) -> Error {
    Error::new(Cause::NotFound).resource(resource).name(id.to_string())
}

impl Store {
    async fn list_break_glass(&self, user: Option<UserId>) -> Result<Vec<BreakGlassRow>> {
        read!(self.db, |conn| {
            let mut query =
                break_glass::table.select(Row::as_select()).order_by(break_glass::id).into_boxed();
            if let Some(user) = user {
                query = query.filter(break_glass::user_id.eq(user.0));
            }
            let rows: Vec<Row> = query.load(conn).await?;
            Ok(rows.into_iter().map(BreakGlassRow::from).collect())
        })
    }

    async fn find_break_glass(&self, id: BreakGlassId) -> Result<Option<BreakGlassRow>> {
        read!(self.db, |conn| {
            let row: Option<Row> =
                break_glass::table.find(id.0).select(Row::as_select()).first(conn).await.optional()?;
            Ok(row.map(BreakGlassRow::from))
        })
    }

    async fn open_break_glass(&self, permit: &Permit, record: BreakGlassRecord) -> Result<BreakGlassRow> {
        let BreakGlassRecord { user_id, cluster, reason } = record;
        let entry = self.pending_entry(permit)?.with_cluster(cluster);
        let stamp = self.new_rights_stamp();
        let role = RoleName::new(BreakGlassRow::ROLE);
        let role = role.map_err(|_| Error::internal("the role of break-glass has no valid name"))?;
        transact!(self.db, |conn| {
            // one use at a time is counted and stored
            conn.replace_rights_stamp(stamp).await?;
            let at = entry.at();
            let enabled = users::table.find(user_id.0).filter(users::disabled.eq(false));
            let username: Option<String> = enabled.select(users::username).first(conn).await.optional()?;
            let username = username.ok_or_else(|| absent("user", user_id))?;
            let found: i64 = clusters::table.find(cluster.0).count().get_result(conn).await?;
            if found == 0 {
                return Err(absent("cluster", cluster).into());
            }
            let recent = break_glass::table
                .filter(break_glass::user_id.eq(user_id.0))
                .filter(break_glass::created_at.gt(At(at - BreakGlassRow::WINDOW)));
            let recent: i64 = recent.count().get_result(conn).await?;
            if recent.unsigned_abs() >= BreakGlassRow::MAX_USES as u64 {
                return Err(Error::new(Cause::TooMany).resource("break_glass").into());
            }
            let until = at + BreakGlassRow::DURATION;
            let grant = GrantRecord {
                subject: Subject::User(user_id),
                role,
                clusters: ClusterScope::Ids([cluster].into()),
                reach: Reach::Cluster,
                from: Some(at),
                until: Some(until),
                reason: Some(reason.clone()),
            };
            let grant = insert_grant!(conn, grant, GrantSource::BreakGlass, entry);
            let values = (
                break_glass::user_id.eq(user_id.0),
                break_glass::username.eq(username),
                break_glass::cluster_id.eq(cluster.0),
                break_glass::reason.eq(&reason),
                break_glass::grant_id.eq(grant.id.0),
                break_glass::created_at.eq(At(at)),
                break_glass::ends_at.eq(At(until)),
            );
            let row: Row = diesel::insert_into(break_glass::table)
                .values(values)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(BreakGlassRow::from(row))
        })
    }

    async fn review_break_glass(
        &self,
        permit: &Permit,
        id: BreakGlassId,
        note: String,
    ) -> Result<BreakGlassRow> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            let open = break_glass::table.find(id.0).filter(break_glass::reviewed_at.is_null());
            let review = (
                break_glass::reviewed_at.eq(At(entry.at())),
                break_glass::reviewed_by.eq(entry.author()),
                break_glass::review_note.eq(&note),
            );
            let row: Option<Row> = diesel::update(open)
                .set(review)
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else {
                let found: i64 = break_glass::table.find(id.0).count().get_result(conn).await?;
                let cause = if found > 0 { Cause::RequestDecided } else { Cause::NotFound };
                return Err(Error::new(cause).resource("break_glass").name(id.to_string()).into());
            };
            conn.record_success(entry).await?;
            Ok(BreakGlassRow::from(row))
        })
    }
}

#[async_trait]
impl BreakGlassRegistry for Store {
    async fn list(&self, user: Option<UserId>) -> Result<Vec<BreakGlassRow>> {
        self.list_break_glass(user).await
    }

    async fn find(&self, id: BreakGlassId) -> Result<Option<BreakGlassRow>> {
        self.find_break_glass(id).await
    }

    async fn open(&self, permit: &Permit, record: BreakGlassRecord) -> Result<BreakGlassRow> {
        self.open_break_glass(permit, record).await
    }

    async fn review(&self, permit: &Permit, id: BreakGlassId, note: String) -> Result<BreakGlassRow> {
        self.review_break_glass(permit, id, note).await
    }
}

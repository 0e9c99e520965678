//! Registry of own roles.

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    grant::{GrantRequest, MAX_OWN_ROLES, OwnRole, RequestState, RolePatch, RoleRecord, RoleRegistry},
    rights::{BuiltInRole, RoleName},
};

use super::{
    columns::{RoleChangeset, RoleColumns, to_json},
    is_live, role_error,
};
use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact},
    rights_stamp::StampedRights as _,
    schema::{At, grant_requests, grants, roles},
};

impl Store {
    async fn list_roles(&self) -> Result<Vec<OwnRole>> {
        read!(self.db, |conn| {
            let rows: Vec<RoleColumns> = roles::table
                .filter(roles::deleted_at.is_null())
                .select(RoleColumns::as_select())
                .order_by(roles::name)
                .load(conn)
                .await?;
            Ok(rows.into_iter().map(OwnRole::try_from).collect::<Result<_>>()?)
        })
    }

    async fn create_role(&self, permit: &Permit, role: RoleRecord) -> Result<OwnRole> {
        if BuiltInRole::parse(role.name.as_str()).is_some() {
            return Err(role_error(Cause::NameTaken, &role.name));
        }
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let rules = to_json(&role.rules.rules())?;
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            // also a deleted role keeps its name
            let same_name: i64 = roles::table.find(role.name.as_str()).count().get_result(conn).await?;
            if same_name > 0 {
                return Err(role_error(Cause::NameTaken, &role.name).into());
            }
            let own = roles::table.filter(roles::deleted_at.is_null());
            let own: i64 = own.count().get_result(conn).await?;
            if own.unsigned_abs() >= MAX_OWN_ROLES as u64 {
                return Err(Error::new(Cause::TooMany).resource("role").into());
            }
            let values = (
                roles::name.eq(role.name.as_str()),
                roles::description.eq(&role.description),
                roles::rules.eq(rules),
                roles::created_at.eq(At(entry.at())),
                roles::created_by.eq(entry.author()),
                roles::updated_at.eq(At(entry.at())),
            );
            let row: RoleColumns = diesel::insert_into(roles::table)
                .values(values)
                .returning(RoleColumns::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(OwnRole::try_from(row)?)
        })
    }

    async fn update_role(&self, permit: &Permit, name: &RoleName, patch: RolePatch) -> Result<OwnRole> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let rules = patch.rules.map(|rules| to_json(&rules.rules())).transpose()?;
        let change = RoleChangeset { description: patch.description, rules, updated_at: At(entry.at()) };
        let name = name.clone();
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            let own = roles::table.find(name.as_str()).filter(roles::deleted_at.is_null());
            let row: Option<RoleColumns> = diesel::update(own)
                .set(change)
                .returning(RoleColumns::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let row = row.ok_or_else(|| role_error(Cause::NotFound, &name))?;
            conn.record_success(entry).await?;
            Ok(OwnRole::try_from(row)?)
        })
    }

    async fn delete_role(&self, permit: &Permit, name: &RoleName) -> Result<()> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let name = name.clone();
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            let own = roles::table.find(name.as_str()).filter(roles::deleted_at.is_null());
            let deleted = diesel::update(own).set(roles::deleted_at.eq(At(entry.at()))).execute(conn).await?;
            if deleted == 0 {
                return Err(role_error(Cause::NotFound, &name).into());
            }
            let of_role = grants::table.filter(grants::role.eq(name.as_str())).filter(is_live!(entry.at()));
            let live: i64 = of_role.count().get_result(conn).await?;
            let of_role = grant_requests::table
                .filter(grant_requests::role.eq(name.as_str()))
                .filter(grant_requests::status.eq(RequestState::Pending.as_str()))
                .filter(grant_requests::created_at.gt(At(entry.at() - GrantRequest::LIFETIME)));
            let pending: i64 = of_role.count().get_result(conn).await?;
            if live + pending > 0 {
                return Err(role_error(Cause::RoleInUse, &name).into());
            }
            conn.record_success(entry).await
        })
    }
}

#[async_trait]
impl RoleRegistry for Store {
    async fn list(&self) -> Result<Vec<OwnRole>> {
        self.list_roles().await
    }

    async fn create(&self, permit: &Permit, role: RoleRecord) -> Result<OwnRole> {
        self.create_role(permit, role).await
    }

    async fn update(&self, permit: &Permit, name: &RoleName, patch: RolePatch) -> Result<OwnRole> {
        self.update_role(permit, name, patch).await
    }

    async fn delete(&self, permit: &Permit, name: &RoleName) -> Result<()> {
        self.delete_role(permit, name).await
    }
}

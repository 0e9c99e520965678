//! Storage of service accounts.

use async_trait::async_trait;
use diesel::{
    AsChangeset, ExpressionMethods as _, JoinOnDsl as _, NullableExpressionMethods as _,
    OptionalExtension as _, QueryDsl as _, Queryable, Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    ids::{ServiceAccountId, UserId},
    rights::Subject,
    service_account::{
        ServiceAccount, ServiceAccountName, ServiceAccountPatch, ServiceAccountRecord, ServiceAccountStore,
    },
    user::Username,
};

use crate::{
    Store,
    audit::Trail as _,
    db::{read, transact},
    error::{StoreError, corrupt},
    grant::{revoke_grants, username},
    rights_stamp::StampedRights as _,
    schema::{At, service_accounts, users},
    token::revoke_tokens,
};

/// A stored service account, without the name of its owner.
#[derive(Queryable, Selectable)]
#[diesel(table_name = service_accounts)]
pub(crate) struct Row {
    id: i64,
    name: String,
    description: String,
    owner_user_id: Option<i64>,
    created_at: At,
    created_by: String,
}

impl Row {
    /// The account. `owner` is the name of its owner.
    pub(crate) fn with_owner(self, owner: Option<Username>) -> Result<ServiceAccount> {
        Ok(ServiceAccount {
            id: ServiceAccountId(self.id),
            name: ServiceAccountName::new(self.name).map_err(|_| corrupt("service_accounts.name"))?,
            description: self.description,
            owner_user_id: self.owner_user_id.map(UserId),
            owner,
            created_at: self.created_at.0,
            created_by: self.created_by,
        })
    }
}

/// A row with the name of the owner.
fn account((row, owner): (Row, Option<String>)) -> Result<ServiceAccount> {
    let owner = owner.map(|name| Username::stored(&name).map_err(|_| corrupt("users.username")));
    row.with_owner(owner.transpose()?)
}

#[derive(AsChangeset)]
#[diesel(table_name = service_accounts)]
struct Changeset {
    description: Option<String>,
    owner_user_id: Option<i64>,
}

fn account_error(cause: Cause, id: ServiceAccountId) -> Error {
    Error::new(cause).resource("service_account").name(id.to_string())
}

/// Service accounts with the names of their owners.
macro_rules! accounts {
    () => {
        service_accounts::table
            .left_join(users::table.on(users::id.nullable().eq(service_accounts::owner_user_id)))
            .select((Row::as_select(), users::username.nullable()))
    };
}

/// Reads one account.
macro_rules! account {
    ($conn:ident, $id:expr) => {{
        let found: Option<(Row, Option<String>)> =
            accounts!().filter(service_accounts::id.eq($id)).first($conn).await.optional()?;
        found.map(account).transpose()?
    }};
}

impl Store {
    async fn list_service_accounts(&self) -> Result<Vec<ServiceAccount>> {
        read!(self.db, |conn| {
            let rows: Vec<(Row, Option<String>)> =
                accounts!().order_by(service_accounts::id).load(conn).await?;
            Ok(rows.into_iter().map(account).collect::<Result<_>>()?)
        })
    }

    async fn service_account(&self, id: ServiceAccountId) -> Result<Option<ServiceAccount>> {
        read!(self.db, |conn| Ok(account!(conn, id.0)))
    }

    async fn create_service_account(
        &self,
        permit: &Permit,
        record: ServiceAccountRecord,
    ) -> Result<ServiceAccount> {
        let taken = Error::new(Cause::NameTaken).resource("service_account").name(record.name.as_str());
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            // as the deletion of a user does
            conn.lock_rights_stamp().await?;
            username!(conn, record.owner_user_id);
            let values = (
                service_accounts::name.eq(record.name.as_str()),
                service_accounts::description.eq(&record.description),
                service_accounts::owner_user_id.eq(record.owner_user_id.0),
                service_accounts::created_at.eq(At(entry.at())),
                service_accounts::created_by.eq(entry.author()),
            );
            let inserted: Result<i64, StoreError> = async {
                let insert = diesel::insert_into(service_accounts::table).values(values);
                Ok(insert.returning(service_accounts::id).get_result(conn).await?)
            }
            .await;
            let id = inserted.map_err(|error| if error.is_duplicate() { taken.into() } else { error })?;
            let created = account!(conn, id);
            conn.record_success(entry).await?;
            Ok(created.ok_or_else(|| account_error(Cause::NotFound, ServiceAccountId(id)))?)
        })
    }

    async fn update_service_account(
        &self,
        permit: &Permit,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount> {
        let entry = self.pending_entry(permit)?;
        transact!(self.db, |conn| {
            // as the deletion of a user does
            conn.lock_rights_stamp().await?;
            if let Some(owner) = patch.owner_user_id {
                username!(conn, owner);
            }
            let change = Changeset {
                description: patch.description,
                owner_user_id: patch.owner_user_id.map(|owner| owner.0),
            };
            // the name is set to itself, because a change without a column is no statement
            diesel::update(service_accounts::table.find(id.0))
                .set((service_accounts::name.eq(service_accounts::name), change))
                .execute(conn)
                .await?;
            let updated = account!(conn, id.0).ok_or_else(|| account_error(Cause::NotFound, id))?;
            conn.record_success(entry).await?;
            Ok(updated)
        })
    }

    async fn delete_service_account(&self, permit: &Permit, id: ServiceAccountId) -> Result<()> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            if diesel::delete(service_accounts::table.find(id.0)).execute(conn).await? == 0 {
                return Err(account_error(Cause::NotFound, id).into());
            }
            revoke_grants!(conn, Subject::ServiceAccount(id), entry);
            revoke_tokens!(conn, api_tokens::service_account_id.eq(id.0), entry.at());
            conn.record_success(entry).await
        })
    }
}

#[async_trait]
impl ServiceAccountStore for Store {
    async fn list(&self) -> Result<Vec<ServiceAccount>> {
        self.list_service_accounts().await
    }

    async fn find(&self, id: ServiceAccountId) -> Result<Option<ServiceAccount>> {
        self.service_account(id).await
    }

    async fn create(&self, permit: &Permit, account: ServiceAccountRecord) -> Result<ServiceAccount> {
        self.create_service_account(permit, account).await
    }

    async fn update(
        &self,
        permit: &Permit,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount> {
        self.update_service_account(permit, id, patch).await
    }

    async fn delete(&self, permit: &Permit, id: ServiceAccountId) -> Result<()> {
        self.delete_service_account(permit, id).await
    }
}

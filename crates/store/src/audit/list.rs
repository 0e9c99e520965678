//! Pages of operations. The reference is `pilothouse_core::inventory::select`; the contract compares the two.

use diesel::{
    ExpressionMethods as _, QueryDsl as _, Queryable, Selectable, SelectableHelper as _,
    TextExpressionMethods as _, expression_methods::EscapeExpressionMethods as _,
};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{
    Error, Result,
    access::Role,
    audit::{OperationId, OperationPage, OperationQuery, OperationRow, Status},
    cluster::ClusterId,
    inventory::{List, ListQuery, Pagination},
    user::UserId,
};

use crate::{
    db::{Db, read},
    error::corrupt,
    schema::{At, operations},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = operations)]
struct Row {
    id: i64,
    operation_id: String,
    cluster_id: Option<i64>,
    cluster_name: Option<String>,
    operation_type: String,
    resource_type: String,
    resource_name: Option<String>,
    namespace: Option<String>,
    status: String,
    user_id: Option<i64>,
    username: String,
    role: Option<String>,
    source_ip: Option<String>,
    request_id: Option<String>,
    duration_ms: Option<i64>,
    error_code: Option<String>,
    details: Option<String>,
    created_at: At,
    finished_at: Option<At>,
}

impl TryFrom<Row> for OperationRow {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let status = Status::ALL.into_iter().find(|status| status.as_str() == row.status);
        let role = row.role.as_deref().map(Role::parse).transpose();
        Ok(Self {
            id: row.id,
            operation_id: OperationId(
                row.operation_id.parse().map_err(|_| corrupt("operations.operation_id"))?,
            ),
            cluster_id: row.cluster_id.map(ClusterId),
            cluster_name: row.cluster_name,
            operation_type: row.operation_type,
            resource_type: row.resource_type,
            resource_name: row.resource_name,
            namespace: row.namespace,
            status: status.ok_or_else(|| corrupt("operations.status"))?,
            user_id: row.user_id.map(UserId),
            username: row.username,
            role: role.map_err(|_| corrupt("operations.role"))?,
            source_ip: row.source_ip,
            request_id: row.request_id,
            duration_ms: row.duration_ms,
            error_code: row.error_code,
            details: row.details,
            created_at: row.created_at.0,
            finished_at: row.finished_at.map(|at| at.0),
        })
    }
}

/// What is searched for, as a pattern of LIKE.
fn pattern(search: &str) -> String {
    let mut pattern = String::from("%");
    for c in search.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "%"
}

/// The filters on row fields, by the name of the field, and the order.
struct Plan {
    filters: Vec<(&'static str, String)>,
    sort: Option<(&'static str, bool)>,
}

impl Plan {
    fn of(query: &ListQuery) -> Result<Self> {
        let fields = (List::Operations.info().fields)();
        let name = |index: usize| {
            fields
                .get(index)
                .map(|field| field.name)
                .ok_or_else(|| Error::internal("no such field of an operation"))
        };
        let filter = |(field, value): &(usize, String)| Ok((name(*field)?, value.clone()));
        Ok(Self {
            filters: query.filters.iter().map(filter).collect::<Result<_>>()?,
            sort: query.sort.map(|sort| Ok::<_, Error>((name(sort.field)?, sort.descending))).transpose()?,
        })
    }
}

/// Orders by one of these columns: unknown values last either way, ties by namespace, name and id.
macro_rules! ordered {
    ($query:expr, $sort:expr, known: [$($known:ident),*], nullable: [$($nullable:ident),*]) => {{
        let query = match $sort {
            None => $query,
            $(
                Some((stringify!($known), false)) => $query.order_by(operations::$known.asc()),
                Some((stringify!($known), true)) => $query.order_by(operations::$known.desc()),
            )*
            $(
                Some((stringify!($nullable), false)) => {
                    $query.order_by((operations::$nullable.is_null(), operations::$nullable.asc()))
                }
                Some((stringify!($nullable), true)) => {
                    $query.order_by((operations::$nullable.is_null(), operations::$nullable.desc()))
                }
            )*
            Some((name, _)) => return Err(Error::internal(format!("operations cannot be ordered by {name}")).into()),
        };
        query
            .then_order_by((operations::namespace.is_null().desc(), operations::namespace.asc()))
            .then_order_by((operations::resource_name.is_null().desc(), operations::resource_name.asc()))
            .then_order_by(operations::id.asc())
    }};
}

/// A page of operations.
pub(super) async fn page(db: &Db, query: &OperationQuery) -> Result<OperationPage> {
    let Plan { filters, sort } = Plan::of(&query.list)?;
    let search = query.list.search.as_deref().map(pattern);
    let OperationQuery { user_id, from, to, before, .. } = *query;
    let limit = i64::try_from(query.list.limit()).unwrap_or(i64::MAX);
    let offset = i64::try_from(query.list.offset()).unwrap_or(i64::MAX);

    let (total, rows): (i64, Vec<Row>) = read!(*db, |conn| {
        let matching = || {
            let mut matching = operations::table.into_boxed();
            if let Some(user) = user_id {
                matching = matching.filter(operations::user_id.eq(user.0));
            }
            if let Some(from) = from {
                matching = matching.filter(operations::created_at.ge(At(from)));
            }
            if let Some(to) = to {
                matching = matching.filter(operations::created_at.lt(At(to)));
            }
            if let Some(before) = before {
                matching = matching.filter(operations::id.lt(before));
            }
            if let Some(search) = &search {
                matching = matching.filter(operations::searched.like(search).escape('\\'));
            }
            for (name, value) in &filters {
                matching = match *name {
                    "cluster_id" => {
                        let id = value
                            .parse::<i64>()
                            .map_err(|_| Error::internal("a cluster id that is no number"))?;
                        matching.filter(operations::cluster_id.eq(id))
                    }
                    "operation_type" => matching.filter(operations::operation_type.eq(value)),
                    "resource_type" => matching.filter(operations::resource_type.eq(value)),
                    "namespace" => matching.filter(operations::namespace.eq(value)),
                    "status" => matching.filter(operations::status.eq(value)),
                    "username" => matching.filter(operations::username.eq(value)),
                    name => return Err(Error::internal(format!("operations cannot be filtered by {name}"))),
                };
            }
            Ok(matching)
        };
        let total = matching()?.count().get_result(conn).await?;
        let page = ordered!(
            matching()?,
            sort,
            known: [id, operation_id, operation_type, resource_type, status, username, created_at],
            nullable: [
                cluster_id, cluster_name, resource_name, namespace, user_id, role, source_ip, request_id, duration_ms,
                error_code, details, finished_at
            ]
        );
        let rows = page.select(Row::as_select()).limit(limit).offset(offset).load(conn).await?;
        Ok((total, rows))
    })?;
    Ok(OperationPage {
        logs: rows.into_iter().map(OperationRow::try_from).collect::<Result<_>>()?,
        pagination: Pagination::of(&query.list, u64::try_from(total).unwrap_or(0)),
    })
}

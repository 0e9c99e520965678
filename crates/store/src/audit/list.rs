//! Pages of operations. The reference implementation is `pilothouse_core::rows::select`; a contract test compares the
//! two.

use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _, TextExpressionMethods as _, expression_methods::EscapeExpressionMethods as _,
};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{
    Error, Result,
    audit::{OperationPage, OperationQuery, OperationRow},
    ids::{ClusterId, GrantId, OperationId, TokenId, UserId},
    inventory::List,
    operation::Status,
    role::Role,
    rows::Pagination,
};

use super::{
    audited::InAudited,
    count::{CountBelow, CountCache, CountFilter},
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
    grant_id: Option<i64>,
    token_id: Option<i64>,
    reason: Option<String>,
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
        let parse_role = |role| Role::parse(role).ok_or_else(|| corrupt("operations.role"));
        let role = row.role.as_deref().map(parse_role).transpose();
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
            role: role?,
            grant_id: row.grant_id.map(GrantId),
            token_id: row.token_id.map(TokenId),
            reason: row.reason,
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

/// The search text as a LIKE pattern.
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

/// Filter and order of a query.
struct Plan {
    filter: CountFilter,
    sort: Option<(&'static str, bool)>,
}

impl Plan {
    fn of(query: &OperationQuery) -> Result<Self> {
        let OperationQuery { list, user_id, audited, from, to, after, .. } = query;
        let fields = (List::Operations.info().fields)();
        let name = |index: usize| {
            fields
                .get(index)
                .map(|field| field.name)
                .ok_or_else(|| Error::internal("an operation has no such field"))
        };
        let named_filter = |(field, values): &(usize, Vec<String>)| Ok((name(*field)?, values.clone()));
        let filter = CountFilter {
            user_id: user_id.map(|user| user.0),
            audited: audited.clone(),
            from: *from,
            to: *to,
            after: *after,
            search: list.search.as_deref().map(pattern),
            fields: list.filters.iter().map(named_filter).collect::<Result<_>>()?,
        };
        let sort = list.sort.map(|sort| Ok::<_, Error>((name(sort.field)?, sort.descending))).transpose()?;
        Ok(Self { filter, sort })
    }
}

/// Filters by the values of a column. One value is compared directly, so that an index on the column and the id has the
/// rows in order.
macro_rules! one_of {
    ($query:expr, $column:ident, $values:expr) => {
        match &$values[..] {
            [value] => $query.filter(operations::$column.eq(value)),
            values => $query.filter(operations::$column.eq_any(values.to_vec())),
        }
    };
}

/// Orders by one of these columns: NULL last in both directions, ties by namespace, name and id.
macro_rules! ordered {
    ($query:expr, $sort:expr, not_null: [$($not_null:ident),*], nullable: [$($nullable:ident),*]) => {{
        let query = match $sort {
            None => $query,
            $(
                Some((stringify!($not_null), false)) => $query.order_by(operations::$not_null.asc()),
                Some((stringify!($not_null), true)) => $query.order_by(operations::$not_null.desc()),
            )*
            $(
                Some((stringify!($nullable), false)) => {
                    $query.order_by((operations::$nullable.is_null(), operations::$nullable.asc()))
                }
                Some((stringify!($nullable), true)) => {
                    $query.order_by((operations::$nullable.is_null(), operations::$nullable.desc()))
                }
            )*
            Some((name, _)) => return Err(Error::internal(format!("operations cannot be sorted by {name}")).into()),
        };
        query
            .then_order_by((operations::namespace.is_null().desc(), operations::namespace.asc()))
            .then_order_by((operations::resource_name.is_null().desc(), operations::resource_name.asc()))
            .then_order_by(operations::id.asc())
    }};
}

/// A page of operations.
pub(super) async fn page(db: &Db, counts: &CountCache, query: &OperationQuery) -> Result<OperationPage> {
    let Plan { filter, sort } = Plan::of(query)?;
    let before = query.before;
    let limit = i64::try_from(query.list.limit()).unwrap_or(i64::MAX);
    let offset = i64::try_from(query.list.offset()).unwrap_or(i64::MAX);
    let counts = counts.clone();
    let audited = InAudited::new(&filter.audited);

    let (total, rows): (i64, Vec<Row>) = read!(*db, |conn| {
        let matching = || {
            let mut matching = operations::table.into_boxed();
            if let Some(user) = filter.user_id {
                matching = matching.filter(operations::user_id.eq(user));
                if !filter.audited.is_empty() {
                    matching = matching.or_filter(audited.clone());
                }
            }
            if let Some(from) = filter.from {
                matching = matching.filter(operations::created_at.ge(At(from)));
            }
            if let Some(to) = filter.to {
                matching = matching.filter(operations::created_at.lt(At(to)));
            }
            if let Some(after) = filter.after {
                matching = matching.filter(operations::id.gt(after));
            }
            if let Some(search) = &filter.search {
                matching = matching.filter(operations::searched.like(search).escape('\\'));
            }
            for (name, values) in &filter.fields {
                matching = match *name {
                    "cluster_id" => {
                        let ids = values.iter().map(|value| value.parse::<i64>());
                        let ids = ids
                            .collect::<Result<Vec<_>, _>>()
                            .map_err(|_| Error::internal("a cluster id is not a number"))?;
                        if let [id] = ids[..] {
                            matching.filter(operations::cluster_id.eq(id))
                        } else {
                            matching.filter(operations::cluster_id.eq_any(ids))
                        }
                    }
                    "operation_type" => one_of!(matching, operation_type, values),
                    "resource_type" => one_of!(matching, resource_type, values),
                    "resource_name" => one_of!(matching, resource_name, values),
                    "namespace" => one_of!(matching, namespace, values),
                    "status" => one_of!(matching, status, values),
                    "username" => one_of!(matching, username, values),
                    name => return Err(Error::internal(format!("operations cannot be filtered by {name}"))),
                };
            }
            Ok(matching)
        };

        // the id below which counts are final: see `count`
        let ids = || operations::table.select(operations::id);
        let oldest: i64 =
            ids().order_by(operations::id.asc()).first(conn).await.optional()?.unwrap_or_default();
        let newest: i64 =
            ids().order_by(operations::id.desc()).first(conn).await.optional()?.unwrap_or_default();
        let mut stable_below = before.unwrap_or(i64::MAX).min(newest + 1);
        if filter.depends_on_outcome() {
            let pending = ids().filter(operations::status.eq(Status::Pending.as_str()));
            let pending: Option<i64> = pending.order_by(operations::id.asc()).first(conn).await.optional()?;
            stable_below = stable_below.min(pending.unwrap_or(i64::MAX));
        }

        let between = |from: i64, to: i64| {
            Ok::<_, Error>(matching()?.filter(operations::id.ge(from)).filter(operations::id.lt(to)).count())
        };
        let count: i64 = match counts.nearest(&filter, oldest, stable_below) {
            Some(cached) if cached.id <= stable_below => {
                cached.count + between(cached.id, stable_below)?.get_result::<i64>(conn).await?
            }
            Some(cached) => cached.count - between(stable_below, cached.id)?.get_result::<i64>(conn).await?,
            // `id + 0` matches no index, so that the planner uses the index of the filter
            None => {
                matching()?.filter((operations::id + 0).lt(stable_below)).count().get_result(conn).await?
            }
        };
        counts.insert(&filter, oldest, CountBelow { id: stable_below, count });
        let rest: i64 = match before {
            Some(before) if before <= stable_below => 0,
            before => between(stable_below, before.unwrap_or(i64::MAX))?.get_result(conn).await?,
        };

        let mut page = matching()?;
        if let Some(before) = before {
            page = page.filter(operations::id.lt(before));
        }
        let page = ordered!(
            page,
            sort,
            not_null: [id, operation_id, operation_type, resource_type, status, username, created_at],
            nullable: [
                cluster_id, cluster_name, resource_name, namespace, user_id, role, grant_id, token_id, reason,
                source_ip, request_id, duration_ms, error_code, details, finished_at
            ]
        );
        let rows = page.select(Row::as_select()).limit(limit).offset(offset).load(conn).await?;
        Ok((count + rest, rows))
    })?;
    Ok(OperationPage {
        logs: rows.into_iter().map(OperationRow::try_from).collect::<Result<_>>()?,
        pagination: Pagination::of(&query.list, u64::try_from(total).unwrap_or(0)),
    })
}

/// The rows of these operations.
pub(super) async fn of_ids(db: &Db, ids: &[OperationId]) -> Result<Vec<OperationRow>> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows: Vec<Row> = read!(*db, |conn| Ok(operations::table
        .filter(operations::operation_id.eq_any(ids.clone()))
        .select(Row::as_select())
        .load(conn)
        .await?))?;
    rows.into_iter().map(OperationRow::try_from).collect()
}

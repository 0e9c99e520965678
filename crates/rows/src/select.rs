//! Reference implementation of list queries.

use serde::Serialize;

use super::{query::ListQuery, row::Row};

/// Position of a page among all matching rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// The requested page, from 1.
    pub page: u64,
    /// Rows per page.
    pub per_page: u64,
    /// Number of matching rows.
    pub total: u64,
    /// Number of pages: ⌈total / per_page⌉, 0 if no row matches.
    pub pages: u64,
}

impl Pagination {
    /// Position of the page that `query` requests among `total` rows.
    pub fn of(query: &ListQuery, total: u64) -> Self {
        let ListQuery { page, per_page, .. } = *query;
        Self { page, per_page, total, pages: total.div_ceil(per_page) }
    }
}

/// Reference implementation of a query: filter, sort, count, take the page. Rows with the same namespace and name keep
/// their input order.
pub fn select(mut rows: Vec<Row>, query: &ListQuery) -> (Vec<Row>, Pagination) {
    rows.retain(|row| row.matches(query));
    rows.sort_by(|a, b| a.order(b, query.sort));
    let pagination = Pagination::of(query, rows.len() as u64);
    let page = rows.into_iter().skip(query.offset()).take(query.limit()).collect();
    (page, pagination)
}

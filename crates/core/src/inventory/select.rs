//! The plain way to answer a query: what it means.

use serde::Serialize;

use super::{query::ListQuery, row::Row};

/// A page's place among all rows that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// The page asked for, from 1.
    pub page: u64,
    /// Rows a page.
    pub per_page: u64,
    /// Rows that match.
    pub total: u64,
    /// ⌈total / per_page⌉, 0 when nothing matches.
    pub pages: u64,
}

impl Pagination {
    /// The place of the page that `query` asks for among `total` rows.
    pub fn of(query: &ListQuery, total: u64) -> Self {
        let ListQuery { page, per_page, .. } = *query;
        Self { page, per_page, total, pages: total.div_ceil(per_page) }
    }
}

/// The reference implementation of a query: filter, sort, count, cut. Rows that are called the same keep the order
/// they come in.
pub fn select(mut rows: Vec<Row>, query: &ListQuery) -> (Vec<Row>, Pagination) {
    rows.retain(|row| row.matches(query));
    rows.sort_by(|a, b| a.order(b, query.sort));
    let pagination = Pagination::of(query, rows.len() as u64);
    let page = rows.into_iter().skip(query.offset()).take(query.limit()).collect();
    (page, pagination)
}

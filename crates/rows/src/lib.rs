//! Rows of lists: field declarations, stored rows, query parameters, and the evaluation of queries.
//!
//! A row type declares how its fields sort and filter ([`ListRow::FIELDS`]). [`select()`] is the reference
//! implementation of a query. It serves lists that are not cached, and it is the test oracle of [`Table`], which returns
//! the same results for rows that change.
//!
//! The crate has no lists of its own, no rules about rights, and no input or output. A program can link it alone to
//! query rows of its own (`examples/rows`). `pilothouse-core` declares Pilothouse's lists and their row types.

mod aging;
mod digest;
mod field;
mod labels;
mod level;
mod query;
mod row;
mod select;
mod table;

pub use aging::Aging;
pub use digest::{Digest, DigestKey, Digester};
pub use field::{Cell, Field, FieldInfo, Filter, ListRow, fields_of};
pub use labels::{JsonLabels, LabelSelector};
pub use level::{AgingLevel, Level, NextLevel, has_reason};
pub use query::{ListQuery, ListScope, MAX_FILTER_VALUES, QuerySpec, Sort, filter_values, number};
pub use row::Row;
pub use select::{Pagination, select};
pub use table::{BuiltIndexes, Change, Source, Table};

#[cfg(test)]
mod tests;

//! Operations as lists show them: the query, the page, the row, and how a row follows from the chain's entries.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Operation, OperationId, Outcome, Status, StoredRow};
use crate::{
    access::Role,
    clock::parse_timestamp,
    cluster::ClusterId,
    error::{Error, Reason, Result},
    inventory::{Cell, Field, Filter, List, ListQuery, ListRow, Pagination, number},
    user::UserId,
};

/// Which operations to show.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationQuery {
    /// Page, search, sort and the filters on row fields.
    pub list: ListQuery,
    /// Only this user's.
    pub user_id: Option<UserId>,
    /// Created at or after.
    pub from: Option<Timestamp>,
    /// Created before.
    pub to: Option<Timestamp>,
    /// Only rows with a smaller id: a cursor.
    pub before: Option<i64>,
}

impl OperationQuery {
    /// Reads query parameters: those of every list, and `from`, `to`, `before`.
    ///
    /// # Errors
    /// `InvalidInput`, naming every parameter refused.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let own = |name: &str| matches!(name, "from" | "to" | "before");
        let (own, rest): (Vec<_>, Vec<_>) = pairs.iter().cloned().partition(|(name, _)| own(name));
        let mut refused = Vec::new();
        let list = ListQuery::parse(List::Operations, &rest).unwrap_or_else(|error| {
            refused.extend(error.context.fields);
            ListQuery::default()
        });
        let mut query = Self { list, user_id: None, from: None, to: None, before: None };
        let mut seen = HashSet::new();
        for (name, value) in &own {
            let mut refuse = |reason| refused.push(crate::error::FieldError { name: name.clone(), reason });
            if !seen.insert(name) {
                refuse(Reason::Duplicate);
                continue;
            }
            match name.as_str() {
                "before" => match number(value, 1, i64::MAX as u64) {
                    Ok(id) => query.before = Some(id.cast_signed()),
                    Err(reason) => refuse(reason),
                },
                name => match parse_timestamp(value) {
                    Ok(time) if name == "from" => query.from = Some(time),
                    Ok(time) => query.to = Some(time),
                    Err(reason) => refuse(reason),
                },
            }
        }
        if refused.is_empty() { Ok(query) } else { Err(Error::fields(refused)) }
    }
}

/// A page of operations and its place among all.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationPage {
    /// The rows.
    pub logs: Vec<OperationRow>,
    /// Where they stand.
    pub pagination: Pagination,
}

/// One operation as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationRow {
    /// Grows with time; never used again.
    pub id: i64,
    /// The operation's id; in the cluster's own audit log its `Audit-ID`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub operation_id: OperationId,
    /// The cluster concerned, also after it was deleted.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub cluster_id: Option<ClusterId>,
    /// The cluster's name at the time.
    pub cluster_name: Option<String>,
    /// `create`, `update`, `delete`, `scale`, `login`, …
    pub operation_type: String,
    /// The kind of thing concerned, in lower case and singular: `cluster`, `deployment`, `user`, …
    pub resource_type: String,
    /// The name of the thing concerned.
    pub resource_name: Option<String>,
    /// The namespace concerned.
    pub namespace: Option<String>,
    /// How it stands.
    pub status: Status,
    /// Who; null for the system, the command line, a failed login.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub user_id: Option<UserId>,
    /// Who, by name at the time.
    pub username: String,
    /// The role at the time.
    pub role: Option<Role>,
    /// From where.
    pub source_ip: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<i64>,
    /// The public code of the refusal.
    pub error_code: Option<String>,
    /// What was asked for and what became of it, in English, never secret.
    pub details: Option<String>,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub finished_at: Option<Timestamp>,
}

impl OperationRow {
    /// The row of an operation that has just begun. Its id is the store's to give.
    pub fn begun(id: i64, operation: &Operation) -> Self {
        let details = operation.summary();
        let operation = operation.clone();
        Self {
            id,
            operation_id: operation.id,
            cluster_id: operation.cluster_id,
            cluster_name: operation.cluster_name,
            operation_type: operation.operation_type,
            resource_type: operation.resource_type,
            resource_name: operation.resource_name,
            namespace: operation.namespace,
            status: Status::Pending,
            user_id: operation.user_id,
            username: operation.username,
            role: operation.role,
            source_ip: operation.source_ip.map(|ip| ip.to_string()),
            request_id: operation.request_id,
            duration_ms: None,
            error_code: None,
            details,
            created_at: operation.created_at,
            finished_at: None,
        }
    }

    /// The same row once the operation has ended.
    #[must_use]
    pub fn ended(self, outcome: &Outcome) -> Self {
        let Outcome { status, error_code, details, duration_ms, finished_at } = outcome.clone();
        Self {
            status,
            error_code,
            // without any, what was asked for stays
            details: details.or(self.details),
            duration_ms: Some(duration_ms),
            finished_at: Some(finished_at),
            ..self
        }
    }

    /// The text that `search` looks through.
    pub fn searched(&self) -> String {
        self.resource_name.as_deref().unwrap_or_default().to_lowercase()
    }

    /// The row as the database should hold it.
    pub fn stored(&self) -> StoredRow {
        let cells = Self::FIELDS.iter().map(|field| (field.name(), field.cell(self))).collect();
        StoredRow { id: self.id, searched: self.searched(), cells }
    }
}

impl ListRow for OperationRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id)),
        Field::new("operation_id", |row| Cell::text(row.operation_id.to_string())),
        Field::filtered("cluster_id", Filter::Number, |row| Cell::from(row.cluster_id.map(|id| id.0))),
        Field::new("cluster_name", |row| Cell::from(&row.cluster_name)),
        Field::filtered("operation_type", Filter::Any, |row| Cell::text(&*row.operation_type)),
        Field::filtered("resource_type", Filter::Any, |row| Cell::text(&*row.resource_type)),
        Field::new("resource_name", |row| Cell::from(&row.resource_name)),
        Field::filtered("namespace", Filter::Any, |row| Cell::from(&row.namespace)),
        Field::filtered("status", Filter::OneOf(&["success", "failed", "pending", "unknown"]), |row| {
            Cell::text(row.status.as_str())
        }),
        Field::new("user_id", |row| Cell::from(row.user_id.map(|id| id.0))),
        Field::filtered("username", Filter::Any, |row| Cell::text(&*row.username)),
        Field::new("role", |row| Cell::from(&row.role.map(|role| role.as_str().to_owned()))),
        Field::new("source_ip", |row| Cell::from(&row.source_ip)),
        Field::new("request_id", |row| Cell::from(&row.request_id)),
        Field::new("duration_ms", |row| Cell::from(row.duration_ms)),
        Field::new("error_code", |row| Cell::from(&row.error_code)),
        Field::new("details", |row| Cell::from(&row.details)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("finished_at", |row| Cell::from(row.finished_at)),
    ];

    fn name(&self) -> &str {
        self.resource_name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_times_are_read_or_named() {
        let pairs = |text: &[(&str, &str)]| -> Vec<_> {
            text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let query =
            OperationQuery::parse(&pairs(&[("from", "2026-01-01T00:00:00Z"), ("before", "7")])).unwrap();
        assert_eq!((query.before, query.from.is_some(), query.to), (Some(7), true, None));
        let error = OperationQuery::parse(&pairs(&[("before", "0"), ("to", "x"), ("to", "y"), ("nope", "")]))
            .unwrap_err();
        let mut refused: Vec<_> =
            error.context.fields.iter().map(|f| (f.name.as_str(), f.reason.as_str())).collect();
        refused.sort_unstable();
        assert_eq!(
            refused,
            [("before", "out_of_range"), ("nope", "unknown"), ("to", "duplicate"), ("to", "malformed")]
        );
    }
}

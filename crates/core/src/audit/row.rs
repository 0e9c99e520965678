//! Operations list: the query, the page, the row, and how a row is derived from the entries of the chain.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::StoredRow;
use crate::{
    clock::parse_timestamp,
    error::{Error, Reason, Result},
    ids::{ClusterId, GrantId, OperationId, TokenId, UserId},
    namespaces::NamespaceSet,
    operation::{Operation, Outcome, Status},
    role::Role,
    rows::{Cell, Field, Filter, ListQuery, ListRow, Pagination, QuerySpec, fields_of, number},
};

/// Query of the operations list.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationQuery {
    /// Page, search, sort and filters on row fields.
    pub list: ListQuery,
    /// Only operations of this user, and those in `audited`.
    pub user_id: Option<UserId>,
    /// What is added to the operations of `user_id`. Without a `user_id`, it has no effect.
    pub audited: Vec<AuditedClusters>,
    /// Only operations created at or after this time.
    pub from: Option<Timestamp>,
    /// Only operations created before this time.
    pub to: Option<Timestamp>,
    /// Cursor: only rows with a smaller id.
    pub before: Option<i64>,
    /// Only rows with a larger id. No query parameter.
    pub after: Option<i64>,
}

/// Clusters in which a caller may read the operations of other users, in the same namespaces of each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AuditedClusters {
    /// The clusters.
    pub clusters: Vec<ClusterId>,
    /// The namespaces of the objects concerned. `None`: all operations in these clusters, also those without a
    /// namespace.
    pub namespaces: Option<NamespaceSet>,
}

impl AuditedClusters {
    /// Whether an operation is in these clusters and namespaces.
    pub fn contains(&self, cluster: Option<ClusterId>, namespace: Option<&str>) -> bool {
        let in_namespaces = match &self.namespaces {
            None => true,
            Some(set) => namespace.is_some_and(|namespace| set.contains(namespace)),
        };
        cluster.is_some_and(|cluster| self.clusters.contains(&cluster)) && in_namespaces
    }
}

impl OperationQuery {
    /// Parses query parameters: those of every list, and `from`, `to`, `before`.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let own = |name: &str| matches!(name, "from" | "to" | "before");
        let (own, rest): (Vec<_>, Vec<_>) = pairs.iter().cloned().partition(|(name, _)| own(name));
        let mut refused = Vec::new();
        let spec = QuerySpec::local(fields_of::<OperationRow>, OperationRow::DEFAULT_SORT);
        let list = ListQuery::parse_page(&spec, &rest).unwrap_or_else(|error| {
            refused.extend(error.context.fields);
            ListQuery::default()
        });
        let mut query = Self {
            list,
            user_id: None,
            audited: Vec::new(),
            from: None,
            to: None,
            before: None,
            after: None,
        };
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

/// Page of operations.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationPage {
    /// Rows of the page.
    pub logs: Vec<OperationRow>,
    /// Position of the page in the whole list.
    pub pagination: Pagination,
}

/// Row of the operations list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationRow {
    /// Row id; increases with time and is never reused.
    pub id: i64,
    /// Operation id; the `Audit-ID` in the cluster's own audit log.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub operation_id: OperationId,
    /// Id of the cluster concerned. Kept after the cluster is deleted.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub cluster_id: Option<ClusterId>,
    /// Name of the cluster when the operation began.
    pub cluster_name: Option<String>,
    /// `create`, `update`, `delete`, `scale`, `login`, …
    pub operation_type: String,
    /// Kind of the object concerned, in lower case and singular: `cluster`, `deployment`, `user`, …
    pub resource_type: String,
    /// Name of the object concerned.
    pub resource_name: Option<String>,
    /// Namespace of the object concerned.
    pub namespace: Option<String>,
    /// Status.
    pub status: Status,
    /// Id of the user. Null for a service account, the system, the command line and a failed login.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub user_id: Option<UserId>,
    /// Name of the user when the operation began, or `sa:<service account>`.
    pub username: String,
    /// Role of the user when the operation began.
    pub role: Option<Role>,
    /// Id of the grant that allowed the operation. Null if the role did, or if a right was missing.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub grant_id: Option<GrantId>,
    /// Id of the API token of the request. Null in a session.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub token_id: Option<TokenId>,
    /// Reason that the caller gave for the change.
    pub reason: Option<String>,
    /// Client IP address.
    pub source_ip: Option<String>,
    /// Request id.
    pub request_id: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: Option<i64>,
    /// Public error code.
    pub error_code: Option<String>,
    /// Parameters and result in English, never secret.
    pub details: Option<String>,
    /// Start time.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// End time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub finished_at: Option<Timestamp>,
}

impl OperationRow {
    /// Default order of the operations list: the newest first.
    pub(crate) const DEFAULT_SORT: &'static str = "-id";

    /// Row of an operation that has just begun. The store assigns the id.
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
            grant_id: operation.grant_id,
            token_id: operation.token_id,
            reason: operation.reason,
            source_ip: operation.source_ip.map(|ip| ip.to_string()),
            request_id: operation.request_id,
            duration_ms: None,
            error_code: None,
            details,
            created_at: operation.created_at,
            finished_at: None,
        }
    }

    /// Returns the row after the operation ended with this outcome.
    #[must_use]
    pub fn ended(self, outcome: &Outcome) -> Self {
        let Outcome { status, error_code, details, duration_ms, finished_at } = outcome.clone();
        Self {
            status,
            error_code,
            // without details in the outcome, the parameters stay
            details: details.or(self.details),
            duration_ms: Some(duration_ms),
            finished_at: Some(finished_at),
            ..self
        }
    }

    /// The text that `search` matches.
    pub fn searched(&self) -> String {
        self.resource_name.as_deref().unwrap_or_default().to_lowercase()
    }

    /// The row as stored in the database.
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
        Field::new("grant_id", |row| Cell::from(row.grant_id.map(|id| id.0))),
        Field::new("token_id", |row| Cell::from(row.token_id.map(|id| id.0))),
        Field::new("reason", |row| Cell::from(&row.reason)),
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
    use crate::{
        access::{AccessRequest, Caller, Origin, Resource, Verb},
        operation::MAX_ROW_BYTES,
        testing::permit,
    };

    #[test]
    fn row_is_within_the_size_limit_for_texts_of_any_length() {
        let long = 64 << 10;
        for text in ["\"".repeat(long), "\u{1}".repeat(long), "写".repeat(long)] {
            let origin = Origin { source_ip: None, request_id: Some(text.clone()) };
            let caller = Caller::anonymous(text.as_str(), origin);
            let access = AccessRequest::to(Verb::Create, Resource::Cluster)
                .new_cluster(text.as_str())
                .named(text.as_str())
                .with("text", text.as_str());
            let operation = permit(&caller, access).operation().unwrap().clone();
            let outcome = Outcome {
                status: Status::Unknown,
                error_code: Some(text.clone()),
                details: Some(text.clone()),
                duration_ms: i64::MAX,
                finished_at: Timestamp::MAX,
            };
            let row = OperationRow::begun(i64::MAX, &operation).ended(&outcome.with_summary(&operation));
            let bytes = serde_json::to_string(&row).unwrap().len();
            assert!(bytes <= MAX_ROW_BYTES, "{:?}: {bytes} bytes", text.chars().next());
        }
    }

    #[test]
    fn operation_query_names_refused_parameters() {
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

//! The condition of an operation list that selects audited clusters and namespaces. SQLite limits the variables of a
//! statement and the depth of an expression, so each list is one variable, and the parts are a balanced expression.

use std::sync::Arc;

use diesel::{
    QueryResult,
    backend::Backend,
    expression::{AppearsOnTable, Expression, ValidGrouping, is_aggregate},
    pg::Pg,
    query_builder::{AstPass, QueryFragment, QueryId},
    serialize::ToSql,
    sql_types::{Bool, HasSqlType, Text},
    sqlite::Sqlite,
};
use pilothouse_core::{audit::AuditedClusters, namespaces::NamespacePattern};

use crate::schema::operations;

/// Condition: the operation is in one of these clusters, and in the audited namespaces of that cluster.
#[derive(Clone, Debug)]
pub(super) struct InAudited(Arc<[Part]>);

/// Clusters with the same audited namespaces. Each list is a text with commas.
#[derive(Debug)]
struct Part {
    clusters: String,
    /// `None`: all operations in the clusters.
    namespaces: Option<Namespaces>,
}

#[derive(Debug)]
struct Namespaces {
    names: String,
    /// LIKE patterns. Namespaces have only letters, digits and hyphens, so nothing is escaped.
    prefixes: String,
    /// Whether every name that does not begin with `kube-` is one of them.
    any: bool,
}

impl InAudited {
    pub(super) fn new(audited: &[AuditedClusters]) -> Self {
        Self(audited.iter().map(Part::of).collect())
    }
}

impl Part {
    fn of(audited: &AuditedClusters) -> Self {
        let clusters: Vec<_> = audited.clusters.iter().map(|id| id.0.to_string()).collect();
        let namespaces = audited.namespaces.as_ref().map(|set| {
            let (mut names, mut prefixes, mut any) = (Vec::new(), Vec::new(), false);
            for pattern in set.patterns() {
                match pattern {
                    NamespacePattern::Name(name) => names.push(name.to_string()),
                    NamespacePattern::Prefix(prefix) => prefixes.push(format!("{}%", prefix.as_str())),
                    NamespacePattern::Any => any = true,
                }
            }
            Namespaces { names: names.join(","), prefixes: prefixes.join(","), any }
        });
        Self { clusters: clusters.join(","), namespaces }
    }

    fn walk<'b, DB: Lists>(&'b self, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        str: ToSql<Text, DB>,
    {
        out.push_sql("(");
        push_list(DB::IN_CLUSTERS, &self.clusters, out)?;
        if let Some(Namespaces { names, prefixes, any }) = &self.namespaces {
            out.push_sql(" AND (");
            push_list(DB::IN_NAMES, names, out)?;
            out.push_sql(" OR ");
            push_list(DB::LIKE_ANY, prefixes, out)?;
            if *any {
                out.push_sql(" OR operations.namespace NOT LIKE 'kube-%'");
            }
            out.push_sql(")");
        }
        out.push_sql(")");
        Ok(())
    }
}

/// Conditions with a list, each as the SQL before and after the text of the list.
pub(super) trait Lists: Backend + HasSqlType<Text> {
    const IN_CLUSTERS: (&'static str, &'static str);
    const IN_NAMES: (&'static str, &'static str);
    const LIKE_ANY: (&'static str, &'static str);
}

impl Lists for Sqlite {
    // an empty text is a list of the empty name, which no namespace has
    const IN_CLUSTERS: (&'static str, &'static str) = (
        r#"operations.cluster_id IN (SELECT CAST(value AS bigint) FROM json_each('["' || replace("#,
        r#", ',', '","') || '"]'))"#,
    );
    const IN_NAMES: (&'static str, &'static str) = (
        r#"operations.namespace IN (SELECT value FROM json_each('["' || replace("#,
        r#", ',', '","') || '"]'))"#,
    );
    const LIKE_ANY: (&'static str, &'static str) = (
        r#"EXISTS (SELECT 1 FROM json_each('["' || replace("#,
        r#", ',', '","') || '"]') WHERE operations.namespace LIKE value)"#,
    );
}

impl Lists for Pg {
    const IN_CLUSTERS: (&'static str, &'static str) =
        ("operations.cluster_id = ANY(CAST(string_to_array(", ", ',') AS bigint[]))");
    const IN_NAMES: (&'static str, &'static str) =
        ("operations.namespace = ANY(string_to_array(", ", ','))");
    const LIKE_ANY: (&'static str, &'static str) =
        ("operations.namespace LIKE ANY(string_to_array(", ", ','))");
}

fn push_list<'b, DB: Lists>(
    (before, after): (&str, &str),
    list: &'b str,
    out: &mut AstPass<'_, 'b, DB>,
) -> QueryResult<()>
where
    str: ToSql<Text, DB>,
{
    out.push_sql(before);
    out.push_bind_param::<Text, str>(list)?;
    out.push_sql(after);
    Ok(())
}

/// Writes the disjunction of parts; its depth grows with the logarithm of their number.
fn push_any<'b, DB: Lists>(parts: &'b [Part], out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
where
    str: ToSql<Text, DB>,
{
    match parts {
        [] => out.push_sql("1 = 0"),
        [part] => part.walk(out)?,
        _ => {
            let (one, other) = parts.split_at(parts.len() / 2);
            out.push_sql("(");
            push_any(one, out)?;
            out.push_sql(" OR ");
            push_any(other, out)?;
            out.push_sql(")");
        }
    }
    Ok(())
}

impl<DB: Lists> QueryFragment<DB> for InAudited
where
    str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        push_any(&self.0, &mut out)
    }
}

impl QueryId for InAudited {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Expression for InAudited {
    type SqlType = Bool;
}

impl AppearsOnTable<operations::table> for InAudited {}

impl<GB> ValidGrouping<GB> for InAudited {
    type IsAggregate = is_aggregate::No;
}

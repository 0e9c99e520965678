//! Uncached lists: read from the cluster at each request, so each list contains all earlier writes. Used for a
//! credential that may list but not watch, or that is limited to a namespace, and for lists too large for the cache.

use futures_util::{future::try_join_all, join, try_join};
use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    inventory::{Join, ListInfo, ListOwner},
    kind::Kind,
    name::ObjectName,
    namespaces::{NamespacePattern, NamespaceScope},
    object::parse,
    rows::{ListQuery, Row, Table},
};
use serde_json::value::RawValue;

use crate::{client::ClusterClient, error::Failure, list, projection::Projection, workload::MetadataOnly};

/// Maximum number of names in a set of namespaces that is listed namespace by namespace.
const MAX_NAMES: usize = 20;
/// Number of namespaces of which one kind is listed at the same time.
const CONCURRENT_NAMESPACES: usize = 4;

/// The rows for `query`, not yet filtered by it, and warnings. Under a permit for a set of namespaces, these may be the
/// rows of all namespaces.
///
/// # Errors
/// As every call to a cluster; `NotFoundInCluster` when the owner in the query does not exist.
pub(crate) async fn rows(
    client: &ClusterClient<'_>,
    info: &ListInfo,
    projection: &Projection,
    query: &ListQuery,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let scope = client.permit().namespaces();
    let kinds = if query.kinds.is_empty() { info.kinds } else { &query.kinds[..] };
    let all_objects = ListParams::default();
    match (info.join, info.owner.zip(query.owner.as_ref())) {
        (Some(join), _) => {
            let rows = rows_of_kinds(client, kinds, scope, &all_objects, projection);
            let (rows, table) = try_join!(rows, joined_table(client, join))?;
            apply_join(rows, join, table, client.permit())
        }
        (None, Some((owner, name))) => rows_of_owner(client, kinds, scope, projection, owner, name).await,
        (None, None) => rows_of_kinds(client, kinds, scope, &all_objects, projection).await,
    }
}

/// Rows of several kinds, read concurrently.
async fn rows_of_kinds(
    client: &ClusterClient<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    selection: &ListParams,
    projection: &Projection,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let read = async |kind: Kind| match rows_of_kind(client, kind, scope, selection, projection).await {
        Ok(rows) => Ok((rows, None)),
        Err(absent) if is_not_served(&absent, kind) => {
            Ok((Vec::new(), Some(Warning::NotServed(kind.info().plural))))
        }
        Err(failure) => Err(Error::from(failure)),
    };
    let read = try_join_all(kinds.iter().copied().map(read)).await?;
    let (rows, warnings): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((rows.into_iter().flatten().collect(), warnings.into_iter().flatten().collect()))
}

/// Rows of one kind.
async fn rows_of_kind(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    projection: &Projection,
) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for scopes in scopes_of_calls(kind, scope).chunks(CONCURRENT_NAMESPACES) {
        let reads = scopes.iter().map(|scope| list::rows(client, kind, scope, selection, projection));
        rows.extend(try_join_all(reads).await?.into_iter().flatten());
    }
    Ok(rows)
}

/// The scopes of the LIST calls that read a kind in `scope`. A set of at most [`MAX_NAMES`] names is read namespace by
/// namespace, so that objects outside it count against no limit of the request. Any other set is read from all
/// namespaces.
fn scopes_of_calls(kind: Kind, scope: &NamespaceScope) -> Vec<NamespaceScope> {
    let names = match scope {
        NamespaceScope::Set(set) if kind.info().namespaced => set.patterns(),
        _ => &[],
    };
    let names = names.iter().map(|pattern| match pattern {
        NamespacePattern::Name(name) => Some(NamespaceScope::One(name.clone())),
        NamespacePattern::Prefix(_) | NamespacePattern::Any => None,
    });
    match names.collect::<Option<Vec<_>>>() {
        Some(names) if (1..=MAX_NAMES).contains(&names.len()) => names,
        _ => vec![scope.clone()],
    }
}

/// Whether the cluster lacks the kind's API group. Every cluster serves the core group; a server without it is not an
/// API server.
pub(crate) fn is_not_served(failure: &Failure, kind: Kind) -> bool {
    failure.is(StatusCode::NOT_FOUND) && !kind.info().group.is_empty()
}

/// Rows of one owner's objects, read concurrently with the check that the owner exists.
async fn rows_of_owner(
    client: &ClusterClient<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    projection: &Projection,
    ListOwner { kind, label, .. }: ListOwner,
    name: &ObjectName,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
    // namespaces outside a set may have objects of the same name, too
    let (owner_selection, set) = match scope {
        NamespaceScope::Set(set) => (by_name, Some(set.clone())),
        NamespaceScope::Unscoped | NamespaceScope::All | NamespaceScope::One(_) => (by_name.limit(1), None),
    };
    let is_owner = move |object: &RawValue| -> Result<Option<bool>> {
        let Some(set) = &set else { return Ok(Some(true)) };
        let MetadataOnly { metadata } = parse(object)?;
        Ok(metadata.namespace.is_some_and(|namespace| set.contains(&namespace)).then_some(true))
    };
    let owned_selection = ListParams::default().labels(&format!("{label}={name}"));
    let (owners, rows) = join!(
        list::first(client, kind, scope, &owner_selection, is_owner),
        rows_of_kinds(client, kinds, scope, &owned_selection, projection)
    );
    if owners?.is_empty() {
        return Err(owner_not_found(kind, scope, name));
    }
    rows
}

/// The error for a missing owner.
pub(crate) fn owner_not_found(kind: Kind, scope: &NamespaceScope, name: &ObjectName) -> Error {
    let absent = Error::new(Cause::NotFoundInCluster).resource(kind.info().singular).name(name.as_str());
    match scope.one() {
        Some(namespace) => absent.namespace(namespace.as_str()),
        None => absent,
    }
}

/// The rows of the joined list, and the namespaces in which the caller may list them; none if the caller or the
/// credential may not read them.
async fn joined_table<'a>(
    client: &ClusterClient<'a>,
    join: Join,
) -> Result<Option<(Table, &'a NamespaceScope)>> {
    let Some(namespaces) = client.permit().namespaces_of(join.kind())? else { return Ok(None) };
    let info = join.with.info();
    let projection = Projection::of_objects(info)?;
    let all_objects = ListParams::default();
    let mut rows_by_kind = Vec::new();
    for &kind in info.kinds {
        match rows_of_kind(client, kind, namespaces, &all_objects, &projection).await {
            Ok(rows) => rows_by_kind.push(rows),
            Err(refused) if refused.is(StatusCode::FORBIDDEN) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(Some((table_of(info, rows_by_kind), namespaces)))
}

/// A table of the rows of several kinds. Each kind is a source of its own, because the rows of a source replace the
/// earlier rows of the same source.
fn table_of(info: &ListInfo, rows_by_kind: Vec<Vec<Row>>) -> Table {
    let empty = Table::new(&(info.fields)());
    (0..).zip(rows_by_kind).fold(empty, |table, (source, rows)| table.replace_all(source, rows).0)
}

/// Adds the fields of the joined list. Without the joined list, the rows are returned unchanged, with a warning; with a
/// part of it, they have the part, with a warning.
fn apply_join(
    (rows, mut warnings): (Vec<Row>, Vec<Warning>),
    join: Join,
    joined: Option<(Table, &NamespaceScope)>,
    permit: &Permit,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    if joined.is_none() || !permit.is_complete_for(join.kind()) {
        warnings.push(unreadable(join));
    }
    let Some((table, namespaces)) = joined else { return Ok((rows, warnings)) };
    let rows = rows.iter().map(|row| (join.row)(row, &table, namespaces)).collect::<Result<_>>()?;
    Ok((rows, warnings))
}

/// The warning for a joined list that the caller or the credential may not read, or a part of it.
pub(crate) fn unreadable(join: Join) -> Warning {
    Warning::Unreadable(join.kind().info().plural)
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{inventory::List, namespaces::NamespaceSet};
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn joined_table_has_the_rows_of_every_kind() {
        let info = List::Workloads.info();
        let projection = Projection::of_objects(info).unwrap();
        let rows = |kind: Kind, name: &str| {
            let object = json!({"metadata": {"name": name, "namespace": "shop"}});
            projection.rows(kind, &to_raw_value(&object).unwrap()).unwrap()
        };
        let table = table_of(info, vec![rows(Kind::Deployment, "web"), rows(Kind::StatefulSet, "db")]);
        let names: Vec<_> = table.rows().map(Row::name).collect();
        assert_eq!(names, ["db", "web"]);
    }

    #[test]
    fn only_a_set_of_few_names_is_read_by_namespace() {
        let set = |patterns: &[String]| {
            let parse = |text: &String| NamespacePattern::parse(text).unwrap();
            NamespaceScope::Set(NamespaceSet::new(patterns.iter().map(parse)))
        };
        let names = |count: usize| (0..count).map(|i| format!("team{i}")).collect::<Vec<_>>();
        let calls = |kind: Kind, scope: &NamespaceScope| scopes_of_calls(kind, scope);
        for count in [1, 2, MAX_NAMES] {
            let scope = set(&names(count));
            let scopes = calls(Kind::Pod, &scope);
            assert_eq!(scopes.len(), count);
            assert!(
                scopes.iter().all(|part| part.one().is_some_and(|name| scope.contains(Some(name.as_str()))))
            );
            assert_eq!(
                calls(Kind::Namespace, &scope),
                std::slice::from_ref(&scope),
                "namespaces have no namespace"
            );
        }
        let with_prefix = [names(2), vec!["shop-*".to_owned()]].concat();
        let whole =
            [set(&names(MAX_NAMES + 1)), set(&with_prefix), NamespaceScope::All, NamespaceScope::Unscoped];
        for scope in whole {
            assert_eq!(calls(Kind::Pod, &scope), std::slice::from_ref(&scope));
        }
    }
}

//! Lists read from the cluster at each request: what was just changed is in the next one, by nature. The way for a
//! credential that may list and not watch, for one that is confined to a namespace, and for lists too large to be kept.

use futures_util::{future::try_join_all, join, try_join};
use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    gate::Warning,
    inventory::{Join, ListInfo, ListQuery, Owner, Project, Row, Table},
    kind::Kind,
    name::{NamespaceScope, ObjectName},
};
use serde_json::value::RawValue;

use crate::{client::ClusterClient, error::Failure, list};

/// The rows that `query` is about, not yet filtered by it, and what should be known of them.
///
/// # Errors
/// As every call to a cluster; `NotFoundInCluster` without the owner asked for.
pub(crate) async fn rows(
    client: &ClusterClient<'_>,
    info: &ListInfo,
    scope: &NamespaceScope,
    query: &ListQuery,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let project = projection(info)?;
    let kinds = if query.kinds.is_empty() { info.kinds } else { &query.kinds[..] };
    let everything = ListParams::default();
    match (info.join, info.owner.zip(query.owner.as_ref())) {
        (Some(join), _) => {
            let rows = merged(client, kinds, scope, &everything, project);
            let (rows, with) = try_join!(rows, with(client, join))?;
            joined(rows, join, with)
        }
        (None, Some((owner, name))) => owned(client, kinds, scope, project, owner, name).await,
        (None, None) => merged(client, kinds, scope, &everything, project).await,
    }
}

/// How a list's objects become rows.
///
/// # Errors
/// `Internal` when it is none of a cluster.
pub(crate) fn projection(info: &ListInfo) -> Result<Project> {
    info.project.ok_or_else(|| Error::internal("this list is not a list of cluster objects"))
}

/// Rows of several kinds, read side by side.
async fn merged(
    client: &ClusterClient<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    selection: &ListParams,
    project: Project,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let rows = |kind: Kind| move |object: &RawValue| project(kind, object);
    let read = async |kind: Kind| match list::all(client, kind, scope, selection, rows(kind)).await {
        Ok(listed) => Ok((listed.objects, None)),
        Err(absent) if is_not_served(&absent, kind) => {
            Ok((Vec::new(), Some(Warning::NotServed(kind.info().plural))))
        }
        Err(failure) => Err(Error::from(failure)),
    };
    let read = try_join_all(kinds.iter().copied().map(read)).await?;
    let (rows, warnings): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((rows.into_iter().flatten().collect(), warnings.into_iter().flatten().collect()))
}

/// Whether the cluster lacks the kind's API group. Every cluster serves the core group: without it this is none.
pub(crate) fn is_not_served(failure: &Failure, kind: Kind) -> bool {
    failure.is(StatusCode::NOT_FOUND) && !kind.info().group.is_empty()
}

/// Rows of one owner's objects, read while the owner is looked for: it may have none, but must exist.
async fn owned(
    client: &ClusterClient<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    project: Project,
    Owner { kind, label, .. }: Owner,
    name: &ObjectName,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let itself = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
    let its = ListParams::default().labels(&format!("{label}={name}"));
    let (owners, rows) = join!(
        list::first(client, kind, scope, &itself, |_| Ok(Some(true))),
        merged(client, kinds, scope, &its, project)
    );
    if owners?.is_empty() {
        return Err(no_owner(kind, scope, name));
    }
    rows
}

/// That a list's owner does not exist.
pub(crate) fn no_owner(kind: Kind, scope: &NamespaceScope, name: &ObjectName) -> Error {
    let absent = Error::new(Cause::NotFoundInCluster).resource(kind.info().singular).name(name.as_str());
    match scope {
        NamespaceScope::One(namespace) => absent.namespace(namespace.as_str()),
        NamespaceScope::All => absent,
    }
}

/// The rows of the list that tells the rest; none without the right to read them.
async fn with(client: &ClusterClient<'_>, join: Join) -> Result<Option<Table>> {
    let info = join.with.info();
    let project = projection(info)?;
    let everything = ListParams::default();
    let mut table = Table::new(info);
    for &kind in info.kinds {
        let row = move |object: &RawValue| project(kind, object);
        match list::all(client, kind, &NamespaceScope::All, &everything, row).await {
            Ok(listed) => table = table.replace_all(0, listed.objects).0,
            Err(refused) if refused.is(StatusCode::FORBIDDEN) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(Some(table))
}

/// The rows with what the other list tells; without it, as they are, and a warning.
fn joined(
    (rows, mut warnings): (Vec<Row>, Vec<Warning>),
    join: Join,
    with: Option<Table>,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let Some(with) = with else {
        warnings.push(unreadable(join));
        return Ok((rows, warnings));
    };
    let rows = rows.iter().map(|row| (join.row)(row, &with)).collect::<Result<_>>()?;
    Ok((rows, warnings))
}

/// What is said when the credential may not read what a row shows of other objects.
pub(crate) fn unreadable(join: Join) -> Warning {
    Warning::Unreadable(join.with.info().kinds.first().map_or("", |kind| kind.info().plural))
}

//! [`Inventory`] by direct LISTs: what was just changed is in the next list, by nature.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::{future::try_join_all, join, try_join};
use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Result,
    access::Permit,
    error::{Cause, Error},
    gate::Warning,
    inventory::{Inventory, List, ListQuery, Listing, Owner, Project, Related, Row, select},
    kind::Kind,
    name::{NamespaceScope, ObjectName},
    namespace::ResourceQuota,
    object::parse,
    pod::PodObject,
};
use serde_json::value::RawValue;

use crate::{KubeClusters, error::Failure, list, visit::Visit};

#[async_trait]
impl Inventory for KubeClusters {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        let info = list.info();
        let project = info.project.ok_or_else(|| Error::internal("this list is not a cluster's"))?;
        let kinds = if query.kinds.is_empty() { info.kinds } else { &query.kinds[..] };
        let visit = self.visit(permit, self.deadlines().read).await?;
        let as_of = self.now();
        let (rows, warnings) = match kinds {
            [kind @ Kind::Namespace] => {
                joined(&visit, *kind, project, Kind::ResourceQuota, quotas(&visit)).await?
            }
            [kind @ Kind::Node] => joined(&visit, *kind, project, Kind::Pod, pods_on_nodes(&visit)).await?,
            _ => match info.owner.zip(query.owner.as_ref()) {
                Some((owner, name)) => {
                    owned(&visit, kinds, permit.namespaces(), project, owner, name).await?
                }
                None => merged(&visit, kinds, permit.namespaces(), &ListParams::default(), project).await?,
            },
        };
        let (rows, pagination) = select(rows, query);
        Ok(Listing { rows, pagination, as_of, stale: false, warnings })
    }
}

/// Rows of several kinds, read side by side.
async fn merged(
    visit: &Visit<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    selection: &ListParams,
    project: Project,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let unrelated = Related::default();
    let read = |kind| {
        let unrelated = &unrelated;
        async move {
            let row = |object: &RawValue| project(kind, object, unrelated);
            match list::all(visit, kind, scope, selection, row).await {
                Ok(rows) => Ok((rows, None)),
                // every cluster serves the core group: without it this is none
                Err(absent) if absent.is(StatusCode::NOT_FOUND) && !kind.info().group.is_empty() => {
                    Ok((Vec::new(), Some(Warning::NotServed(kind.info().plural))))
                }
                Err(failure) => Err(Error::from(failure)),
            }
        }
    };
    let read = try_join_all(kinds.iter().copied().map(read)).await?;
    let (rows, warnings): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((rows.into_iter().flatten().collect(), warnings.into_iter().flatten().collect()))
}

/// Rows of one owner's objects, read while the owner is looked for: it may have none, but must exist.
async fn owned(
    visit: &Visit<'_>,
    kinds: &[Kind],
    scope: &NamespaceScope,
    project: Project,
    Owner { kind, label }: Owner,
    name: &ObjectName,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let itself = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
    let its = ListParams::default().labels(&format!("{label}={name}"));
    let (owners, rows) =
        join!(list::first(visit, kind, scope, &itself), merged(visit, kinds, scope, &its, project));
    if owners?.is_empty() {
        let mut absent =
            Error::new(Cause::NotFoundInCluster).resource(kind.info().singular).name(name.as_str());
        if let NamespaceScope::One(namespace) = scope {
            absent = absent.namespace(namespace.as_str());
        }
        return Err(absent);
    }
    rows
}

/// Rows of a kind without namespaces and what is told of each by objects of another kind, read side by side. Without
/// the right to read those, without what they tell.
async fn joined(
    visit: &Visit<'_>,
    kind: Kind,
    project: Project,
    told_by: Kind,
    related: impl Future<Output = Result<Related, Failure>>,
) -> Result<(Vec<Row>, Vec<Warning>)> {
    let everything = ListParams::default();
    let whole = |object: &RawValue| Ok(Some(object.to_owned()));
    let objects = list::all(visit, kind, &NamespaceScope::All, &everything, whole);
    let related = async {
        match related.await {
            Ok(related) => Ok((related, None)),
            Err(refused) if refused.is(StatusCode::FORBIDDEN) => {
                Ok((Related::default(), Some(Warning::Unreadable(told_by.info().plural))))
            }
            Err(failure) => Err(failure),
        }
    };
    let (objects, (related, warning)) = try_join!(objects, related)?;
    let rows = objects.iter().map(|object| project(kind, object, &related)).collect::<Result<Vec<_>>>()?;
    Ok((rows.concat(), warning.into_iter().collect()))
}

async fn quotas(visit: &Visit<'_>) -> Result<Related, Failure> {
    let quota = |object: &RawValue| parse::<ResourceQuota>(object).map(Some);
    let everything = ListParams::default();
    let mut related = Related::default();
    for quota in list::all(visit, Kind::ResourceQuota, &NamespaceScope::All, &everything, quota).await? {
        let namespace = quota.metadata.namespace.clone().unwrap_or_default();
        related.quotas.entry(namespace).or_default().push(quota);
    }
    Ok(related)
}

/// The pods that take up room on each node; those that ended do not, as `kubectl describe node` counts.
async fn pods_on_nodes(visit: &Visit<'_>) -> Result<Related, Failure> {
    let node = |pod: &RawValue| Ok(parse::<PodObject>(pod)?.spec.node_name);
    let living = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut counts = BTreeMap::new();
    for node in list::all(visit, Kind::Pod, &NamespaceScope::All, &living, node).await? {
        *counts.entry(node).or_default() += 1;
    }
    Ok(Related { pods_on: Some(counts), ..Related::default() })
}

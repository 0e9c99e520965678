//! [`DependentApi`]: reads the owners of objects.

use async_trait::async_trait;
use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Result,
    access::Permit,
    dependents::{Dependee, DependentApi, OwnedObject},
    kind::Kind,
    name::ObjectName,
    namespaces::NamespaceScope,
};
use serde_json::value::RawValue;

use crate::{
    KubeClusters,
    client::ClusterClient,
    error::Failure,
    list::{self, Size},
};

#[async_trait]
impl DependentApi for KubeClusters {
    async fn dependee(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Dependee>> {
        let kind = permit.kind()?;
        let scope = NamespaceScope::One(permit.namespace()?.clone());
        let client = self.client(permit, self.deadlines().read).await?;
        // a list, so that the permission to list the kind suffices
        let selection = ListParams::default().fields(&format!("metadata.name={name}"));
        let project = move |object: &RawValue| Dependee::project(kind, object);
        let found = if kind == Kind::StatefulSet {
            let project = move |object: &RawValue| project(object).map(Some);
            list::first(&client, kind, &scope, &selection, project).await
        } else {
            list::all_metadata(&client, kind, &scope, &selection, project).await
        };
        Ok(found?.into_iter().next())
    }

    async fn owned_objects(&self, permit: &Permit) -> Result<Option<Vec<OwnedObject>>> {
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let client = self.client(permit, self.deadlines().read).await?;
        client.meter().begin(format!("owners of {kind} in {namespace}"))?;
        let scope = NamespaceScope::One(namespace.clone());
        let read = loop {
            let read = owned_objects(&client, kind, &scope).await;
            if !client.restart(read.as_ref().err().map(|failure| failure.error.cause)).await? {
                break read;
            }
        };
        match read {
            Ok(objects) => Ok(Some(objects)),
            Err(refused) if refused.is(StatusCode::FORBIDDEN) => Ok(None),
            // the cluster does not serve the kind any more
            Err(absent) if absent.is(StatusCode::NOT_FOUND) => Ok(Some(Vec::new())),
            // the API server of a custom kind is down, or does not list metadata alone
            Err(failure) if is_aggregated(kind) && failure.code.is_some() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Whether another server than the API server may serve a kind.
fn is_aggregated(kind: Kind) -> bool {
    matches!(kind, Kind::Dynamic(_))
}

async fn owned_objects(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
) -> Result<Vec<OwnedObject>, Failure> {
    list::all_metadata(client, kind, scope, &ListParams::default(), OwnedObject::project).await
}

impl Size for OwnedObject {
    fn size(&self) -> usize {
        let owners = self.owners.iter().map(|owner| size_of::<String>() + owner.len()).sum::<usize>();
        size_of::<Self>() + self.uid.len() + self.name.len() + owners
    }
}

impl Size for Dependee {
    fn size(&self) -> usize {
        let claims = self.retained_claims.iter().map(|claim| size_of::<String>() + claim.len());
        size_of::<Self>() + self.uid.len() + claims.sum::<usize>()
    }
}

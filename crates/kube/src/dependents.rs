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
            Err(failure) => Err(failure.into()),
        }
    }
}

async fn owned_objects(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
) -> Result<Vec<OwnedObject>, Failure> {
    let selection = ListParams::default();
    let mut objects = if kind == Kind::StatefulSet {
        let project = |object: &RawValue| OwnedObject::project_stateful_set(object).map(Some);
        list::all(client, kind, scope, &selection, project).await?.objects
    } else {
        list::all_metadata(client, kind, scope, &selection, OwnedObject::project).await?
    };
    // the objects are kept until all kinds are read; most have no owner
    objects.retain(|object| !object.owners.is_empty() || kind == Kind::PersistentVolumeClaim);
    objects.shrink_to_fit();
    Ok(objects)
}

impl Size for OwnedObject {
    fn size(&self) -> usize {
        let texts = self.owners.iter().chain(&self.retained_claims);
        let texts = texts.map(|text| size_of::<String>() + text.len()).sum::<usize>();
        size_of::<Self>() + self.uid.len() + self.name.len() + texts
    }
}

impl Size for Dependee {
    fn size(&self) -> usize {
        let claims = self.retained_claims.iter().map(|claim| size_of::<String>() + claim.len());
        size_of::<Self>() + self.uid.len() + claims.sum::<usize>()
    }
}

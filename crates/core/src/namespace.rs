//! Namespaces: rows with their quota, creating, deleting, and the ones that are never deleted.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::{Cause, Error, Result},
    gate::{Changed, Gate},
    inventory::{Cell, Field, Filter, ListRow, Row, Table},
    kind::Kind,
    name::Namespace,
    object::{Labels, Metadata, or_default},
    quota::{QuotaRow, QuotaSummary},
};

/// Kubernetes' own namespaces; deleting one breaks the cluster, and the API server refuses some of them itself.
pub const PROTECTED: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What we read of a Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    #[serde(deserialize_with = "or_default")]
    pub(crate) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    phase: Option<String>,
}

/// A namespace as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NamespaceRow {
    /// Its name.
    pub name: String,
    /// `Active` or `Terminating`.
    pub status: String,
    /// Its quotas, merged; null without any.
    pub resource_quota: Option<QuotaSummary>,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl NamespaceRow {
    /// Projects a Namespace; its quotas are other objects.
    pub fn project(object: NamespaceObject) -> Self {
        let NamespaceObject { metadata, status } = object;
        let terminating = metadata.deletion_timestamp.is_some();
        Self {
            resource_quota: None,
            status: status
                .phase
                .unwrap_or_else(|| if terminating { "Terminating" } else { "Active" }.to_owned()),
            name: metadata.name,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }

    /// The row with the quotas that are its own among these.
    ///
    /// # Errors
    /// `Internal` when they are no quotas.
    pub fn with_quotas(self, quotas: &Table) -> Result<Self> {
        let its = quotas.rows_in(&self.name).map(Row::parse).collect::<Result<Vec<QuotaRow>>>()?;
        Ok(Self { resource_quota: QuotaSummary::merge(&its), ..self })
    }
}

impl ListRow for NamespaceRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::filtered("status", Filter::OneOf(&["Active", "Terminating"]), |row: &Self| {
            Cell::text(&*row.status)
        })
        .counted(),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

/// Changes namespaces in the permit's cluster.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NamespaceApi: Send + Sync {
    /// Creates the permit's namespace.
    ///
    /// # Errors
    /// `AlreadyExists`; `NamespaceTerminating` while one of that name is being deleted; else as every call to a cluster.
    async fn create(&self, permit: &Permit, labels: &Labels) -> Result<NamespaceRow>;

    /// Asks for the deletion of the permit's namespace; it goes on in the background.
    ///
    /// # Errors
    /// `NotFoundInCluster`; else as every call to a cluster.
    async fn delete(&self, permit: &Permit) -> Result<()>;
}

/// Creates and deletes namespaces.
#[derive(Clone)]
pub struct Namespaces {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn NamespaceApi>,
}

impl Namespaces {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn NamespaceApi>) -> Self {
        Self { gate, api }
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`NamespaceApi::create`].
    pub async fn create(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        labels: Labels,
    ) -> Result<Changed<NamespaceRow>> {
        let api = self.api.clone();
        let access = access(Verb::Create, cluster, namespace);
        self.gate
            .change(caller, access, async move |permit| Ok(api.create(&permit, &labels).await?.into()))
            .await
    }

    /// Deletes a namespace and all that is in it.
    ///
    /// # Errors
    /// `ProtectedNamespace`; else as [`Gate::change`] and [`NamespaceApi::delete`].
    pub async fn delete(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
    ) -> Result<Changed<()>> {
        let access = access(Verb::Delete, cluster, namespace);
        if PROTECTED.contains(&namespace.as_str()) {
            let refusal =
                Error::new(Cause::ProtectedNamespace).resource("namespace").name(namespace.as_str());
            return self.gate.refuse(caller, access, refusal).await;
        }
        let api = self.api.clone();
        self.gate.change(caller, access, async move |permit| Ok(api.delete(&permit).await?.into())).await
    }
}

/// A namespace operation has both a name and a namespace.
fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace) -> AccessRequest {
    AccessRequest::to(verb, Resource::Kind(Kind::Namespace))
        .in_cluster(cluster)
        .in_namespace(namespace)
        .named(namespace.as_str())
}

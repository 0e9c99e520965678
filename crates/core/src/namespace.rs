//! Namespaces: rows with their quota, creating, deleting, and the ones that are never deleted.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{Access, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::{Cause, Error, Result},
    gate::{Changed, Gate},
    inventory::{Cell, Field, Filter, ListRow, Related},
    kind::Kind,
    name::Namespace,
    object::{Labels, Metadata, or_default},
    quantity,
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

/// What we read of a ResourceQuota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: QuotaStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct QuotaStatus {
    #[serde(deserialize_with = "or_default")]
    hard: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    used: BTreeMap<String, String>,
}

/// The quotas of a namespace, merged: of several limits on one resource the smallest counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaSummary {
    /// The names of the ResourceQuotas.
    pub names: Vec<String>,
    /// Resource to limit, as Kubernetes writes quantities.
    pub hard: BTreeMap<String, String>,
    /// Resource to use, of the quota whose limit counts.
    pub used: BTreeMap<String, String>,
}

impl QuotaSummary {
    /// Merges quotas; none without any.
    pub fn merge(quotas: &[ResourceQuota]) -> Option<Self> {
        let mut names: Vec<_> = quotas.iter().map(|quota| quota.metadata.name.clone()).collect();
        names.sort_unstable();
        let mut summary = Self { names, hard: BTreeMap::new(), used: BTreeMap::new() };
        for QuotaStatus { hard, used } in quotas.iter().map(|quota| &quota.status) {
            for (resource, limit) in hard {
                let smaller = match summary.hard.entry(resource.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(limit.clone());
                        true
                    }
                    Entry::Occupied(mut entry) => {
                        let smaller = quantity::parse(limit) < quantity::parse(entry.get());
                        if smaller {
                            entry.insert(limit.clone());
                        }
                        smaller
                    }
                };
                if smaller {
                    let used = used.get(resource).map_or("0", String::as_str);
                    summary.used.insert(resource.clone(), used.to_owned());
                }
            }
        }
        (!quotas.is_empty()).then_some(summary)
    }
}

/// A namespace as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Projects a Namespace; its quotas are related objects.
    pub fn project(object: NamespaceObject, related: &Related) -> Self {
        let NamespaceObject { metadata, status } = object;
        let terminating = metadata.deletion_timestamp.is_some();
        let quotas = related.quotas.get(&metadata.name).map_or(&[][..], Vec::as_slice);
        Self {
            resource_quota: QuotaSummary::merge(quotas),
            status: status
                .phase
                .unwrap_or_else(|| if terminating { "Terminating" } else { "Active" }.to_owned()),
            name: metadata.name,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

impl ListRow for NamespaceRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::filtered("status", Filter::OneOf(&["Active", "Terminating"]), |row| Cell::text(&*row.status)),
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
fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace) -> Access {
    Access::to(verb, Resource::Kind(Kind::Namespace))
        .in_cluster(cluster)
        .in_namespace(namespace)
        .named(namespace.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(name: &str, hard: &[(&str, &str)], used: &[(&str, &str)]) -> ResourceQuota {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ResourceQuota {
            metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
            status: QuotaStatus { hard: map(hard), used: map(used) },
        }
    }

    #[test]
    fn of_several_quotas_the_smallest_limit_counts() {
        assert_eq!(QuotaSummary::merge(&[]), None);
        let summary = QuotaSummary::merge(&[
            quota("b", &[("pods", "10"), ("requests.cpu", "1")], &[("pods", "3"), ("requests.cpu", "100m")]),
            quota("a", &[("pods", "9"), ("requests.cpu", "1500m")], &[("pods", "4")]),
        ])
        .unwrap();
        assert_eq!(summary.names, ["a", "b"]);
        assert_eq!((summary.hard["pods"].as_str(), summary.used["pods"].as_str()), ("9", "4"));
        assert_eq!(
            (summary.hard["requests.cpu"].as_str(), summary.used["requests.cpu"].as_str()),
            ("1", "100m")
        );
    }
}

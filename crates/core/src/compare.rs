//! Comparison of one workload in several clusters: images, replicas, resources, environment, probes, and the contents of
//! the ConfigMaps that it uses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream,
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    config::{ConfigApi, ConfigMapDetail},
    error::{Cause, Error, Result},
    gate::{ClusterPermits, Gate},
    ids::ClusterId,
    inventory::ClusterResultStatus,
    kind::Kind,
    manifest::{mask, read_manifest},
    mask::{MaskedFields, sees_masked_values},
    name::ObjectName,
    secret::ValueDigest,
    spawn::Spawner,
    workload::WorkloadRef,
};

mod fields;

use fields::{Fields, compare};

/// Maximum time that a response waits for clusters.
const DEADLINE: Duration = Duration::from_secs(2);
/// Number of clusters that are read at the same time.
const CONCURRENT_CLUSTERS: usize = 8;
/// Maximum number of ConfigMaps that are read in one cluster: the first by name.
const MAX_CONFIG_MAPS: usize = 20;

/// Port: reads the objects that are compared, in the permit's cluster, kind and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait CompareApi: Send + Sync {
    /// Returns a workload in the API server's JSON; `None` if it does not exist.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>>;
}

/// Comparison of a workload in several clusters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Comparison {
    /// The fields that the workload has in at least one cluster, by path.
    pub fields: Vec<ComparedField>,
    /// The clusters that were read and do not have the workload.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<i64>))]
    pub missing: Vec<ClusterId>,
    /// All clusters in which the caller has a right, or those that the request names, ordered by id.
    pub clusters: Vec<ComparedCluster>,
}

/// A field in several clusters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ComparedField {
    /// Its path: `replicas`, `containers/app/image`, `containers/app/env/MODE`, `config/settings`.
    pub path: String,
    /// Its value by id of each cluster that has the workload; null if the field is not set. The value of `config/…` is a
    /// digest of the ConfigMap's contents. A masked value is `***`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub values: BTreeMap<String, Value>,
    /// Whether the values are the same in all these clusters, masked ones included.
    pub same: bool,
}

/// A cluster's part of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ComparedCluster {
    /// The cluster's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// `ok`, `pending` if it did not answer in time, or `error`.
    pub status: ClusterResultStatus,
    /// Error code if the cluster could not be read.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error_code: Option<&'static str>,
    /// Whether the caller may list workloads of this type there.
    pub complete: bool,
    /// Kinds that could not be read and are missing in the comparison: `configmaps`.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub unreadable: Vec<&'static str>,
}

/// Use case: comparing a workload in several clusters.
#[derive(Clone)]
pub struct Compare {
    gate: Gate,
    api: Arc<dyn CompareApi>,
    configs: Arc<dyn ConfigApi>,
    digest: Arc<dyn ValueDigest>,
    spawner: Arc<dyn Spawner>,
    masked_fields: MaskedFields,
}

/// What one cluster has.
struct Found {
    /// The fields of the workload; `None` if it does not exist.
    fields: Option<Fields>,
    unreadable: Vec<&'static str>,
}

impl Compare {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(
        gate: Gate,
        api: Arc<dyn CompareApi>,
        configs: Arc<dyn ConfigApi>,
        digest: Arc<dyn ValueDigest>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        Self { gate, api, configs, digest, spawner, masked_fields: MaskedFields::default() }
    }

    /// Sets the fields that are masked besides literal values of environment variables.
    #[must_use]
    pub fn with_masked_fields(self, masked_fields: MaskedFields) -> Self {
        Self { masked_fields, ..self }
    }

    /// Compares a workload in these clusters; without any, in all clusters in which the caller has a right. A value is
    /// masked where the details of the workload would mask it ([`crate::workload::Workloads::detail`]).
    ///
    /// # Errors
    /// `RoleTooLow` or `NotFound`, as [`Gate::allow`], for one of these clusters; `StoreUnavailable`. An error of a
    /// cluster is part of the result.
    pub async fn compare(
        &self,
        caller: &Caller,
        workload: &WorkloadRef,
        clusters: &[ClusterId],
    ) -> Result<Comparison> {
        let to_list =
            |kind| AccessRequest::to(Verb::List, Resource::Kind(kind)).in_namespace(&workload.namespace);
        let kind = workload.kind.kind();
        for id in clusters {
            self.gate.allow(caller, to_list(kind).in_cluster(*id)).await?;
        }
        let reads = [to_list(kind), to_list(Kind::ConfigMap)];
        let mut all = self.gate.allow_in_all_clusters(caller, &reads).await?;
        all.retain(|part| clusters.is_empty() || clusters.contains(&part.cluster));

        let mut parts = Vec::with_capacity(all.len());
        let mut requests = Vec::with_capacity(all.len());
        for (index, ClusterPermits { cluster, name, permits }) in all.into_iter().enumerate() {
            let mut permits = permits.into_iter();
            let (own, config) = (permits.next().flatten(), permits.next().flatten());
            parts.push(ComparedCluster {
                id: cluster,
                name,
                status: ClusterResultStatus::Ok,
                error_code: None,
                complete: own.is_some(),
                unreadable: Vec::new(),
            });
            if let Some(own) = own {
                let sees_all = sees_masked_values(caller, kind, cluster, &workload.namespace);
                let read = self.clone().read(own, config, workload.clone(), sees_all);
                requests.push(read.map(move |found| (index, found)).boxed());
            }
        }
        let mut found = self.run_all(requests, parts.len()).await;
        for (part, found) in parts.iter_mut().zip(&found) {
            (part.status, part.error_code) = match found {
                _ if !part.complete => (ClusterResultStatus::Ok, None),
                None => (ClusterResultStatus::Pending, None),
                Some(Ok(_)) => (ClusterResultStatus::Ok, None),
                Some(Err(error)) => (ClusterResultStatus::Error, Some(error.code().as_str())),
            };
        }
        let (mut missing, mut with_workload) = (Vec::new(), Vec::new());
        for (part, found) in parts.iter_mut().zip(found.iter_mut()) {
            let Some(Ok(Found { fields, unreadable })) = found else { continue };
            part.unreadable = std::mem::take(unreadable);
            match fields.take() {
                Some(fields) => with_workload.push((part.id, fields)),
                None => missing.push(part.id),
            }
        }
        Ok(Comparison { fields: compare(&with_workload), missing, clusters: parts })
    }

    /// Runs the reads, a few at the same time. `None` at an index whose read did not end in time, or that has none.
    async fn run_all(
        &self,
        requests: Vec<BoxFuture<'static, (usize, Result<Found>)>>,
        count: usize,
    ) -> Vec<Option<Result<Found>>> {
        let mut found: Vec<_> = (0..count).map(|_| None).collect();
        let mut running = stream::iter(requests).buffer_unordered(CONCURRENT_CLUSTERS);
        let mut deadline = self.spawner.sleep(DEADLINE);
        while let Either::Left((Some((index, result)), _)) = select(running.next(), &mut deadline).await {
            found[index] = Some(result);
        }
        found
    }

    /// Reads the workload of one cluster, and the ConfigMaps that it uses if `config` permits it.
    async fn read(
        self,
        own: Permit,
        config: Option<Permit>,
        workload: WorkloadRef,
        sees_all: bool,
    ) -> Result<Found> {
        let Some(object) = self.api.workload(&own, &workload.name).await? else {
            return Ok(Found { fields: None, unreadable: Vec::new() });
        };
        let plain = read_manifest(&object)?;
        let mut shown = plain.clone();
        if !sees_all {
            mask(&mut shown, &self.masked_fields);
        }
        let names = fields::config_maps(workload.kind, &plain);
        let mut fields = Fields::of(workload.kind, &shown, &plain);
        let digests = self.digests(config.as_ref(), &workload, &names).await?;
        let unreadable = if digests.is_some() { Vec::new() } else { vec![Kind::ConfigMap.info().plural] };
        for (name, digest) in digests.into_iter().flatten() {
            fields.insert(&format!("config/{name}"), digest);
        }
        Ok(Found { fields: Some(fields), unreadable })
    }

    /// Digests of ConfigMaps, null for one that does not exist; `None` if the caller or the credential may not read them.
    async fn digests(
        &self,
        permit: Option<&Permit>,
        workload: &WorkloadRef,
        names: &[ObjectName],
    ) -> Result<Option<Vec<(ObjectName, Value)>>> {
        let names = &names[..names.len().min(MAX_CONFIG_MAPS)];
        let Some(permit) = permit.filter(|_| !names.is_empty()) else {
            return Ok(names.is_empty().then(Vec::new));
        };
        let mut digests = Vec::with_capacity(names.len());
        for name in names {
            match self.configs.get_configmap(permit, name).await {
                Ok(found) => {
                    let digest = found.map(|found| self.digest(workload, name, &found)).transpose()?;
                    digests.push((name.clone(), digest.map_or(Value::Null, Value::from)));
                }
                Err(error) if error.cause == Cause::ForbiddenByCluster => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(digests))
    }

    /// Keyed digest of the contents of a ConfigMap, the same in all clusters.
    fn digest(&self, workload: &WorkloadRef, name: &ObjectName, found: &ConfigMapDetail) -> Result<String> {
        let contents = serde_json::to_vec(&(&found.data, &found.binary_data))
            .map_err(|error| Error::internal(format!("serialise a ConfigMap: {error}")))?;
        let path = ["compare", workload.namespace.as_str(), name.as_str()];
        Ok(self.digest.digest(&path, &contents).to_string())
    }
}

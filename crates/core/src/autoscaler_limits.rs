//! Limits of a HorizontalPodAutoscaler: the smallest and the largest number of replicas.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    autoscaler::AutoscalerRow,
    change_reason::ChangeReason,
    error::{Error, Reason, Result},
    gate::{Changed, Gate},
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
    object::check_opaque,
    workload::Replicas,
};

/// New limits of an autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerLimits {
    /// Smallest number of replicas, at least 1.
    pub min: Replicas,
    /// Largest number of replicas.
    pub max: Replicas,
    /// The resource version that the caller read. If the autoscaler has another one, the update is a conflict.
    pub resource_version: Option<String>,
}

impl AutoscalerLimits {
    fn check(&self) -> Result<()> {
        let Self { min, max, resource_version } = self;
        if min.get() < 1 {
            return Err(Error::invalid("min", Reason::OutOfRange));
        }
        if max.get() < min.get() {
            return Err(Error::invalid("max", Reason::OutOfRange));
        }
        resource_version.as_deref().map_or(Ok(()), |text| check_opaque("resource_version", text))
    }
}

/// Port: changes autoscalers in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AutoscalerApi: Send + Sync {
    /// Sets the limits of an autoscaler. With the warning `Unchanged` if they are as requested.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `Modified` if its resource version is not that of the limits, or if its limits are changed
    /// between read and write; and the errors of every call to a cluster.
    async fn limit_autoscaler(
        &self,
        permit: &Permit,
        name: &ObjectName,
        limits: &AutoscalerLimits,
    ) -> Result<Changed<AutoscalerRow>>;
}

/// Use case: setting the limits of autoscalers.
#[derive(Clone)]
pub struct Autoscalers {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn AutoscalerApi>,
}

impl Autoscalers {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn AutoscalerApi>) -> Self {
        Self { gate, api }
    }

    /// Sets the limits of an autoscaler. It takes the right to scale workloads.
    ///
    /// # Errors
    /// `InvalidInput` for a smallest number below 1 or above the largest; otherwise as [`Gate::change`] and
    /// [`AutoscalerApi::limit_autoscaler`].
    pub async fn update(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
        limits: AutoscalerLimits,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<AutoscalerRow>> {
        limits.check()?;
        let kind = Kind::HorizontalPodAutoscaler;
        let access = AccessRequest::to_object(Verb::Scale, kind, cluster, namespace, name.as_str());
        let access = access.with("min", limits.min.get()).with("max", limits.max.get()).because(reason);
        let api = self.api.clone();
        let work = async move |permit: Permit| api.limit_autoscaler(&permit, &name, &limits).await;
        self.gate.change(caller, access, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_number_is_at_least_one_and_at_most_the_largest() {
        let check = |min: i64, max: i64, version: Option<&str>| {
            let [min, max] = [min, max].map(|number| Replicas::try_from(number).unwrap());
            let limits = AutoscalerLimits { min, max, resource_version: version.map(str::to_owned) };
            limits.check().map_err(|error| error.context.fields[0].name.clone())
        };
        assert_eq!(check(1, 1, None), Ok(()));
        assert_eq!(check(2, 10, Some("184467")), Ok(()));
        assert_eq!(check(0, 10, None), Err("min".to_owned()));
        assert_eq!(check(3, 2, None), Err("max".to_owned()));
        assert_eq!(check(1, 2, Some("")), Err("resource_version".to_owned()));
    }
}

//! Changes of jobs, pods, autoscalers and nodes of the fake clusters, and the owners of objects.

use async_trait::async_trait;
use serde_json::{Value, json, value::RawValue};

use super::{FakeClusters, Key, lock, not_found, raw};
use crate::{
    access::Permit,
    autoscaler::AutoscalerRow,
    autoscaler_limits::{AutoscalerApi, AutoscalerLimits},
    cordon::NodeApi,
    dependents::{Dependee, DependentApi, OwnedObject},
    error::{Cause, Error, Result},
    gate::{Changed, Warning},
    job::{JobApi, NewJob},
    kind::Kind,
    name::{ObjectName, Uid},
    node::NodeRow,
    object::parse,
    pod::PodRow,
    pod_change::{PodChangeApi, PodIdentity, Resize},
    workload::WorkloadRow,
};

impl FakeClusters {
    /// Sets a field of an object. Returns the object, and the warning `Unchanged` if the field has the value already.
    fn set_field(&self, key: &Key, field: &str, value: Value) -> Result<(Box<RawValue>, Vec<Warning>)> {
        let mut warnings = Vec::new();
        let object = self.change(key, |object| {
            let field = &mut object["spec"][field];
            if *field == value || (field.is_null() && value == json!(false)) {
                warnings.push(Warning::Unchanged);
            }
            *field = value;
            Ok(())
        })?;
        Ok((object, warnings))
    }

    /// Creates a Job from the permit's object.
    fn create_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
        make: fn(&RawValue, &ObjectName) -> Result<NewJob>,
    ) -> Result<Changed<WorkloadRow>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let source = self.find(&key)?.ok_or_else(|| not_found(&key))?;
        let NewJob { manifest, beside } = make(&source, job)?;
        let (cluster, _, namespace, _) = key;
        let created = self.insert((cluster, Kind::Job, namespace, job.to_string()), manifest)?;
        let warnings = beside.into_iter().map(Warning::RunsBeside).collect();
        Ok(Changed { value: WorkloadRow::project(Kind::Job, &created)?, warnings })
    }

    /// The key of a pod that has this uid.
    fn pod_key(&self, permit: &Permit, name: &ObjectName, uid: &Uid) -> Result<Key> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let pod = self.find(&key)?.ok_or_else(|| not_found(&key))?;
        if PodIdentity::project(&pod)?.uid == uid.as_str() {
            Ok(key)
        } else {
            Err(Error { cause: Cause::Modified, ..not_found(&key) })
        }
    }
}

#[async_trait]
impl JobApi for FakeClusters {
    async fn suspend_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        suspend: bool,
    ) -> Result<Changed<WorkloadRow>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let (object, warnings) = self.set_field(&key, "suspend", suspend.into())?;
        Ok(Changed { value: WorkloadRow::project(key.1, &object)?, warnings })
    }

    async fn run_cron_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>> {
        self.create_job(permit, name, job, NewJob::of_cron_job)
    }

    async fn rerun_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>> {
        self.create_job(permit, name, job, NewJob::of_job)
    }
}

#[async_trait]
impl PodChangeApi for FakeClusters {
    async fn identify_pod(&self, permit: &Permit, name: &ObjectName) -> Result<Option<PodIdentity>> {
        self.call(permit, name.as_str())?;
        let pod = self.find(&Self::key(permit, name)?)?;
        pod.map(|pod| PodIdentity::project(&pod)).transpose()
    }

    async fn delete_pod(&self, permit: &Permit, name: &ObjectName, uid: &Uid, _: Option<u32>) -> Result<()> {
        let key = self.pod_key(permit, name, uid)?;
        self.remove(&key)
    }

    async fn evict_pod(&self, permit: &Permit, name: &ObjectName, uid: &Uid) -> Result<()> {
        let key = self.pod_key(permit, name, uid)?;
        self.remove(&key)
    }

    async fn resize_pod(
        &self,
        permit: &Permit,
        name: &ObjectName,
        uid: &Uid,
        resize: &Resize,
    ) -> Result<Changed<PodRow>> {
        let key = self.pod_key(permit, name, uid)?;
        let pod = self.change(&key, |pod| {
            let containers = pod["spec"]["containers"].as_array_mut();
            let mut containers = containers.into_iter().flatten();
            let container = containers.find(|container| container["name"] == resize.container.as_str());
            let container = container.ok_or_else(|| not_found(&key).resource("container"))?;
            for (name, amounts) in [("requests", &resize.requests), ("limits", &resize.limits)] {
                for (resource, amount) in amounts.iter() {
                    container["resources"][name][resource] = amount.as_str().into();
                }
            }
            Ok(())
        })?;
        Ok(PodRow::project(parse(&pod)?).into())
    }
}

#[async_trait]
impl AutoscalerApi for FakeClusters {
    async fn limit_autoscaler(
        &self,
        permit: &Permit,
        name: &ObjectName,
        limits: &AutoscalerLimits,
    ) -> Result<Changed<AutoscalerRow>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let AutoscalerLimits { min, max, resource_version } = limits;
        let object = self.change(&key, |object| {
            let version = &object["metadata"]["resourceVersion"];
            if resource_version.as_ref().is_some_and(|expected| *version != **expected) {
                return Err(Error { cause: Cause::Modified, ..not_found(&key) });
            }
            object["spec"]["minReplicas"] = min.get().into();
            object["spec"]["maxReplicas"] = max.get().into();
            Ok(())
        })?;
        Ok(AutoscalerRow::project(parse(&object)?).into())
    }
}

#[async_trait]
impl DependentApi for FakeClusters {
    async fn dependee(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Dependee>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        self.find(&key)?.map(|object| Dependee::project(key.1, &object)).transpose()
    }

    async fn owned_objects(&self, permit: &Permit) -> Result<Option<Vec<OwnedObject>>> {
        let (cluster, kind, scope) = (permit.cluster()?, permit.kind()?, permit.namespace()?.as_str());
        self.call(permit, scope)?;
        let objects = lock(&self.objects);
        let listed = objects
            .iter()
            .filter(|((of, found, namespace, _), _)| (*of, *found, &**namespace) == (cluster, kind, scope));
        let project = match kind {
            Kind::StatefulSet => OwnedObject::project_stateful_set,
            _ => OwnedObject::project,
        };
        let owned = listed.map(|(_, object)| project(&raw(object)?));
        owned.collect::<Result<_>>().map(Some)
    }
}

#[async_trait]
impl NodeApi for FakeClusters {
    async fn cordon_node(
        &self,
        permit: &Permit,
        name: &ObjectName,
        unschedulable: bool,
    ) -> Result<Changed<NodeRow>> {
        self.call(permit, name.as_str())?;
        let key = (permit.cluster()?, permit.kind()?, String::new(), name.to_string());
        let (object, warnings) = self.set_field(&key, "unschedulable", unschedulable.into())?;
        Ok(Changed { value: NodeRow::project(parse(&object)?), warnings })
    }
}

//! Usage of CPU and memory in fake clusters.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{FakeClusters, lock};
use crate::{
    access::Permit,
    error::Result,
    gate::Warning,
    ids::ClusterId,
    kind::Kind,
    name::ObjectName,
    usage::{KnownUsage, Subject, UsageApi, UsageSeries},
};

impl FakeClusters {
    /// Sets what is known of the usage in a cluster.
    pub fn measure(&self, cluster: ClusterId, usage: KnownUsage) {
        lock(&self.usage).insert(cluster, usage);
    }
}

#[async_trait]
impl UsageApi for FakeClusters {
    async fn known(&self, permit: &Permit) -> KnownUsage {
        let usage = lock(&self.usage);
        permit.cluster().ok().and_then(|cluster| usage.get(&cluster).cloned()).unwrap_or_default()
    }

    async fn series(
        &self,
        permit: &Permit,
        name: &ObjectName,
    ) -> Result<Option<(UsageSeries, Option<Warning>)>> {
        self.call(permit, name.as_str())?;
        let (cluster, kind) = (permit.cluster()?, permit.kind()?);
        let namespace = permit.namespace().map(ToString::to_string).unwrap_or_default();
        if !lock(&self.objects).contains_key(&(cluster, kind, namespace.clone(), name.to_string())) {
            return Ok(None);
        }
        let KnownUsage { table, warning } = self.known(permit).await;
        let subject = match kind {
            Kind::Node => Subject::Node { name: name.as_str() },
            _ => Subject::Pod { namespace: &namespace, name: name.as_str() },
        };
        let points = table.get(subject).into_iter().collect();
        Ok(Some((UsageSeries { from: Timestamp::UNIX_EPOCH, points }, warning)))
    }
}

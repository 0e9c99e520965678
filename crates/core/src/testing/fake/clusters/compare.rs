//! Objects of the fake clusters that are compared.

use async_trait::async_trait;
use futures_util::future;
use serde_json::value::RawValue;

use super::{Condition, FakeClusters, lock};
use crate::{
    access::Permit,
    compare::CompareApi,
    error::{Error, Result},
    name::ObjectName,
};

#[async_trait]
impl CompareApi for FakeClusters {
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>> {
        self.call(permit, name.as_str())?;
        let condition = lock(&self.conditions).get(&permit.cluster()?).copied();
        match condition {
            Some(Condition::Failing(cause)) => Err(Error::new(cause)),
            Some(Condition::Hanging) => future::pending().await,
            Some(Condition::Cached { .. }) | None => self.find(&Self::key(permit, name)?),
        }
    }
}

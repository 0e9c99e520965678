//! [`CompareApi`]: reads the workloads that are compared.

use async_trait::async_trait;
use pilothouse_core::{Cause, Error, Result, access::Permit, compare::CompareApi, name::ObjectName};
use serde_json::value::RawValue;

use crate::{KubeClusters, workload::MAX_MANIFEST_BYTES};

#[async_trait]
impl CompareApi for KubeClusters {
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>> {
        let object = self.object(permit, permit.kind()?, name, self.deadlines().read).await?;
        let read = |object: &RawValue| {
            if object.get().len() > MAX_MANIFEST_BYTES {
                return Err(Error::new(Cause::TooLarge));
            }
            Ok(object.to_owned())
        };
        object.find(read).await
    }
}
